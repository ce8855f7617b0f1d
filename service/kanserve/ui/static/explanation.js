// Content of an explanation in words: contributions in order, headline, training grid, paths, notes.

import { signed } from './charts/waterfall.js';
import { el } from './dom.js';
import { number } from './format.js';
import * as names from './names.js';

const BARS = 10; // inputs with a bar each
const CLASSES = 3;
const CURVES = 6;
const LEAST = 0.01; // share of the largest contribution, below which a path is not drawn
const [EXTENDED, OUT] = [2, 3]; // zones of a value

/** Reference of the server -> its name. */
export const REFERENCES = { mean: 'baseline mean', zeros: 'zeros', grid_center: 'grid center', rows: 'reference rows' };

/** Selects the edges whose curves the page shows: those of all layers with the largest contributions. */
export function strongestEdges(path) {
  return path.flatMap(({ layer, sources, destinations, values }) => values[0][0].map((value, at) => (
    { layer, source: sources[0][0][at], destination: destinations[0][0][at], value })))
    .filter((edge) => Number.isFinite(edge.value) && edge.value !== 0)
    .sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, CURVES)
    .sort((a, b) => a.layer - b.layer);
}

/** The names of the source and the destination of an edge. */
export function edgeNames(model, { layer, source, destination }) {
  const to = names.nodeOfDestination(model.layers[layer], destination);
  return [
    names.node(model, layer, names.nodeOfSource(model.layers[layer], source)),
    to === null ? `sum ${destination} of layer ${layer}` : names.node(model, layer + 1, to),
  ];
}

/** Sorts the contributions: {all, first: those with a bar each, others, rest: sum of the others, name, words, apart}. */
export function story(model, { explained, state }) {
  const shown = (value, at) => (Number.isFinite(value) ? `${number(value, 4)}${names.unit(model, at) ? ` ${names.unit(model, at)}` : ''}` : String(value));
  const all = explained.contributions[0].map(([value], at) => ({ at, value, name: names.feature(model, at), shown: shown(state.row[at], at) }))
    .sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const most = BARS + 1; // a bar for the rest is as long as one more input
  const active = all.filter((input) => input.value !== 0);
  const first = active.length > most ? active.slice(0, BARS) : active;
  const others = all.slice(first.length);
  const apart = explained.predictions[0][0] - explained.base[0];
  const [one, two] = active;
  const words = one
    ? `${one.name} = ${one.shown} contributes most, ${signed(one.value)} of ${signed(apart)}`
      + `${two ? `, followed by ${two.name} = ${two.shown} with ${signed(two.value)}` : ''}.`
    : 'This row equals the reference, so no input contributes. Move a slider, paste a row, or choose a recent request.';
  return { all, first, others, rest: others.reduce((sum, input) => sum + input.value, 0), name: names.output(model, explained.outputs[0]), words, apart };
}

/** The prediction, its distance from the base value, and the inputs that contribute most. */
export function headline({ explained }, { name, words, apart }) {
  const reference = REFERENCES[explained.reference] ?? explained.reference;
  return [
    el('p', { class: 'big' }, el('span', { class: 'quiet' }, `${name} `), el('strong', {}, number(explained.predictions[0][0], 5)),
      el('span', { class: 'quiet' }, ` ${signed(apart)} from the base value ${number(explained.base[0], 4)} (${reference})`)),
    el('p', { class: 'story' }, words),
  ];
}

/** The largest probabilities of a model with named classes, or whose outputs are probabilities; nothing for others. */
export function probabilities(model, { outputs }) {
  if (!outputs?.every(Number.isFinite)) return [];
  const sum = outputs.reduce((total, value) => total + value, 0);
  const given = outputs.every((value) => value >= 0) && Math.abs(sum - 1) < 1e-3;
  if (!given && !model.classes?.length) return [];
  const top = Math.max(...outputs);
  const weights = given ? outputs : outputs.map((value) => Math.exp(value - top));
  const whole = weights.reduce((total, value) => total + value, 0);
  const first = weights.map((value, at) => ({ at, share: value / whole })).sort((a, b) => b.share - a.share).slice(0, CLASSES);
  const words = first.map(({ at, share }) => `${names.output(model, at)} ${number(share * 100, 3)}%`).join(', ');
  return [el('p', { class: 'quiet probabilities' }, `${given ? 'Largest outputs' : 'Softmax of the outputs'}: ${words}.`)];
}

/** The prediction interval of the row, or its set of classes, and whether drift makes it unreliable; nothing without. */
export function interval(model, { explained }) {
  const own = explained.intervals;
  if (!own) return [];
  const share = `${number(own.coverage * 100, 4)}%`;
  const classes = (row) => row.flatMap((member, at) => (member ? [names.output(model, at)] : [])).join(', ');
  const words = own.sets
    ? `${share} prediction set: ${classes([...own.sets[0]])}.`
    : `${share} prediction interval: ${own.bounds[0][0].map((end) => number(end, 5)).join(' to ')}.`;
  const state = { true: ['good', ''], false: ['bad', 'Unreliable. '] }[own.reliable] ?? ['unknown', 'Reliability unknown. '];
  const note = own.note ? ` ${own.note[0].toUpperCase()}${own.note.slice(1)}.` : '';
  return [el('p', { class: `cover ${state[0]} interval`, role: own.reliable === false ? 'status' : null },
    state[1] ? el('strong', {}, state[1]) : '', words, note)];
}

/** The error bar of the row, its assumption, and whether calibration rows contradict it; nothing without. */
export function errorBar({ explained }) {
  const own = explained.error_bars;
  if (!own) return [];
  const bar = own.bars[0][0];
  const words = Number.isFinite(bar) ? `Error bar: ±${number(bar, 5)}, if ${own.assumption}.`
    : 'No error bar: the row is outside of the certified box.';
  const note = own.note ? ` ${own.note[0].toUpperCase()}${own.note.slice(1)}.` : '';
  return [el('p', { class: `cover ${own.contradicted ? 'bad' : 'unknown'} error-bar`, role: own.contradicted ? 'status' : null },
    own.contradicted ? el('strong', {}, 'Unreliable. ') : '', words, note)];
}

/** Reports whether the row is within the training grid. */
export function coverage(model, { covered, state }) {
  const first = covered.layers[0];
  const zones = first.zones[0].flat(Infinity);
  const inputs = (zone) => zones.flatMap((each, at) => (each === zone ? [`${names.feature(model, at)} = ${number(state.row[at], 4)}`] : []));
  const [out, extended] = [inputs(OUT), inputs(EXTENDED)];
  const hidden = covered.layers.slice(1).map((layer) => layer.counts[0][2]).reduce((sum, count) => sum + count, 0);
  if (zones.every((zone) => zone === 0)) {
    return el('p', { class: 'cover unknown' }, 'The training grid is unknown: the model has no grids and no baseline. Export it again with rows of its training data to check rows.');
  }
  const words = [];
  if (out.length) {
    words.push(`${listed(out)} ${out.length > 1 ? 'are' : 'is'} out of grid, by at most ${number(first.cells[0], 3)} grid intervals.`
      + ' There, the prediction is an extrapolation.');
  }
  if (extended.length) words.push(`${listed(extended)} ${extended.length > 1 ? 'are' : 'is'} in the extended grid, where fewer basis functions contribute.`);
  if (hidden) words.push(`${hidden} hidden ${hidden > 1 ? 'nodes are' : 'node is'} out of grid.`);
  if (!words.length) return el('p', { class: 'cover good' }, 'All inputs are within the training grid.');
  return el('p', { class: `cover ${out.length ? 'bad' : 'fair'}`, role: 'status' }, el('strong', {}, out.length ? 'Out of grid. ' : 'Edge of the grid. '), words.join(' '));
}

function listed(words) {
  return words.length > 4 ? `${words.slice(0, 3).join(', ')} and ${words.length - 3} more` : words.join(', ');
}

/** Converts the paths of an explanation to columns of nodes, and the edges between them. */
export function paths(model, explained, state) {
  const last = model.layers.length;
  const edges = explained.path.flatMap(({ layer, sources, destinations, values }) => values[0][0].map((value, at) => {
    const edge = { layer, source: sources[0][0][at], destination: destinations[0][0][at], value };
    const from = names.nodeOfSource(model.layers[layer], edge.source);
    const to = names.nodeOfDestination(model.layers[layer], edge.destination);
    return { ...edge, stage: layer, from, to, name: edgeNames(model, edge).join(' \u2192 ') };
  })).filter((edge) => edge.to !== null && Number.isFinite(edge.value) && edge.value !== 0);
  const strongest = Math.max(...edges.map((edge) => Math.abs(edge.value)), 0);
  const drawn = edges.filter((edge) => Math.abs(edge.value) >= strongest * LEAST);
  const columns = Array.from({ length: last + 1 }, (_, stage) => {
    const keys = drawn.flatMap((edge) => (edge.stage === stage ? [edge.from] : edge.stage === stage - 1 ? [edge.to] : []));
    return [...new Set(keys)].sort((a, b) => a - b).map((key) => ({
      key, name: stage && stage < last ? `node ${key}` : names.node(model, stage, key),
      value: stage === 0 ? `= ${number(state.row[key], 4)}` : stage === last ? `= ${number(explained.predictions[0][0], 4)}` : '',
    }));
  });
  return { columns, edges: drawn };
}

/** Describes the method and its residual, and lists the notes of the server. */
export function notes(explained) {
  const residual = explained.completeness_error[0][0];
  return [
    ...explained.notes.map((note) => el('p', { class: 'cover fair' }, note)),
    el('details', { class: 'panel' }, el('summary', {}, 'Method and residual'),
      el('p', {}, 'kanserve propagates the difference from the reference through the layers. The base value and the contributions sum to the '
        + `prediction, with a residual of ${number(residual, 2)}. A contribution describes this prediction of this model relative to this reference. `
        + 'It does not describe cause and effect in your data.')),
  ];
}
