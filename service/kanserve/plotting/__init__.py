"""Plots of a network, an edge or throughput, as SVG, PNG or characters."""
