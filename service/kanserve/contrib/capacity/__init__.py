"""Capacity planning: load on a server, the measured curve, and the number of replicas for a goal."""
