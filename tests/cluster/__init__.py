"""Tests against a Kubernetes cluster with KServe: `make test-cluster`."""
