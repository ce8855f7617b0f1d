"""What readers share: the tensors of a layer, the chain of layers, the order between them."""
