// Comparison of two versions of a model, at /ui/NAME/compare?version=2&with=1: importance and curve of each edge.

import { ApiError } from '../api.js';
import { el, empty, facts, heading, labelled, panel, select } from '../dom.js';
import { count, number } from '../format.js';
import * as names from '../names.js';
import { curves, layersOf, score } from '../network.js';
import { spans } from '../rows.js';
import { chart, extent, line, roomy } from '../svg.js';
import { tablePanel } from '../table.js';

const POINTS = 33;
const ALL = 4096; // edges of a layer whose curves the page requests; of a larger layer, those of FEW edges
const FEW = 32;
const DRAWN = 9; // edges with a picture
const SAME = 1e-5; // share of the range of a curve, which rounding can explain
const [LEAST, ROWS, WORK] = [8, 64, 4e6]; // rows for the importance of both versions, and edges times rows

export async function show(root, ctx) {
  const { model, name } = ctx;
  const others = (ctx.models.get(name) ?? []).filter((version) => version !== model.model_version);
  const lower = others.filter((version) => Number(version) < Number(model.model_version));
  const other = ctx.params.get('with') ?? lower.at(-1) ?? others[0];
  const title = heading(`Compare versions of ${name}`, 'The edges whose curves differ most, and the change of their importance.');
  if (!other) {
    root.append(title, empty(`Only version ${model.model_version} is ready.`, 'Export or edit a second version, and open this page again.', `kanserve export CHECKPOINT --name ${name} --version 2`));
    return;
  }
  ctx.doing(`The server describes version ${other} of ${name}, and computes importance and curves of both versions.`);
  const [after, before] = await Promise.all([side(ctx, model, ctx.kan), ctx.api.get(ctx.kanOf(other), { packed: true }).then((described) => side(ctx, described, ctx.kanOf(other)))]);
  const choose = select(others.includes(other) ? others : [...others, other], other, (version) => {
    const here = ctx.link('compare').slice('ui/'.length);
    ctx.go(`${here}${here.includes('?') ? '&' : '?'}with=${encodeURIComponent(version)}`);
  });
  const head = [title, el('p', { class: 'row' }, labelled(`Version ${model.model_version} with version`, choose))];
  if (before.shape !== after.shape) {
    root.append(...head, empty('The versions have different shapes.', `Version ${other} is ${before.shape}, and version ${model.model_version} is ${after.shape}. The page compares edges of one shape only.`));
    return;
  }
  const about = await scored(ctx, before, after);
  const { edges, compared, active } = await differences(ctx, before, after);
  const changed = edges.filter((edge) => edge.differs);
  const titles = [`version ${other}`, `version ${model.model_version}`];
  root.append(
    ...head,
    el('section', { class: 'panel' }, facts([
      ['Active edges', count(active)], ['Curves compared', `${count(compared)} of ${count(active)}`], ['Curves that differ', count(changed.filter((edge) => edge.curves).length)],
    ], { across: true })),
    panel('Largest differences', { note: 'Root of the mean square of the difference, over the common range of both curves.' },
      changed.length ? [el('p', { class: 'keys' }, el('span', { class: 'key former' }, titles[0]), el('span', { class: 'key total' }, titles[1])),
        el('div', { class: 'grid' }, changed.slice(0, DRAWN).filter((edge) => edge.curves).map((edge) => figure(ctx, edge, titles)))]
        : el('p', {}, 'No edge differs by more than rounding.')),
    tablePanel('Edges', columns(ctx, titles), edges, { caption: 'Edges of both versions', file: `${name}-${other}-${model.model_version}`, note: `${count(edges.length)} of ${count(active)} edges, by the difference of their curves. Importance: ${about}.` }));
}

/** One version: the context of its requests, its layers and its shape. */
function side(ctx, model, kan) {
  const shape = [model.layers[0].sources, ...model.layers.map((layer) => layer.destinations)].join(' \u2192 ');
  return { own: { ...ctx, kan }, layers: layersOf(model), shape };
}

/** Sets the importance of the edges of both versions on the same rows, so that it can be compared. Resolves to a text. */
async function scored(ctx, before, after) {
  try {
    const rows = await samples(ctx);
    const [text] = await Promise.all([before, after].map(({ layers, own }) => score(layers, own, rows)));
    return text;
  } catch (error) {
    if (!(error instanceof ApiError) || ![400, 413, 501].includes(error.status)) throw error;
    for (const layer of [...before.layers, ...after.layers]) layer.scores = null;
    return `not available on the same rows of both versions, ${error.message}`;
  }
}

/** Rows that fill the ranges of the inputs evenly: the additive recurrence with the powers of the root of x^(n+1) = x + 1. */
async function samples(ctx) {
  const { model } = ctx;
  if (!names.ofInputs(model)) throw new ApiError(501, 'the page has no rows for a model with several inputs');
  const ranges = await spans(ctx, names.width(model.input));
  let root = 1.5;
  for (let turn = 0; turn < 60; turn += 1) root = (1 + root) ** (1 / (ranges.length + 1));
  const edges = model.layers.reduce((sum, layer) => sum + layer.active_edges, 0);
  return Array.from({ length: Math.max(LEAST, Math.min(ROWS, Math.floor(WORK / edges))) }, (_, row) => names.shaped(ranges.map(([low, high], at) => low + (high - low) * ((0.5 + (row + 1) * root ** -(at + 1)) % 1)), model.input.shape));
}

/** Resolves to {edges: the active ones that the page lists, compared: the number with both curves, active: of all}. */
async function differences(ctx, before, after) {
  const edges = [];
  let active = 0;
  for (const [at, layer] of after.layers.entries()) {
    const former = before.layers[at];
    const change = (edge) => Math.abs((layer.scores?.[edge] ?? 0) - (former.scores?.[edge] ?? 0));
    const own = Array.from({ length: layer.size }, (_, edge) => edge).filter((edge) => layer.kinds[edge] || former.kinds[edge]);
    active += own.length;
    const chosen = layer.size <= ALL ? own : own.sort((a, b) => change(b) - change(a)).slice(0, FEW);
    const read = async (side, which) => (layer.size <= ALL ? curves(side, which.own, [], [], POINTS)
      : new Map((await Promise.all(chosen.map((edge) => curves(side, which.own, [layer.source(edge)], [layer.destination(edge)], POINTS)))).flatMap((one) => [...one])));
    const [old, now] = await Promise.all([read(former, before), read(layer, after)]);
    edges.push(...chosen.map((edge) => {
      const both = old.has(edge) && now.has(edge) ? [old.get(edge), now.get(edge)] : null;
      const apart = both ? distance(...both) : NaN;
      const range = both ? Math.max(...both.map(({ phi }) => extent(phi)).map(([low, high]) => Math.max(Math.abs(low), Math.abs(high)))) : 0;
      const scores = [former.scores?.[edge] ?? NaN, layer.scores?.[edge] ?? NaN];
      return { layer, edge, curves: both, apart, scores, differs: both ? !(apart <= SAME * range) : scores[0] !== scores[1] };
    }));
  }
  const by = (edge) => Math.abs(edge.scores[1] - edge.scores[0]) || 0;
  edges.sort((a, b) => (b.apart || 0) - (a.apart || 0) || by(b) - by(a));
  return { edges, active, compared: edges.filter((edge) => edge.curves).length };
}

/** The root of the mean square of the difference of two curves over their common range; NaN without one. */
function distance(before, after) {
  const within = Array.from(after.x.keys()).filter((at) => after.x[at] >= before.x[0] && after.x[at] <= before.x.at(-1));
  const squares = within.map((at) => (after.phi[at] - interpolated(before, after.x[at])) ** 2);
  return squares.length ? Math.sqrt(squares.reduce((sum, each) => sum + each, 0) / squares.length) : NaN;
}

/** The value of a curve with equal steps at x, between its two nearest points. */
function interpolated({ x, phi }, at) {
  const place = ((at - x[0]) / (x.at(-1) - x[0])) * (x.length - 1);
  const left = Math.min(Math.floor(place), x.length - 2);
  return place === left ? phi[left] : phi[left] + (phi[left + 1] - phi[left]) * (place - left);
}

function figure({ link }, { layer, edge, curves: [before, after], apart, scores }, titles) {
  const title = layer.edgeName(edge);
  const picture = chart({
    title: `${title}: ${titles.join(' and ')}`, width: 250, height: 170, margin: { left: 44, right: 10, top: 10, bottom: 36 },
    x: { domain: extent(before.x, after.x), label: layer.sourceName(layer.source(edge)), ticks: 4 }, y: { domain: roomy(extent(before.phi, after.phi), 0.12), ticks: 4 },
  });
  picture.plot.append(line(after.x, after.phi, picture.x, picture.y, { class: 'line total' }), line(before.x, before.phi, picture.x, picture.y, { class: 'line former' }));
  return el('figure', {}, picture.node, el('figcaption', {}, el('a', { href: link('edge', layer.at, layer.source(edge), layer.destination(edge)) }, title),
    `: difference ${number(apart, 3)}${scores.every(Number.isFinite) ? `, importance ${scores.map((one) => number(one, 3)).join(' \u2192 ')}` : ''}`));
}

function columns({ link }, titles) {
  const importance = (at) => ({ name: `Importance, ${titles[at]}`, value: (row) => row.scores[at], text: (row) => number(row.scores[at], 3), number: true });
  return [
    { name: 'Edge', value: ({ layer, edge }) => layer.edgeName(edge), text: ({ layer, edge }) => el('a', { href: link('edge', layer.at, layer.source(edge), layer.destination(edge)) }, layer.edgeName(edge)) },
    { name: 'Difference', value: (row) => row.apart, text: (row) => (row.differs || !row.curves ? number(row.apart, 3) : 'same'), number: true },
    { name: 'Change of importance', value: ({ scores }) => scores[1] - scores[0], text: ({ scores }) => number(scores[1] - scores[0], 3), number: true },
    importance(0), importance(1),
    { name: 'Layer', value: ({ layer }) => layer.at, number: true },
  ];
}
