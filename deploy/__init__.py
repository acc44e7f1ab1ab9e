"""Installs and upgrades a release of the chart, and takes back what does not serve."""
