// Charts of one edge on a shared axis: function with base and basis parts, slope, distribution of the input.

import { digits, number, share } from '../format.js';
import { nodeOfSource } from '../names.js';
import { chart, extent, line, roomy, steps, svg } from '../svg.js';

const SAME = new Set(['select', 'clip']); // steps whose results are in the units of what they read
const MARGIN = { left: 64, right: 14, top: 10, bottom: 40 };
// Activations of the exporter, and those with trained parameters.
const BASES = new Set([
  'silu', 'identity', 'zero', 'relu', 'sigmoid', 'tanh', 'sin', 'cos', 'softplus', 'gelu', 'gelu_tanh',
  'prelu', 'swish', 'function',
]);

/** The class of the line of a part, and its name. */
export function style(kind) {
  if (kind === 'symbolic') return ['of-symbolic', 'symbolic part'];
  return BASES.has(kind) ? ['of-base', `base (${kind})`] : ['of-basis', `basis (${kind})`];
}

/**
 * Draws phi over its range. curve: {x, phi, parts: [{kind, phi}], extrema: [[x, phi]]}; grid: that of `grids`, or null.
 * names: [source, destination]. shown: a set of 'parts', 'knots'.
 */
export function functionChart({ curve, grid, knots, names, shown, width, height = 330 }) {
  const parts = shown.has('parts') && curve.parts.length > 1 ? curve.parts : [];
  const { node, plot, x, y } = chart({
    width, height, margin: MARGIN,
    title: `Contribution of ${names[0]} to ${names[1]} for values from ${place(curve)(curve.x[0])} to ${place(curve)(curve.x.at(-1))}: ${turns(curve)}`,
    x: { domain: extent(curve.x), label: `value of ${names[0]}` },
    y: { domain: roomy(extent(curve.phi, ...parts.map((part) => part.phi))), label: `contribution to ${names[1]}` },
  });
  plot.append(...zones(grid, x, y));
  if (shown.has('knots')) plot.append(...ticksOf(knots, x, y));
  if (y.domain[0] < 0 && y.domain[1] > 0) plot.append(zero(x, y));
  for (const part of parts) plot.append(line(curve.x, part.phi, x, y, { class: `line part ${style(part.kind)[0]}` }));
  plot.append(line(curve.x, curve.phi, x, y, { class: 'line total' }));
  for (const [at, value] of curve.extrema) {
    if (Number.isFinite(value)) {
      plot.append(svg('circle', { class: 'extreme', cx: x(at), cy: y(value), r: 3.5 },
        svg('title', {}, `${number(value)} at ${place(curve)(at)}`)));
    }
  }
  return node;
}

/**
 * Draws the curve of an edge before and after an edit. curve: {x, before, after}; names: [x, destination]; what: the
 * operation of the edit.
 */
export function editChart({ curve, names, what, width, height = 300 }) {
  const { node, plot, x, y } = chart({
    width, height, margin: MARGIN,
    title: `Contribution to ${names[1]} before and after ${what}: ${span(curve.phi_before)} before, ${span(curve.phi_after)} after`,
    x: { domain: extent(curve.x), label: names[0] },
    y: { domain: roomy(extent(curve.phi_before, curve.phi_after)), label: `contribution to ${names[1]}` },
  });
  if (y.domain[0] < 0 && y.domain[1] > 0) plot.append(zero(x, y));
  plot.append(line(curve.x, curve.phi_before, x, y, { class: 'line former' }), line(curve.x, curve.phi_after, x, y, { class: 'line total' }));
  return node;
}

function span(values) {
  const [low, high] = extent(values);
  return Number.isFinite(low) ? `${number(low)} to ${number(high)}` : 'no finite value';
}

function zero(x, y) {
  return svg('line', { class: 'zero', x1: x.range[0], x2: x.range[1], y1: y(0), y2: y(0) });
}

/** Draws the slope on the same axis. */
export function slopeChart({ curve, grid, names, width }) {
  const { node, plot, x, y } = chart({
    width, height: 190, margin: MARGIN,
    title: `Slope of ${names[1]} with respect to ${names[0]}`,
    x: { domain: extent(curve.x) }, y: { domain: roomy(extent(curve.derivative, [0])), label: 'slope' },
  });
  plot.append(...zones(grid, x, y), zero(x, y),
    line(curve.x, curve.derivative, x, y, { class: 'line slope' }));
  return node;
}

/**
 * Draws the distribution of the source in baseline and live traffic, on the axis of the curve. seen: a record of
 * `nodes.js`; domain: that of the curve. Densities make bins of different widths comparable. `beyond` reports values
 * outside the axis.
 */
export function inputChart({ seen, domain, grid, name, width }) {
  const lists = [['reference', seen.baselineCounts], ['live', seen.counts]].filter(([, counts]) => total(counts) > 0);
  const drawn = lists.map(([kind, counts]) => [kind, densities(seen.bounds, counts)]);
  const { node, plot, x, y } = chart({
    width, height: 220, margin: MARGIN,
    title: `Distribution of ${name}: ${lists.map(([kind, counts]) => `${kind} ${beyond(seen.bounds, counts)}`).join('; ')}`,
    x: { domain, label: `value of ${name}` },
    y: { domain: [0, 1.08 * (extent(...drawn.map(([, values]) => values))[1] || 1)], label: 'density', ticks: 3 },
  });
  plot.append(...zones(grid, x, y));
  const clip = `inside-${Math.random().toString(36).slice(2)}`;
  plot.append(svg('clipPath', { id: clip },
    svg('rect', { x: x.range[0], y: y.range[1], width: x.range[1] - x.range[0], height: y.range[0] - y.range[1] })));
  for (const [kind, values] of drawn) {
    plot.append(svg('path', { class: `seen ${kind}`, d: steps(seen.bounds, values, x, y), 'clip-path': `url(#${clip})` }));
  }
  return node;
}

export function total(counts) {
  return counts ? counts.reduce((sum, one) => sum + one, 0) : 0;
}

function densities(bounds, counts) {
  const all = total(counts);
  return Array.from({ length: bounds.length - 1 }, (_, at) => counts[at + 1] / all / (bounds[at + 1] - bounds[at] || 1));
}

/** Describes the share of values below the first bin and above the last one. */
export function beyond(bounds, counts) {
  const all = total(counts);
  if (!all) return 'has no values';
  const below = counts[0] / all;
  const above = counts.at(-1) / all;
  return `${share(below)} below ${number(bounds[0], 3)}, ${share(above)} above ${number(bounds.at(-1), 3)}`;
}

function zones(grid, x, y) {
  if (!grid) return [];
  const within = (value) => Math.min(Math.max(x(value), x.range[0]), x.range[1]);
  const box = (from, to, kind, words) => svg('rect', {
    class: `zone ${kind}`, x: within(from), width: Math.max(0, within(to) - within(from)), y: y.range[1], height: y.range[0] - y.range[1],
  }, svg('title', {}, words));
  const [low, high] = x.domain;
  return [
    box(grid.first, grid.low, 'extension', 'extended grid'), box(grid.high, grid.last, 'extension', 'extended grid'),
    box(low, grid.first, 'outside', 'out of grid'), box(grid.last, high, 'outside', 'out of grid'),
  ];
}

function ticksOf(knots, x, y) {
  return knots.filter((knot) => knot >= x.domain[0] && knot <= x.domain[1])
    .map((knot) => svg('line', { class: 'knot', x1: x(knot), x2: x(knot), y1: y.range[0], y2: y.range[0] - 9 }, svg('title', {}, `knot at ${number(knot)}`)));
}

/** A function that formats values on the x axis of a curve. */
function place({ x }) {
  return (value) => number(value, digits(x[0], x.at(-1)));
}

function turns(curve) {
  const finite = curve.extrema.filter(([, value]) => Number.isFinite(value));
  const [low, high] = finite.map(([at, value]) => `${number(value)} at ${place(curve)(at)}`);
  return finite.length ? `minimum ${low}, maximum ${high}` : 'no finite value';
}

/** The grid of a basis for the picture, by the rules of kanexport/shared/grids.py. Only splines have an extended grid.
 * `grid` is null without knots in the units of the node. */
export function grids(layer, source) {
  const inNodeUnits = units(layer, source);
  if (!inNodeUnits) return { knots: [], grid: null };
  const found = layer.bases.filter((basis) => basis.knots?.length && !basis.pre_steps?.length).map((basis) => {
    const rows = basis.knots.shape ? rowsOf(basis.knots) : basis.knots;
    return [basis, [...rows[rows.length > 1 ? source : 0]].sort((a, b) => a - b).map(inNodeUnits)];
  });
  const knots = found.flatMap(([, row]) => row);
  const spline = found.find(([basis]) => basis.kind === 'bspline');
  if (!spline || spline[1].length < 2) return { knots, grid: null };
  const [basis, row] = spline;
  const degree = Math.max(0, Math.min(row.length - basis.functions - 1, Math.floor((row.length - 1) / 2)));
  return { knots, grid: { first: row[0], low: row[degree], high: row.at(-1 - degree), last: row.at(-1) } };
}

/** A function from values that the edges of a source read to the units of its node; null if they are not in proportion. */
export function units(layer, source) {
  const [first, ...rest] = layer.pre_steps ?? [];
  const scaled = first?.kind === 'standardize';
  if ((first && !scaled && !SAME.has(first.kind)) || rest.some((step) => !SAME.has(step.kind))) return null;
  const at = nodeOfSource(layer, source);
  return scaled ? (value) => first.bias[at] + first.scale[at] * value : (value) => value;
}

function rowsOf(array) {
  const [rows, columns] = array.shape;
  return Array.from({ length: rows }, (_, at) => array.subarray(at * columns, (at + 1) * columns));
}
