"""Bundles: one version in a model repository, with its manifest, graphs and baseline."""
