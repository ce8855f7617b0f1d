// Edges of a described model as arrays: kind, importance, curves, and the search over them.

import { ApiError } from './api.js';
import * as names from './names.js';
import { extent } from './svg.js';

export const [NONE, NUMERIC, SYMBOLIC, BOTH] = [0, 1, 2, 3];
export const KINDS = ['adds nothing', 'numeric', 'symbolic', 'both'];
export const CLASSES = ['none', 'numeric', 'symbolic', 'both'];
const MANY = 120; // edges of a layer
const THRESHOLD = 0.05; // of its values that a node may have outside before it glows

/** Edges are numbered source * destinations + destination, as everywhere. */
export class Layer {
  constructor(model, at) {
    const told = model.layers[at];
    Object.assign(this, { at, model, told, sources: told.sources, destinations: told.destinations });
    this.size = this.sources * this.destinations;
    this.kinds = kinds(told);
    this.scores = null;
    this.nodeScores = null;
    this.curved = (told.edge_class || model.edge_class) === 'A';
    this.outOfGrid = null; // of the nodes that it is given
  }

  /** 0 to 1: how dark an edge is drawn. pykan's rule; of many edges, whose scores are all small, the share of the
   * largest. */
  darkness(edge) {
    if (!this.kinds[edge]) return 0;
    if (!this.scores) return 0.6;
    const score = Math.abs(this.scores[edge]);
    if (Number.isNaN(score)) return 1;
    return this.size <= MANY ? Math.tanh(3 * score) : score / this.largest;
  }

  source(edge) { return Math.floor(edge / this.destinations); }

  destination(edge) { return edge % this.destinations; }

  nodeOf(source) { return names.nodeOfSource(this.told, source); }

  into(destination) { return names.nodeOfDestination(this.told, destination); }

  sourceName(source) { return names.node(this.model, this.at, this.nodeOf(source)); }

  destinationName(destination) {
    const node = this.into(destination);
    return node === null ? `sum ${destination}` : names.node(this.model, this.at + 1, node);
  }

  edgeName(edge) { return `${this.sourceName(this.source(edge))} \u2192 ${this.destinationName(this.destination(edge))}`; }

  /** How many nodes it is given. */
  get nodes() { return this.nodeScores?.length || Math.max(this.sources, ...(this.told.pre_steps ?? []).flatMap((step) => (step.kind === 'select' ? step.indices.map((one) => one + 1) : []))); }

  glows(node) { return (this.outOfGrid?.[node] ?? 0) > THRESHOLD; }
}

function kinds(told) {
  const found = new Uint8Array(told.sources * told.destinations);
  if (told.mask?.length) for (let edge = 0; edge < found.length; edge += 1) found[edge] = told.mask[edge] === 0 ? NONE : NUMERIC;
  else if (told.bases.length) found.fill(NUMERIC);
  for (const { source, destination, mask } of told.symbolic ?? []) if (mask !== 0) found[source * told.destinations + destination] |= SYMBOLIC;
  return found;
}

/** Of a node's name what is not said by where it is drawn. */
export function brief(name) {
  return name.replace(/^(node \d+) of layer \d+$/, '$1');
}

export function layersOf(model) {
  return model.layers.map((_, at) => new Layer(model, at));
}

const OVER = {
  live: (rows) => `over ${rows} of the traffic`,
  baseline: (rows) => `over the baseline: ${rows} that the export was given`,
  reference: (rows) => `over the ${rows} that the export was tried on, which were drawn and are no data`,
};

/** Sets the importance of each edge. source: 'best', the baseline if the export has one, otherwise its own rows; or 'live'. Resolves to a text about it; rejects with ApiError. */
export async function score(layers, { api, kan }, source) {
  const found = await api.post(`${kan}/scores`, { source }, { packed: true });
  for (const one of found.layers) {
    layers[one.layer].scores = one.edges ?? null;
    layers[one.layer].largest = Math.max(...extent(one.edges ?? []).map(Math.abs)) || 1;
    layers[one.layer].nodeScores = one.nodes ?? null;
  }
  return [OVER[found.source](`${found.row_count} rows`), ...(found.notes ?? [])].join('; ');
}

/** Sets which share of each node's values was outside its grid; `seen` are the lines of `nodes.js`. */
export function glow(layers, seen) {
  for (const layer of layers) layer.outOfGrid = [];
  for (const { layer, at, zones, origin } of seen) {
    const all = zones ? zones[0] + zones[1] + zones[2] : 0;
    if (layers[layer] && all && origin !== 'drawn') layers[layer].outOfGrid[at] = zones[2] / all;
  }
}

/**
 * Edges of a layer that a viewer wants, as numbers. wanted: {text: part of the name of either end, kind: '' or a kind's
 * number, least: darkness}.
 */
export function chosen(layer, { text = '', kind = '', least = 0 }) {
  const part = text.trim().toLowerCase();
  const fits = (count, name) => Array.from({ length: count }, (_, at) => !part || name(at).toLowerCase().includes(part));
  const sources = fits(layer.sources, (at) => layer.sourceName(at));
  const destinations = fits(layer.destinations, (at) => layer.destinationName(at));
  const found = new Uint32Array(layer.size);
  let size = 0;
  for (let source = 0, edge = 0; source < layer.sources; source += 1) {
    for (let destination = 0; destination < layer.destinations; destination += 1, edge += 1) {
      const each = layer.kinds[edge];
      if (kind === '' ? each === NONE : each !== Number(kind)) continue;
      if (part && !sources[source] && !destinations[destination]) continue;
      if (least > 0 && layer.darkness(edge) < least) continue;
      found[size] = edge;
      size += 1;
    }
  }
  return found.subarray(0, size);
}

/**
 * The same edges, the strongest first. A million are sorted in a tenth of a second: score and number are one 64-bit float,
 * since positive floats have the order of their bits.
 */
export function strongest(layer, edges) {
  if (!layer.scores) return edges;
  const bits = new Uint32Array(2 * edges.length);
  const score = new Float32Array(1);
  const upper = new Uint32Array(score.buffer);
  for (let at = 0; at < edges.length; at += 1) {
    score[0] = Math.abs(layer.scores[edges[at]]) || 0;
    bits[2 * at] = edges[at];
    bits[2 * at + 1] = upper[0];
  }
  new Float64Array(bits.buffer).sort();
  const found = new Uint32Array(edges.length);
  for (let at = 0; at < found.length; at += 1) found[at] = bits[2 * (found.length - 1 - at)];
  return found;
}

/** Curves of a layer's edges: a Map of edge -> {x, phi}; of edges that are no curves an empty one. */
export async function curves(layer, { api, kan }, sources, destinations, points, signal) {
  const found = new Map();
  if (!layer.curved) return found;
  try {
    const { blocks } = await api.post(`${kan}/curves`, { layers: [layer.at], sources, destinations, points }, { packed: true, signal });
    for (const block of blocks) {
      block.sources.forEach((source, i) => block.destinations.forEach((destination, j) => {
        const from = (i * block.destinations.length + j) * block.points;
        found.set(source * layer.destinations + destination, {
          x: block.x.subarray(i * block.points, (i + 1) * block.points), phi: block.phi.subarray(from, from + block.points),
        });
      }));
    }
  } catch (error) {
    if (!(error instanceof ApiError) || ![400, 413, 501].includes(error.status)) throw error;
  }
  return found;
}
