"""Files as data: which files make a checkpoint, and one module for each file format. Nothing in a file is executed.

A limit stands in the module where it binds, in any folder of kanexport's reading side, and its
name carries its unit: MAX_..._BYTES, MAX_..._CHARACTERS, MAX_..._DEPTH (levels of nesting) and
MAX_..._MAGNITUDE (of a number), while ..._LIMIT counts what its first word names (TENSOR_LIMIT: tensors).
"""
