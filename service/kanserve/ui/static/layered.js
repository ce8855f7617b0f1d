// Layered diagram of a large network: a column of nodes per stage, inputs at the left, and its strongest edges, by importance.

import { count, shortened } from './format.js';
import { edgeMark, frame, mark, nameOf, nodesOf, touched } from './diagram.js';
import { brief, strongest } from './network.js';
import { svg } from './svg.js';

const ROW = 28; // pixels of a node in the longest column
const [TOP, BOTTOM] = [44, 12];
const LETTER = 7; // pixels of a letter of a name
const [WIDEST, GAP] = [0.3, 62]; // names of inputs or outputs, as a share of the width; pixels between two columns with names
const SMALLEST = 0.06; // opacity

/**
 * Selects `most` of the edges of all layers: the strongest ones, as many of each layer as of the others, or all of a
 * smaller layer. Returns the edges of each layer, the strongest first.
 */
export function selected(layers, edges, most) {
  const result = [];
  let left = most;
  const order = edges.map((_, at) => at).sort((a, b) => edges[a].length - edges[b].length);
  order.forEach((at, place) => {
    result[at] = first(layers[at], edges[at], Math.max(1, Math.floor(left / (order.length - place))));
    left -= result[at].length;
  });
  return result;
}

/** The first edges of `strongest`, in one pass over the others: sorting a million edges holds up the page. */
function first(layer, edges, most) {
  let kept = [];
  let least = -1;
  for (let at = 0; layer.scores && at < edges.length; at += 1) {
    if (!(Math.abs(layer.scores[edges[at]]) > least)) continue;
    kept.push(edges[at]);
    if (kept.length < 4 * most) continue;
    kept = Array.from(strongest(layer, Uint32Array.from(kept)).subarray(0, most));
    least = Math.abs(layer.scores[kept.at(-1)]);
  }
  return layer.scores ? strongest(layer, Uint32Array.from(kept)).subarray(0, most) : edges.subarray(0, most);
}

/** The nodes of each stage with an edge in the picture, by importance: [{node, weight}]. */
function ranked(layers, edges) {
  const weights = layers.map(() => new Map());
  weights.push(new Map());
  layers.forEach((layer, at) => edges[at].forEach((edge) => {
    const add = (stage, node) => weights[stage].set(node, (weights[stage].get(node) ?? 0) + Math.abs(layer.scores?.[edge] ?? 0));
    if (at === layers.length - 1) add(at + 1, layer.into(layer.destination(edge)));
  }));
  return touched(layers, edges).map((nodes, at) => [...nodes]
    .map((node) => ({ node, weight: Math.abs((at < layers.length ? layers[at].nodeScores?.[node] : weights[at].get(node)) ?? 0) }))
    .sort((a, b) => b.weight - a.weight || a.node - b.node));
}

/** Draws the network. edges: those of `selected`; link(view, ...): an address; onfold(key): as of `diagram`. */
export function layered({ layers, edges, width, link, folded, onfold }) {
  const stages = ranked(layers, edges);
  const height = TOP + BOTTOM + ROW * Math.max(...stages.map((nodes) => nodes.length));
  const letters = (at) => Math.max(5, ...stages[at].map(({ node }) => brief(nameOf(layers, at, node)).length)) * LETTER;
  const [left, right] = [0, layers.length].map((at) => 16 + Math.min(WIDEST * width, letters(at)));
  const gap = (width - left - right) / layers.length;
  const places = stages.map((nodes, at) => new Map(nodes.map(({ node }, order) => [
    node, [left + gap * at, TOP + ((order + 0.5) * (height - TOP - BOTTOM)) / nodes.length]])));
  const picture = frame(layers, stages, edges, width, height);
  stages.forEach((nodes, at) => picture.append(...head(layers, at, nodes.length, [left + gap * at, gap, width])));
  const links = layers.map((layer, at) => Array.from(edges[at], (edge) => connection(layer, edge, places, link)));
  picture.append(...links.flatMap((own) => [...own].reverse())); // the most important edges are on top
  stages.forEach((nodes, at) => picture.append(...nodes.map(({ node, weight }) => mark({
    layers, at, one: node, place: places[at].get(node), size: 3 + 4 * Math.sqrt(weight / (nodes[0].weight || 1)), folded, onfold,
    text: words(layers, at, node, places[at].get(node), at === 0 ? left : at === layers.length ? right : gap),
  }))));
  roving(picture, links.flat());
  return picture;
}

/** The head of a column: its name, and the number of its nodes in the picture. */
function head(layers, at, shown, [x, gap, width]) {
  const last = at === layers.length;
  const end = at === 0 ? { x: 2 } : last ? { x: width - 2, 'text-anchor': 'end' } : { x, 'text-anchor': 'middle' };
  if (!last && at > 0 && gap < GAP) return [];
  return [at === 0 ? 'inputs' : last ? 'outputs' : `layer ${at}`, `${count(shown)} of ${count(nodesOf(layers, at))}`]
    .map((text, line) => svg('text', { ...end, class: 'label', y: 13 + 14 * line }, text));
}

function connection(layer, edge, places, link) {
  const [x, y] = places[layer.at].get(layer.nodeOf(layer.source(edge)));
  const [u, v] = places[layer.at + 1].get(layer.into(layer.destination(edge))) ?? [x, y];
  const middle = (x + u) / 2;
  return edgeMark({
    layer, edge, link, tabindex: -1, opacity: Math.max(SMALLEST, layer.darkness(edge)),
    paths: [`M${x.toFixed(1)} ${y.toFixed(1)}C${middle.toFixed(1)} ${y.toFixed(1)} ${middle.toFixed(1)} ${v.toFixed(1)} ${u.toFixed(1)} ${v.toFixed(1)}`],
  });
}

/** The name of a node: beside it in the first and the last column, above it in others. */
function words(layers, at, node, [x, y], space) {
  const name = brief(nameOf(layers, at, node));
  const fitting = shortened(name, Math.max(2, Math.floor((space - 14) / LETTER)));
  if (at === 0) return svg('text', { x: x - 10, y: y + 4, 'text-anchor': 'end' }, fitting);
  if (at === layers.length) return svg('text', { x: x + 10, y: y + 4 }, fitting);
  return space >= GAP && svg('text', { class: 'label over', x, y: y - 9, 'text-anchor': 'middle' }, fitting);
}

/** Makes the edges one stop of the Tab key; the arrow keys move to the next edge by importance, layer after layer. */
function roving(picture, links) {
  links[0]?.setAttribute('tabindex', 0);
  picture.addEventListener('keydown', (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const at = links.indexOf(event.target);
    if (!by || at < 0) return;
    event.preventDefault();
    const next = links[(at + by + links.length) % links.length];
    links[at].setAttribute('tabindex', -1);
    next.setAttribute('tabindex', 0);
    next.focus();
  });
}
