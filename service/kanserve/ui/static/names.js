// Names of inputs, outputs and nodes, and the nodes at the two ends of an edge.

/** What the number `at` of a row is called. */
export function feature(model, at) {
  return model.features?.[at] || `x${at}`;
}

export function unit(model, at) {
  return model.units?.[at] ?? '';
}

/** What the number `at` of an answer is called. */
export function output(model, at) {
  return model.classes?.[at] || `y${at}`;
}

/** Numbers of a row of the model's only input, and of an answer. */
export function width(tensor) {
  return tensor.shape.slice(1).reduce((product, extent) => product * extent, 1);
}

/** A flat list of numbers as the lists within lists that a tensor's shape asks for, without the batch. */
export function shaped(flat, shape) {
  const own = shape.slice(1);
  if (own.length < 2) return [...flat];
  const inner = flat.length / own[0];
  return Array.from({ length: own[0] }, (_, at) => shaped(flat.slice(at * inner, (at + 1) * inner), [0, ...own.slice(1)]));
}

/** Which node of those that the layer is given a source reads. */
export function nodeOfSource(layer, source) {
  const chosen = layer.pre_steps?.find((step) => step.kind === 'select');
  return chosen ? chosen.indices[source] : source;
}

/** Which node of the next layer, or of the answer, a destination goes into; null where the layer's steps leave it out. */
export function nodeOfDestination(layer, destination) {
  let at = destination;
  for (const step of layer.post_steps ?? []) {
    if (step.kind === 'product') {
      let first = 0;
      at = step.indices.findIndex((factors) => { first += factors; return at < first; });
    } else if (step.kind === 'select') {
      at = step.indices.indexOf(at);
    }
    if (at < 0) return null;
  }
  return at;
}

/** Whether the first layer reads the numbers of a row as they are. */
export function ofInputs(model) {
  return model.family !== 'hybrid' && (model.inputs?.length ?? 1) === 1;
}

/** What a node of a layer is called; layer: its index, one beyond the last for the answer. */
export function node(model, layer, at) {
  if (layer === 0 && ofInputs(model)) return feature(model, at);
  if (layer === model.layers.length) return output(model, at);
  return `node ${at} of layer ${layer}`;
}
