"""All that exporter and server share: manifest, numbers on disk, safe files, and the command-line kit.

This folder imports nothing from the rest of kanexport. The server image keeps only this folder.
"""
