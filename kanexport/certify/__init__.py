"""Certificates of a network: guaranteed output ranges, directions and Lipschitz bounds over a box of inputs."""
