"""Checks of Kubernetes manifests without a cluster: schemas, references between objects, names of settings."""
