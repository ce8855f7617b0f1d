"""Intermediate representation of a KAN: layers of edges, and the steps around them."""
