"""Readers, one file per library: they turn the tensors of a library into a `Kan`.

Adding a library is adding a file, which nothing else names: `detection/registry.py` finds
it. A reader module must define one of these three sets of names.

Layer by layer, for most libraries. Finding the layers, their order and what stands between
them is common to all (`detection/registry.py`, `readers/common/chain.py`, `readers/common/order.py`):

* `FAMILY: str`, the name for --family and the manifest;
* `KEYS: Keys`, the tensors of one layer, relative to its prefix, each with its number of axes;
* `layer(part: Part, options: Options) -> Layer`, which takes tensors with `part.tensor(name, *shape)`;
* `fits(part: Part) -> bool`, only where another library has the same keys and shapes must tell.

      FAMILY = "chebykan"
      KEYS = Keys(required={"cheby_coeffs": 3}, optional={"arange": 1})

Whole, where a checkpoint is more than a stack of layers (pykan, GR-KAN):

* `FAMILY: str`;
* `MARK: str`, the end of a key that every such file has; without it, `matches` is not called;
* `matches(checkpoint: Checkpoint) -> str`, why it fits, such as "act_fun.0.coef has three axes", or empty;
* `read(checkpoint: Checkpoint, options: Options) -> Kan`.

Several families of one library (OrthogPolyKANs, torch-conv-kan, torchkan):

* `FAMILIES`, a tuple of objects that have the names of one of the sets above as attributes;
  for layers there is `readers.common.chain.LayerKind(FAMILY, KEYS, layer)`.

All of them raise InvalidKan for numbers that are no KAN, and OptionError for options that do
not fit; the caller adds the layer and the file. The library's equation and source stand in
the module's docstring.
"""
