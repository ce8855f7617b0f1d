// Edges of a described model as arrays: kind, importance, curves, and the search over them.

import { ApiError } from './api.js';
import * as names from './names.js';
import { extent } from './svg.js';

export const [NONE, NUMERIC, SYMBOLIC, BOTH] = [0, 1, 2, 3];
export const KINDS = ['inactive', 'numeric', 'symbolic', 'both'];
export const CLASSES = ['none', 'numeric', 'symbolic', 'both'];
const MANY = 120; // edges of a layer
const THRESHOLD = 0.05; // share of out-of-grid values above which a node has a ring

/** The edges of a layer. An edge has the number source * destinations + destination. */
export class Layer {
  constructor(model, at) {
    const info = model.layers[at];
    Object.assign(this, { at, model, info, sources: info.sources, destinations: info.destinations });
    this.size = this.sources * this.destinations;
    this.kinds = kinds(info);
    this.scores = null;
    this.nodeScores = null;
    this.curved = (info.edge_class || model.edge_class) === 'A';
    this.outOfGrid = null; // share per source node
  }

  /** The opacity of an edge, 0 to 1, by pykan's rule. In a large layer, where all scores are small, it is the share of
   * the largest score. */
  darkness(edge) {
    if (!this.kinds[edge]) return 0;
    if (!this.scores) return 0.6;
    const score = Math.abs(this.scores[edge]);
    if (Number.isNaN(score)) return 1;
    return this.size <= MANY ? Math.tanh(3 * score) : score / this.largest;
  }

  source(edge) { return Math.floor(edge / this.destinations); }

  destination(edge) { return edge % this.destinations; }

  nodeOf(source) { return names.nodeOfSource(this.info, source); }

  into(destination) { return names.nodeOfDestination(this.info, destination); }

  sourceName(source) { return names.node(this.model, this.at, this.nodeOf(source)); }

  destinationName(destination) {
    const node = this.into(destination);
    return node === null ? `sum ${destination}` : names.node(this.model, this.at + 1, node);
  }

  edgeName(edge) { return `${this.sourceName(this.source(edge))} \u2192 ${this.destinationName(this.destination(edge))}`; }

  /** The number of source nodes. */
  get nodes() { return this.nodeScores?.length || Math.max(this.sources, ...(this.info.pre_steps ?? []).flatMap((step) => (step.kind === 'select' ? step.indices.map((index) => index + 1) : []))); }

  glows(node) { return (this.outOfGrid?.[node] ?? 0) > THRESHOLD; }
}

function kinds(info) {
  const result = new Uint8Array(info.sources * info.destinations);
  if (info.mask?.length) for (let edge = 0; edge < result.length; edge += 1) result[edge] = info.mask[edge] === 0 ? NONE : NUMERIC;
  else if (info.bases.length) result.fill(NUMERIC);
  for (const { source, destination, mask } of info.symbolic ?? []) if (mask !== 0) result[source * info.destinations + destination] |= SYMBOLIC;
  return result;
}

/** Shortens the name of a node: its row in the picture shows the layer. */
export function brief(name) {
  return name.replace(/^(node \d+) of layer \d+$/, '$1');
}

export function layersOf(model) {
  return model.layers.map((_, at) => new Layer(model, at));
}

const OVER = {
  live: (rows) => `computed on ${rows} rows of live traffic`,
  baseline: (rows) => `computed on the baseline (${rows} rows)`,
  reference: (rows) => `computed on ${rows} synthetic verification rows, not on your data`,
  rows: (rows) => `computed on ${rows} rows over the ranges of the inputs, not on your data`,
};

/** Sets the importance of each edge, and resolves to a text about its rows. source: 'best' for the baseline, or without
 * a baseline for the verification rows; or 'live'; or a list of rows. Rejects with ApiError. */
export async function score(layers, { api, kan }, source) {
  const result = await api.post(`${kan}/scores`, Array.isArray(source) ? { rows: source } : { source }, { packed: true });
  for (const one of result.layers) {
    layers[one.layer].scores = one.edges ?? null;
    layers[one.layer].largest = Math.max(...extent(one.edges ?? []).map(Math.abs)) || 1;
    layers[one.layer].nodeScores = one.nodes ?? null;
  }
  return [OVER[result.source](result.row_count), ...(result.notes ?? [])].join('; ');
}

/** Sets the out-of-grid share of each node. `seen`: the records of `nodes.js`. */
export function glow(layers, seen) {
  for (const layer of layers) layer.outOfGrid = [];
  for (const { layer, at, zones, origin } of seen) {
    const all = zones ? zones[0] + zones[1] + zones[2] : 0;
    if (layers[layer] && all && origin !== 'drawn') layers[layer].outOfGrid[at] = zones[2] / all;
  }
}

/**
 * Selects edges of a layer, and returns their numbers. filter: {text: part of the name of either end, kind: '' or the
 * number of a kind, least: the smallest opacity}.
 */
export function chosen(layer, { text = '', kind = '', least = 0 }) {
  const part = text.trim().toLowerCase();
  const fits = (size, name) => Array.from({ length: size }, (_, at) => !part || name(at).toLowerCase().includes(part));
  const sources = fits(layer.sources, (at) => layer.sourceName(at));
  const destinations = fits(layer.destinations, (at) => layer.destinationName(at));
  const result = new Uint32Array(layer.size);
  let size = 0;
  for (let source = 0, edge = 0; source < layer.sources; source += 1) {
    for (let destination = 0; destination < layer.destinations; destination += 1, edge += 1) {
      const each = layer.kinds[edge];
      if (kind === '' ? each === NONE : each !== Number(kind)) continue;
      if (part && !sources[source] && !destinations[destination]) continue;
      if (least > 0 && layer.darkness(edge) < least) continue;
      result[size] = edge;
      size += 1;
    }
  }
  return result.subarray(0, size);
}

/**
 * Sorts edges by importance, the largest first. Score and number of an edge are one 64-bit float, because positive
 * floats have the order of their bits. This sorts a million edges in about 100 ms.
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
  const result = new Uint32Array(edges.length);
  for (let at = 0; at < result.length; at += 1) result[at] = bits[2 * (result.length - 1 - at)];
  return result;
}

/** Resolves to the curves of edges, as a Map of edge -> {x, phi}. The Map is empty if the edges are not curves. */
export async function curves(layer, { api, kan }, sources, destinations, points, signal) {
  const result = new Map();
  if (!layer.curved) return result;
  try {
    const { blocks } = await api.post(`${kan}/curves`, { layers: [layer.at], sources, destinations, points }, { packed: true, signal });
    for (const block of blocks) {
      block.sources.forEach((source, i) => block.destinations.forEach((destination, j) => {
        const from = (i * block.destinations.length + j) * block.points;
        result.set(source * layer.destinations + destination, {
          x: block.x.subarray(i * block.points, (i + 1) * block.points), phi: block.phi.subarray(from, from + block.points),
        });
      }));
    }
  } catch (error) {
    if (!(error instanceof ApiError) || ![400, 413, 501].includes(error.status)) throw error;
  }
  return result;
}
