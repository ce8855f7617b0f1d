"""A user's own model timed on this machine, beside others, every time with its error.

size       how many parameters a model has, and how wide an MLP of as many is
mlp        that MLP as a graph
eager      the same layers in torch, in efficient-kan's form, rebuilt from their edges
rows       what is run: rows given, or drawn inside the grids
entrants   who takes part, how each is run, and what its answers should be
turns      times of calls, in turns, and figures of them
contest    all of it, for every number of threads and rows
machine    where it was measured, and when
"""
