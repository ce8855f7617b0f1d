"""From the tensors of one library to a `Kan`: one file a library, and nothing else.

A reader module has `FAMILY` and one of two forms:

* layer by layer: `KEYS`, the tensors of a layer, and `layer(part, options) -> Layer`;
  `fits(part) -> bool` where shapes have to tell it from another library. Finding the
  layers, their order and what stands between them is common to all (`recognise/registry.py`, `layers/`).
* whole: `matches(checkpoint) -> str` (why it fits, or empty) and
  `read(checkpoint, options) -> Kan`.

A module of a library with many kinds of layers has `FAMILIES` instead, objects with all
that. Adding a library is adding a file.
"""
