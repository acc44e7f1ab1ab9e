"""Figures for the documentation, measured side by side with what they are compared with."""
