"""The whole matrix of speeds, as one command: `make bench`.

cells       a case (one network) and its cells (so many rows, so many threads), measured by what `kanserve bench` has
record      what was measured before, for this commit on this machine
module      the network of the matrix in torch, its checkpoint, and what torch exports of it
contestants who takes part: one function each
groups      which networks, one file a group: the place for a new one
goals       what is aimed at, and whether it was reached
report      tables; plot: pictures; pages: where both go
"""
