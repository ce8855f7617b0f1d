"""Export of PyTorch modules with KAN layers, through torch.export. The only package that imports torch.

module_command     `kanserve export --module`; api: the same from Python
inputs             example rows from an array, a file or a shape
borrowed_module    the user's module, patched for a while and restored
capture            the module as the reference: recorded inputs and outputs of its layers
kan_candidates     submodules that may be KAN layers; match: the interpretation of each
replacement_plan   the recognized layers, and where they run
trace, splice      the torch.onnx graph with a placeholder per layer, then the lowered layer in its place
convert            the whole sequence, verified against the module and published
"""
