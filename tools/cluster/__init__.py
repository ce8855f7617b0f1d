"""Cluster of processes on one machine, from a rendered chart: kubelet, Deployment controller, gateway and clients."""
