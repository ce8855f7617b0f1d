"""kanexport: a checkpoint becomes a Kan, a Kan becomes a graph, the graph is
proved, the proof is packed.

The page to read first is `kanexport/export.py`. The service shares one file
with this package, `kanexport/manifest.py`, and a folder on disk.
"""
