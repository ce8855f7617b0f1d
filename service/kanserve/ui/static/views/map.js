// The network as a whole.

import { el, table } from '../dom.js';
import { count } from '../format.js';

export async function show(root, { model }) {
  root.append(el('h1', {}, `${model.model_name}, version ${model.model_version}`));
  if (model.description) root.append(el('p', {}, model.description));
  root.append(layers(model));
  return undefined;
}

function layers(model) {
  return table([
    { name: 'Layer', value: (layer) => layer.index, number: true },
    { name: 'Name', value: (layer) => layer.name },
    { name: 'Sources', value: (layer) => layer.sources, number: true },
    { name: 'Destinations', value: (layer) => layer.destinations, number: true },
    { name: 'Edges that can add something', value: (layer) => layer.active_edges, text: (layer) => count(layer.active_edges), number: true },
    { name: 'Functions', value: (layer) => layer.bases.map((basis) => basis.kind).join(', ') },
    { name: 'Class', value: (layer) => layer.edge_class || model.edge_class },
  ], model.layers, { caption: 'Layers', file: `${model.model_name}-layers` });
}
