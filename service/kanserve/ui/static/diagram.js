// Network diagram as SVG: rows of nodes, inputs at the bottom, and the curve of each edge.

import { number, share, shortened } from './format.js';
import { CLASSES, KINDS, brief, chosen } from './network.js';
import { extent, svg } from './svg.js';

const CURVES = 120; // edges with their curves on them
const [LOW, HIGH] = [150, 240]; // pixels between two rows of nodes
const ELSEWHERE = 420; // pixels of the screen for other parts of the page
const [SIDE, TOP] = [28, 34];
const [LARGEST, SMALLEST] = [46, 15]; // pixels of a curve's box
const WIDE = 60; // nodes; a row of more shows only nodes that have an edge in the picture
const [LETTER, NAME] = [7.6, 12]; // pixels of a letter, and letters of a name that a row of nodes has room for

/** Selects the edges that the filters accept, without edges under folded nodes: {edges: per layer, hidden: folded ones}. */
export function matching(layers, filter, folded) {
  if (!folded.size) return { edges: layers.map((layer) => chosen(layer, filter)), hidden: 0 }; // fast, for a million edges
  const open = layers.map(() => null);
  let hidden = 0;
  const edges = [];
  for (let at = layers.length - 1; at >= 0; at -= 1) {
    const layer = layers[at];
    edges[at] = chosen(layer, filter).filter((edge) => {
      const node = layer.into(layer.destination(edge));
      const seen = !folded.has(`${at + 1}/${node}`) && (open[at + 1] ? open[at + 1].has(node) : true);
      hidden += !seen;
      return seen;
    });
    open[at] = new Set(Array.from(edges[at], (edge) => layer.nodeOf(layer.source(edge))));
  }
  return { edges, hidden };
}

/** Whether a picture of this width has room for the curve of each edge, and for the names of inputs and outputs. */
export function fits(layers, edges, width) {
  const space = width - 2 * SIDE;
  if (edges.reduce((sum, one) => sum + one.length, 0) > CURVES || edges.some((one) => (space / one.length) * 0.86 < SMALLEST)) return false;
  const rows = rowsOf(layers, edges);
  return [0, layers.length].every((at) => rows[at].every((one) => Math.min(NAME, nameOf(layers, at, one).length) * LETTER <= space / rows[at].length));
}

/**
 * Draws the network with the curve of each edge. edges: those of each layer; curves: a Map of edge -> {x, phi} per layer;
 * link(view, ...): an address; onfold(key): a callback for a selected node.
 */
export function diagram({ layers, edges, curves, width, link, folded, onfold }) {
  const rows = rowsOf(layers, edges);
  const row = Math.max(LOW, Math.min(HIGH, Math.floor((innerHeight - ELSEWHERE) / layers.length)));
  const height = TOP * 2 + row * layers.length;
  const places = rows.map((nodes, at) => {
    const step = (width - 2 * SIDE) / nodes.length;
    return new Map(nodes.map((node, order) => [node, [SIDE + step * (order + 0.5), height - TOP - row * at]]));
  });
  const node = frame(layers, rows, edges, width, height);
  layers.forEach((layer, at) => node.append(...edgesOf({ layer, at, places, shown: edges[at], curves: curves[at], width, link })));
  rows.forEach((nodes, at) => {
    const space = (width - 2 * SIDE) / nodes.length;
    node.append(...nodes.map((one) => {
      const [x, y] = places[at].get(one);
      const words = shortened(brief(nameOf(layers, at, one)), Math.max(2, Math.floor(space / LETTER)));
      const ends = at === 0 || at === layers.length;
      const text = ends ? svg('text', { x, y: at ? y - 12 : y + 22, 'text-anchor': 'middle' }, words)
        : space > 60 && svg('text', { class: 'label', x: x + 10, y: y - 8 }, words);
      return mark({ layers, at, one, place: [x, y], size: space < 9 ? 2.5 : 5, text, folded, onfold });
    }));
  });
  return node;
}

/** An empty picture of the network. rows: the nodes of each stage; edges: those of each layer. */
export function frame(layers, rows, edges, width, height) {
  const count = edges.reduce((sum, one) => sum + one.length, 0);
  return svg('svg', {
    class: 'picture network', viewBox: `0 0 ${width} ${height}`, width, height, role: 'group',
    'aria-label': `Network of ${layers[0].model.model_name}: ${rows.map((nodes) => nodes.length).join(', ')} nodes from inputs to outputs, ${count} edges`,
  });
}

/** The nodes of each stage that an edge of the picture has as an end. */
export function touched(layers, edges) {
  const result = Array.from({ length: layers.length + 1 }, () => new Set());
  layers.forEach((layer, at) => edges[at].forEach((edge) => {
    result[at].add(layer.nodeOf(layer.source(edge)));
    const into = layer.into(layer.destination(edge));
    if (into !== null) result[at + 1].add(into);
  }));
  return result;
}

/** The number of nodes of a stage, which is 0 for the inputs. */
export function nodesOf(layers, at) {
  if (at < layers.length) return layers[at].nodes;
  const layer = layers[at - 1];
  let last = 0;
  for (let one = 0; one < layer.destinations; one += 1) last = Math.max(last, layer.into(one) ?? 0);
  return last + 1;
}

/** The nodes of each row. A long row has only nodes with an edge in the picture. */
function rowsOf(layers, edges) {
  return touched(layers, edges).map((seen, at) => {
    const all = nodesOf(layers, at);
    return all <= WIDE ? Array.from({ length: all }, (_, one) => one) : [...seen].sort((a, b) => a - b);
  }).map((row) => (row.length ? row : [0]));
}

function* edgesOf({ layer, at, places, shown, curves, width, link }) {
  const order = [...shown].sort((a, b) => layer.darkness(a) - layer.darkness(b)); // the most important edges are on top
  const boxes = [...shown].sort((a, b) => a - b);
  const room = (width - 2 * SIDE) / Math.max(1, boxes.length);
  const size = Math.min(LARGEST, room * 0.86);
  const across = new Map(boxes.map((edge, order) => [edge, SIDE + room * (order + 0.5)]));
  for (const edge of order) {
    const start = places[at].get(layer.nodeOf(layer.source(edge)));
    const end = places[at + 1].get(layer.into(layer.destination(edge)));
    if (!start || !end) continue;
    const opacity = Math.max(0.08, layer.darkness(edge));
    const middle = [across.get(edge), (start[1] + end[1]) / 2];
    const lines = [[start, [middle[0], middle[1] + size / 2]], [[middle[0], middle[1] - size / 2], end]];
    yield edgeMark({ layer, edge, link, opacity, paths: lines.map(([from, to]) => bent(from, to)) }, thumbnail(curves?.get(edge), middle, size, opacity));
  }
}

/** The link of an edge. paths: its lines; children: more marks. */
export function edgeMark({ layer, edge, link, opacity, paths, ...more }, ...children) {
  const label = `${layer.edgeName(edge)}: ${KINDS[layer.kinds[edge]]}${layer.scores ? `, importance ${number(layer.scores[edge], 3)}` : ''}`;
  return svg('a', { href: link('edge', layer.at, layer.source(edge), layer.destination(edge)), class: `edge ${CLASSES[layer.kinds[edge]]}`, 'aria-label': label, 'data-edge': `${layer.at}/${edge}`, ...more },
    paths.map((d) => svg('path', { class: 'reach', d })), paths.map((d) => svg('path', { fill: 'none', 'stroke-opacity': opacity, d })), children);
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

/** The mark of a node, which folds and unfolds the edges that lead to it. text: its name in the picture, if there is room. */
export function mark({ layers, at, one, place: [x, y], size, text, folded, onfold }) {
  const last = at === layers.length;
  const key = `${at}/${one}`;
  const out = last ? 0 : layers[at].outOfGrid?.[one] ?? 0;
  const glows = !last && layers[at].glows(one);
  const label = [nameOf(layers, at, one), glows && `${share(out)} of its live values are out of grid`, folded.has(key) && 'folded'].filter(Boolean).join(', ');
  const act = { tabindex: '0', role: 'button', 'aria-pressed': String(folded.has(key)), 'aria-label': `${label}: ${folded.has(key) ? 'unfold' : 'fold'} incoming edges` };
  const fold = () => onfold(key);
  return svg('g', { 'data-key': key, class: `spot${glows ? ' glows' : ''}${folded.has(key) ? ' folded' : ''}`, ...(at ? { ...act, onclick: fold, onkeydown: (event) => { if (['Enter', ' '].includes(event.key)) { event.preventDefault(); fold(); } } } : { role: 'img', 'aria-label': label }) },
    svg('title', {}, label),
    glows && svg('circle', { class: 'halo', cx: x, cy: y, r: 6 + 10 * Math.min(1, out * 2), 'stroke-width': 2 + 6 * Math.min(1, out) }),
    svg('circle', { class: 'dot', cx: x, cy: y, r: size }), text);
}

export function nameOf(layers, at, one) {
  if (at < layers.length) {
    const layer = layers[at];
    for (let source = 0; source < layer.sources; source += 1) if (layer.nodeOf(source) === one) return layer.sourceName(source);
    return `node ${one}`;
  }
  const layer = layers[at - 1];
  for (let destination = 0; destination < layer.destinations; destination += 1) if (layer.into(destination) === one) return layer.destinationName(destination);
  return `output ${one}`;
}
