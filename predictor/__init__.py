"""Pixels to class probabilities and an embedding."""
