"""Shared parts of readers: tensors of a layer, chains of layers, their order."""
