// Names of inputs, outputs, nodes and verifications, and the nodes at the two ends of an edge.

import { number } from './format.js';

/** Basis of a verification -> its short name, and the color of the entry. */
export const BASES = { reading: ['checkpoint', 'fair'], 'expected-outputs': ['trained model', 'good'],
  'chosen-tolerance': ['trained model, within a tolerance you chose', 'fair'], module: ['PyTorch module', 'good'],
  edited: ['edited network', 'fair'] };

/** The name of input `at` of a row. */
export function feature(model, at) {
  return model.features?.[at] || `x${at}`;
}

export function unit(model, at) {
  return model.units?.[at] ?? '';
}

/** The name of output `at`. */
export function output(model, at) {
  return model.classes?.[at] || `y${at}`;
}

/** The count of values in a row of a tensor. */
export function width(tensor) {
  return tensor.shape.slice(1).reduce((product, extent) => product * extent, 1);
}

/** Nests a flat list of numbers by the shape of a tensor, without the batch axis. */
export function shaped(flat, shape) {
  const own = shape.slice(1);
  if (own.length < 2) return [...flat];
  const inner = flat.length / own[0];
  return Array.from({ length: own[0] }, (_, at) => shaped(flat.slice(at * inner, (at + 1) * inner), [0, ...own.slice(1)]));
}

/** The input node of a layer that a source reads. */
export function nodeOfSource(layer, source) {
  const chosen = layer.pre_steps?.find((step) => step.kind === 'select');
  return chosen ? chosen.indices[source] : source;
}

/** The value that the edges of a source read, as an expression of its node: "(age - 40) / 12" with a scaler of the inputs. */
export function valueOfSource(layer, source, name) {
  const scaler = layer.pre_steps?.find((step) => step.kind === 'standardize');
  if (!scaler) return name;
  const at = nodeOfSource(layer, source);
  const [offset, scale] = [scaler.bias[at], scaler.scale[at]];
  return `((${name} ${offset < 0 ? '+' : '-'} ${number(Math.abs(offset), 9)}) / ${number(scale, 9)})`;
}

/** The scale of an output that a scaler restores: one unit of an edge of the last layer in the user's units. 1 without one. */
export function outputScale(model, layer, at) {
  return layer === model.layers.length - 1 && at !== null ? model.output_scaler?.scale?.[at] ?? 1 : 1;
}

/** The node of the next layer, or the output, that a destination is part of; null if a step of the layer drops it. */
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

/** Whether the first layer reads the values of a row unchanged. */
export function ofInputs(model) {
  return model.family !== 'hybrid' && (model.inputs?.length ?? 1) === 1;
}

/** The name of a node; layer: its index, and for an output the count of layers. */
export function node(model, layer, at) {
  if (layer === 0 && ofInputs(model)) return feature(model, at);
  if (layer === model.layers.length) return output(model, at);
  return `node ${at} of layer ${layer}`;
}
