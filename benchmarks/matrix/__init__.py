"""Benchmark matrix of exported networks against other runtimes, as one command: `make bench`.

cells       a case (one network) and its cells (a batch size and a number of threads), measured as `kanserve bench` does
record      the stored measurements for this commit on this machine
module      the network of the matrix in torch, its checkpoint, and torch's own export of it
contestants the systems compared: one function per system
groups      the networks, one file per group; a new group is a new file
goals       the speed targets, and whether the measurements meet them
report      tables; plot: pictures; pages: where both go
"""
