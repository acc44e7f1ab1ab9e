"""What can be built on the service, in a few lines each."""
