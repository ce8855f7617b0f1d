"""A torch module with KAN layers in it becomes a served model.

    recognise.py   which submodules are KAN layers, and what they mean (`Kan`)
    capture.py     the module run as it is, with what goes into and out of those layers
    trace.py       the module without them, through torch.onnx, with a placeholder for each
    splice.py      the placeholders replaced by our lowering
    convert.py     the page: all of this, proved against the module, packed

The only package that imports torch, which is an extra.
"""
