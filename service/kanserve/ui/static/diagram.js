// Network diagram as SVG: rows of nodes, inputs at the bottom, and the curve of each edge.

import { number, share, shortened } from './format.js';
import { CLASSES, KINDS, brief, chosen, strongest } from './network.js';
import { extent, svg } from './svg.js';

export const LINES = 300; // edges of a diagram
const CURVES = 120; // edges with their curves on them
const [LOW, HIGH] = [150, 240]; // pixels between two rows of nodes
const ELSEWHERE = 420; // pixels of the screen for other parts of the page
const [SIDE, TOP] = [28, 34];
const [LARGEST, SMALLEST] = [46, 15]; // pixels of a curve's box
const WIDE = 60; // nodes; a row of more shows only nodes that have an edge in the picture

/**
 * Selects the edges of the picture, per layer: those that the filters accept, without edges under folded nodes. If there
 * are too many, it selects the strongest. Returns {edges: [Set], left: edges that are not drawn, hidden: folded edges}.
 */
export function visible(layers, filter, folded) {
  const open = layers.map(() => null);
  let hidden = 0;
  const all = [];
  for (let at = layers.length - 1; at >= 0; at -= 1) {
    const layer = layers[at];
    const shown = chosen(layer, filter).filter((edge) => {
      const node = layer.into(layer.destination(edge));
      const seen = !folded.has(`${at + 1}/${node}`) && (open[at + 1] ? open[at + 1].has(node) : true);
      hidden += !seen;
      return seen;
    });
    open[at] = folded.size ? new Set(Array.from(shown, (edge) => layer.nodeOf(layer.source(edge)))) : null;
    all[at] = shown;
  }
  const total = all.reduce((sum, one) => sum + one.length, 0);
  const kept = total <= LINES ? all : fairly(layers, all);
  return { edges: kept.map((one) => new Set(one)), left: total - kept.reduce((sum, one) => sum + one.length, 0), hidden };
}

/** Selects the strongest edges of each layer, in proportion to the size of the layer, and some of each layer. */
function fairly(layers, all) {
  const total = all.reduce((sum, one) => sum + one.length, 0);
  return all.map((one, at) => strongest(layers[at], one).subarray(0, Math.max(Math.min(20, LINES / all.length), Math.round((LINES * one.length) / total * 0.8))));
}

/**
 * Draws the network. shown: the result of `visible`; curves: a Map of edge -> {x, phi} per layer; link(view, ...): an
 * address; onfold(key): a callback for a selected node.
 */
export function diagram({ layers, shown, curves, width, link, folded, onfold }) {
  const rows = rowsOf(layers, shown);
  const row = Math.max(LOW, Math.min(HIGH, Math.floor((innerHeight - ELSEWHERE) / layers.length)));
  const height = TOP * 2 + row * layers.length;
  const places = rows.map((nodes, at) => {
    const step = (width - 2 * SIDE) / nodes.length;
    return new Map(nodes.map((node, order) => [node, [SIDE + step * (order + 0.5), height - TOP - row * at]]));
  });
  const count = shown.edges.reduce((sum, one) => sum + one.size, 0);
  const model = layers[0].model.model_name;
  const node = svg('svg', {
    class: 'picture network', viewBox: `0 0 ${width} ${height}`, width, height, role: 'group',
    'aria-label': `Network of ${model}: ${rows.map((nodes) => nodes.length).join(', ')} nodes from inputs to outputs, ${count} edges`,
  });
  layers.forEach((layer, at) => node.append(...edgesOf({ layer, at, places, shown: shown.edges[at], curves: curves[at], width, link, boxed: count <= CURVES })));
  rows.forEach((nodes, at) => node.append(...nodes.map((one) => mark({ layers, at, one, place: places[at].get(one), room: (width - 2 * SIDE) / nodes.length, folded, onfold }))));
  return node;
}

/** The nodes of each row. A long row has only nodes with an edge in the picture. */
function rowsOf(layers, shown) {
  const touched = Array.from({ length: layers.length + 1 }, () => new Set());
  layers.forEach((layer, at) => shown.edges[at].forEach((edge) => {
    touched[at].add(layer.nodeOf(layer.source(edge)));
    const into = layer.into(layer.destination(edge));
    if (into !== null) touched[at + 1].add(into);
  }));
  return touched.map((seen, at) => {
    const layer = layers[Math.min(at, layers.length - 1)];
    const all = at < layers.length ? layer.nodes
      : 1 + Math.max(0, ...Array.from({ length: layer.destinations }, (_, one) => layer.into(one) ?? 0));
    return all <= WIDE ? Array.from({ length: all }, (_, one) => one) : [...seen].sort((a, b) => a - b);
  }).map((row) => (row.length ? row : [0]));
}

function* edgesOf({ layer, at, places, shown, curves, width, link, boxed }) {
  const order = [...shown].sort((a, b) => layer.darkness(a) - layer.darkness(b)); // the most important edges are on top
  const boxes = [...shown].sort((a, b) => a - b);
  const room = (width - 2 * SIDE) / Math.max(1, boxes.length);
  const size = Math.min(LARGEST, room * 0.86);
  const drawn = boxed && size >= SMALLEST;
  const across = new Map(boxes.map((edge, order) => [edge, SIDE + room * (order + 0.5)]));
  for (const edge of order) {
    const start = places[at].get(layer.nodeOf(layer.source(edge)));
    const end = places[at + 1].get(layer.into(layer.destination(edge)));
    if (!start || !end) continue;
    const opacity = Math.max(0.08, layer.darkness(edge));
    const middle = [across.get(edge), (start[1] + end[1]) / 2];
    const label = `${layer.edgeName(edge)}: ${KINDS[layer.kinds[edge]]}${layer.scores ? `, importance ${number(layer.scores[edge], 3)}` : ''}`;
    const lines = drawn ? [[start, [middle[0], middle[1] + size / 2]], [[middle[0], middle[1] - size / 2], end]] : [[start, end]];
    yield svg('a', { href: link('edge', layer.at, layer.source(edge), layer.destination(edge)), class: `edge ${CLASSES[layer.kinds[edge]]}`, 'aria-label': label },
      svg('title', {}, label),
      lines.map(([from, to]) => svg('path', { class: 'reach', d: bent(from, to) })),
      lines.map(([from, to]) => svg('path', { fill: 'none', 'stroke-opacity': opacity, d: bent(from, to) })),
      drawn && thumbnail(curves?.get(edge), middle, size, opacity));
  }
}

function bent([x, y], [u, v]) {
  const half = (y + v) / 2;
  return `M${x.toFixed(1)} ${y.toFixed(1)}C${x.toFixed(1)} ${half.toFixed(1)} ${u.toFixed(1)} ${half.toFixed(1)} ${u.toFixed(1)} ${v.toFixed(1)}`;
}

function thumbnail(curve, [x, y], size, opacity) {
  return [
    svg('rect', { class: 'box', x: x - size / 2, y: y - size / 2, width: size, height: size, rx: 3, 'stroke-opacity': Math.max(0.25, opacity) }),
    curve && svg('path', { class: 'curve', fill: 'none', 'stroke-opacity': Math.max(0.25, opacity), d: small(curve, x - size * 0.4, y - size * 0.4, size * 0.8) }),
  ];
}

/** The path of a curve in a box, from its smallest value to its largest. */
export function small({ phi }, left, top, size) {
  const [low, high] = extent(phi);
  let result = '';
  let pen = 'M';
  for (let at = 0; at < phi.length; at += 1) {
    if (!Number.isFinite(phi[at])) { pen = 'M'; continue; }
    const y = high > low ? top + size - ((phi[at] - low) / (high - low)) * size : top + size / 2;
    result += `${pen}${(left + (at / (phi.length - 1)) * size).toFixed(1)} ${y.toFixed(1)}`;
    pen = 'L';
  }
  return result;
}

function mark({ layers, at, one, place: [x, y], room, folded, onfold }) {
  const last = at === layers.length;
  const layer = layers[Math.min(at, layers.length - 1)];
  const name = nameOf(layers, at, one);
  const key = `${at}/${one}`;
  const out = last ? 0 : layer.outOfGrid?.[one] ?? 0;
  const glows = !last && layer.glows(one);
  const label = [name, glows && `${share(out)} of its live values are out of grid`, folded.has(key) && 'folded'].filter(Boolean).join(', ');
  const words = shortened(brief(name), Math.max(2, Math.floor(room / 7.6)));
  const named = at === 0 || last || room > 60;
  const act = { tabindex: '0', role: 'button', 'aria-pressed': String(folded.has(key)), 'aria-label': `${label}: ${folded.has(key) ? 'unfold' : 'fold'} incoming edges` };
  const fold = () => onfold(key);
  return svg('g', { 'data-key': key, class: `spot${glows ? ' glows' : ''}${folded.has(key) ? ' folded' : ''}`, ...(at ? { ...act, onclick: fold, onkeydown: (event) => { if (['Enter', ' '].includes(event.key)) { event.preventDefault(); fold(); } } } : { role: 'img', 'aria-label': label }) },
    svg('title', {}, label),
    glows && svg('circle', { class: 'halo', cx: x, cy: y, r: 6 + 10 * Math.min(1, out * 2), 'stroke-width': 2 + 6 * Math.min(1, out) }),
    svg('circle', { class: 'dot', cx: x, cy: y, r: room < 9 ? 2.5 : 5 }),
    named && room > 12 && (at === 0 || last ? svg('text', { x, y: last ? y - 12 : y + 22, 'text-anchor': 'middle' }, words)
      : svg('text', { class: 'label', x: x + 10, y: y - 8 }, words)));
}

function nameOf(layers, at, one) {
  if (at < layers.length) {
    const layer = layers[at];
    for (let source = 0; source < layer.sources; source += 1) if (layer.nodeOf(source) === one) return layer.sourceName(source);
    return `node ${one}`;
  }
  const layer = layers[at - 1];
  for (let destination = 0; destination < layer.destinations; destination += 1) if (layer.into(destination) === one) return layer.destinationName(destination);
  return `output ${one}`;
}
