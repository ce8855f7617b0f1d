"""From a checkpoint to the reader that knows its library, or from a list of steps to a network."""
