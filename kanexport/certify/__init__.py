"""Certificates of a network: proven output ranges, directions and Lipschitz bounds over a box of inputs."""
