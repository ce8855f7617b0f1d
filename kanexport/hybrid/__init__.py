"""A torch module with KAN layers in it becomes a served model.

    lend.py        the user's module itself, changed for a while and given back as it was
    capture.py     the module run as it is, with what goes into and out of its layers
    recognise.py   which submodules are KAN layers, and what they mean (`Kan`)
    facts.py       what attributes and calls tell of a layer, where its tensors do not
    forms.py       how a layer's rows lie in the tensors it takes and gives
    plan.py        the layers found, where they run, and what is refused
    trace.py       the module without them, through torch.onnx, with a placeholder for each
    splice.py      the placeholders replaced by our lowering
    convert.py     the page: all of this, proved against the module, packed
    api.py         `kanexport.export`; command.py: `--module`; guess.py: the shape of its rows
    faults.py      what went wrong in the user's code, and where

The only package that imports torch, which is an extra.
"""
