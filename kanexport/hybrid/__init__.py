"""A torch module with KAN layers in it becomes a served model.

    lend.py        the user's module itself, changed for a while and given back as it was
    inputs.py      what a module takes: rows from an array, a file or a shape
    capture.py     the module run as it is, with what goes into and out of its layers
    recognise.py   which submodules may be KAN layers, by their tensors
    judge.py       what each of them means (`Kan`): the reading that computes what it computed
    additive.py    the search for layers that no reader knows and whose answers add up; sampled.py: such a layer
    facts.py       what attributes and calls tell of a layer, where its tensors do not
    forms.py       how a layer's rows lie in the tensors it takes and gives
    independence.py  modules whose rows depend on each other are refused
    plan.py        the layers that were recognised, and where they run
    trace.py       the module without them, through torch.onnx, with a placeholder for each
    branches.py    what a forward asks of its own weights is answered while it is traced
    bodies.py      what goes into each call of a layer, and its edge graphs; zones.py: rows of the proof
    splice.py      the placeholders replaced by our lowering
    convert.py     the page: all of this, proved against the module, packed
    api.py         `kanexport.export`, from Python
    command.py     `kanserve export --module`; weights.py: a checkpoint into the module;
                   guess.py: the shape of its rows, by trying
    faults.py      the boundary to code that is not ours, and what its errors say

The only package that imports torch, which is an extra.
"""
