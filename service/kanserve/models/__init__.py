"""Loaded models and their lifecycle: admission, registry, reconciler, shadow."""
