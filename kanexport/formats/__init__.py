"""File formats of checkpoints, read as data. No module executes anything from a file.

A limit stands in the module that enforces it. Its name carries the unit: MAX_..._BYTES, MAX_..._CHARACTERS,
MAX_..._DEPTH (levels of nesting), MAX_..._MAGNITUDE (of a number). ..._LIMIT counts the noun in front of it
(TENSOR_LIMIT: tensors).
"""
