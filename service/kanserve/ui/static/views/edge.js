// Page of one edge, at /ui/NAME/edge/LAYER/SOURCE/DESTINATION: function, slope, formula, live input, edit.

import { ApiError } from '../api.js';
import { button, el, empty, facts, heading, labelled, panel, reason, room, showError, sized } from '../dom.js';
import { beyond, functionChart, grids, inputChart, slopeChart, style, total } from '../charts/edge.js';
import { edgeEdit } from '../edgeedit.js';
import { count, digits, number, seconds, share } from '../format.js';
import { KINDS, Layer } from '../network.js';
import * as names from '../names.js';
import { lines } from '../nodes.js';
import { savers } from '../svg.js';
import { tablePanel } from '../table.js';

const POINTS = 257;
const HEIGHTS = [[500, 300], [660, 500], [Infinity, 430]]; // up to a width in pixels, the height of the function
const RANGES = {
  requested: 'as requested', grid: 'extended grid, plus 2%', reference: 'range of the verification rows, plus 10%',
  assumed: 'assumed: the model has no grid',
};
const STALE = 'The server does not respond. The view shows earlier values.';

export async function show(root, ctx) {
  const { model, path } = ctx;
  const [at, source, destination] = where(model, path);
  const layer = model.layers[at];
  const node = names.nodeOfSource(layer, source);
  const into = names.nodeOfDestination(layer, destination);
  const ends = [names.node(model, at, node), into === null ? `sum ${destination}` : names.node(model, at + 1, into)];
  const unit = names.outputScale(model, at, into);
  const view = { ctx, layer, at, source, destination, node, ends, unit, ...grids(layer, source), file: `${model.model_name}-${at}-${source}-${destination}` };
  const [shape, input, identity, points] = [el('div'), el('div'), el('div'), el('div')];
  let curve = null;
  try {
    curve = await curveOf(ctx, at, source, destination);
  } catch (error) {
    if (!(error instanceof ApiError) || ![400, 501].includes(error.status)) throw error;
    shape.append(panel('Function', {}, el('p', { class: 'cover fair' }, reason(error)))); // an edge of class B is not a curve
  }
  const edit = curve && model.editable && edgeEdit(view);
  root.append(
    heading(`${ends[0]} \u2192 ${ends[1]}`, `Edge ${source} \u2192 ${destination} of layer ${at}${layer.name ? ` (${layer.name})` : ''} in `,
      el('a', { href: ctx.link('map') }, `${model.model_name}, version ${model.model_version}`)),
    chooser(ctx, at, source, destination),
    el('div', { class: 'edge-page' }, shape, el('div', { class: 'stack' }, input, identity)), ...(edit ? [edit.node] : []), points);
  identity.append(panel('Facts', {}, facts(described(view, curve))));
  if (curve) points.append(pointPanel(view, curve));
  const stops = [curve && drawFunction(shape, view, curve), follow(input, view, curve && [curve.x[0], curve.x.at(-1)]), edit?.leave];
  return () => stops.forEach((stop) => stop?.());
}

/** Reads layer, source and destination from the address. Throws ApiError with status 404 if the model has no such edge. */
function where(model, path) {
  const found = path.map((part) => (/^\d+$/.test(part) ? Number(part) : NaN));
  const [at, source, destination] = found;
  const layer = model.layers[at];
  if (found.length !== 3 || !layer || !(source < layer.sources) || !(destination < layer.destinations)) {
    const sizes = model.layers.map((each) => `${each.sources} \u00d7 ${each.destinations}`).join(', ');
    throw new ApiError(404, `${model.model_name} version ${model.model_version} has no edge ${path.join('/')}. `
      + `The address ends with LAYER/SOURCE/DESTINATION, counted from 0. The layers have ${sizes} edges.`);
  }
  return found;
}

function chooser(ctx, at, source, destination) {
  const { model } = ctx;
  const { sources, destinations } = model.layers[at];
  const fields = [['Layer', at, model.layers.length], ['Source', source, sources], ['Destination', destination, destinations]]
    .map(([text, value, most]) => labelled(text, el('input', { type: 'number', min: 0, max: most - 1, value: String(value), required: true })));
  const open = (...edge) => ctx.go(ctx.link('edge', ...edge).slice('ui/'.length));
  const step = (by) => {
    const next = (source * destinations + destination + by + sources * destinations) % (sources * destinations);
    open(at, Math.floor(next / destinations), next % destinations);
  };
  return el('form', {
    class: 'row', 'aria-label': 'Edge', onsubmit: (event) => {
      event.preventDefault();
      open(...fields.map((field) => field.querySelector('input').value));
    },
  }, fields, el('span', { class: 'row' }, el('button', {}, 'Show'), button('Previous', () => step(-1)), button('Next', () => step(1))));
}

async function curveOf({ api, kan }, layer, source, destination) {
  const { blocks: [block] } = await api.post(`${kan}/curves`, {
    layers: [layer], sources: [source], destinations: [destination], points: POINTS, derivative: true, parts: true, extrema: true,
  }, { packed: true });
  return {
    x: block.x, phi: block.phi, derivative: block.derivative, domain: block.domains[0],
    parts: (block.parts ?? []).filter((part) => part.phi).map(({ kind, phi }) => ({ kind, phi })),
    extrema: [0, 1].map((each) => [block.extrema_x[each], block.extrema[each]]),
  };
}

/** Draws the function, and its slope on request. Returns a function that ends this. */
function drawFunction(root, { grid, knots, ends, unit, file }, curve) {
  const shown = new Set(['parts', 'knots']);
  const place = el('div', { class: 'plot' });
  const slope = el('div', {});
  const draw = () => {
    const known = { grid, knots, names: unit === 1 ? ends : [ends[0], `${ends[1]}, scaled`], width: room(place) };
    place.replaceChildren(functionChart({ curve, shown, height: heightOf(known.width), ...known }));
    slope.replaceChildren(...(shown.has('slope') ? [slopeChart({ curve, ...known })] : []));
  };
  const box = (name, text) => el('label', {}, el('input', {
    type: 'checkbox', checked: shown.has(name),
    onchange: (event) => { shown[event.target.checked ? 'add' : 'delete'](name); draw(); },
  }), text);
  const parts = curve.parts.length > 1;
  root.append(panel('Function', { tools: savers(() => place.firstChild, file) },
    el('p', { class: 'keys' },
      el('span', { class: 'key total' }, 'edge'),
      parts && curve.parts.map((part) => el('span', { class: `key ${style(part.kind)[0]}` }, style(part.kind)[1])),
      grid && [['extension', 'extended grid'], ['outside', 'out of grid']].map(([kind, text]) => el('span', { class: `key ${kind}` }, text))),
    place, slope,
    el('p', { class: 'row' }, parts && box('parts', 'Parts'), knots.length > 0 && box('knots', 'Knots'), box('slope', 'Slope'))));
  draw();
  return sized(place, draw);
}

function heightOf(width) {
  return HEIGHTS.find(([most]) => width < most)[1];
}

function described({ layer, at, source, destination, ends, unit, ctx: { model } }, curve) {
  const symbolic = (layer.symbolic ?? []).find((each) => each.source === source && each.destination === destination);
  const edge = source * layer.destinations + destination;
  const edit = model.edit?.edges?.find((each) => each.layer === at && each.source === source && each.destination === destination);
  const mask = layer.mask?.[edge];
  const place = (x) => number(x, digits(curve.x[0], curve.x.at(-1)));
  const extreme = ([x, value]) => `${number(value)} at ${place(x)}`;
  return [
    symbolic && ['Formula', el('code', {}, formula(symbolic, names.valueOfSource(layer, source, ends[0])))],
    edit && ['Edited', `${edit.operation} (${edit.form}), from version ${model.edit.parent_version}${model.edit.author ? ` by ${model.edit.author}` : ''}`],
    unit !== 1 && ['Unit', `1 is ${number(unit)} of ${ends[1]}, by the output scaler`],
    ['Kind', KINDS[new Layer(model, at).kinds[edge]]],
    ['Functions', layer.bases.map((basis) => basis.kind).join(', ') || 'symbolic'],
    curve && ['Minimum', extreme(curve.extrema[0])],
    curve && ['Maximum', extreme(curve.extrema[1])],
    curve && ['Range', `${place(curve.x[0])} to ${place(curve.x.at(-1))} (${RANGES[curve.domain] ?? curve.domain})`],
    mask !== undefined && ['Mask', number(mask)],
  ].filter(Boolean);
}

function pointPanel({ file }, curve) {
  const parts = curve.parts.length > 1 ? curve.parts.map((part) => [part.kind, part.phi]) : [];
  const columns = [['x', curve.x], ['phi', curve.phi], ...parts, ['slope', curve.derivative]];
  const size = (name) => (name === 'x' ? digits(curve.x[0], curve.x.at(-1), 6) : 6);
  return tablePanel('Curve points', columns.map(([name, values]) => ({ name, number: true, value: (row) => values[row], text: (row) => number(values[row], size(name)) })),
    Array.from({ length: curve.x.length }, (_, row) => row), { caption: 'Points of the function', file, kind: 'points', note: `${curve.x.length} points of the function` });
}

/** Writes phi(x) = mask * (c * function(a * x + b) + d), without parts that have no effect. */
export function formula({ function: called, expression, a, b, c, d, mask }, name) {
  if (expression) return expression;
  const shift = (value) => (value === 0 ? '' : ` ${value < 0 ? '-' : '+'} ${number(Math.abs(value))}`);
  const times = (value, text) => (value === 1 ? text : `${number(value)} ${text}`);
  const inner = `${called}(${times(a, name)}${shift(b)})`;
  const outer = `${times(c, inner)}${shift(d)}`;
  return mask === 1 || mask === 0 ? outer : `${number(mask)} (${outer})`;
}

/** Draws the distribution of the source, and follows live traffic. Returns a function that ends this. */
function follow(root, { ctx, at, node, ends: [name], grid }, domain) {
  const stop = new AbortController();
  const place = el('div', { class: 'plot' }, el('p', { class: 'quiet' }, 'The server counts the traffic.'));
  const status = el('p', { class: 'quiet status' });
  let latest = null;
  root.append(panel('Input distribution', { note: `Values of ${name} in the baseline and in live traffic` }, place, status));
  const draw = () => {
    if (!latest) return;
    const seen = lines(ctx.model, latest).find((each) => each.layer === at && each.at === node);
    if (!seen) { place.replaceChildren(empty(`The server does not count values of ${name}.`)); return; }
    place.replaceChildren(...distribution({ seen, domain: domain ?? [seen.bounds[0], seen.bounds.at(-1)], name, grid, width: room(place) }, latest, ctx.name));
    const zones = seen.zones && total(seen.zones) ? ` ${share(seen.zones[0] / total(seen.zones))} in grid, ${share(seen.zones[2] / total(seen.zones))} out of grid.` : '';
    status.textContent = latest.rows_seen ? `About ${count(latest.rows_seen)} rows served in ${seconds(latest.seconds)}.${zones}` : '';
  };
  const take = ({ statistics, end_reason: ended }) => {
    latest = statistics;
    draw();
    if (ended) ctx.changed(`The view shows version ${statistics.model_version}: ${ended}.`);
  };
  ctx.api.follow(`${ctx.kan}/watch?source=live&interval=2`, take, {
    signal: stop.signal, onTrouble: (error) => ctx.announce(error ? STALE : 'The server responds again.'),
  }).catch((error) => (error.status === 400 || error.status === 501 ? place.replaceChildren(el('p', {}, reason(error))) : showError(place, error)));
  const resized = sized(place, draw);
  return () => { stop.abort(); resized(); };
}

function distribution(chart, statistics, model) {
  const { seen } = chart;
  const counted = [['Baseline', seen.baselineCounts, 'reference'], ['Live traffic', seen.counts, 'live']].filter(([, counts]) => total(counts) > 0);
  const keys = counted.map(([text, counts, kind]) => el('span', { class: `key ${kind}` }, `${text}: ${count(total(counts))} values, ${beyond(seen.bounds, counts)}`));
  return [
    counted.length && el('p', { class: 'keys' }, keys),
    counted.length && inputChart(chart),
    !statistics.baseline_rows && empty('No baseline.', 'Export the model with rows of your data to compare live traffic with them.', 'kanserve export CHECKPOINT --baseline train.csv'),
    !total(seen.counts) && empty('No live traffic yet.', 'Send a request. The distribution appears within two seconds.', `kanserve infer ${model} --input rows.csv`),
  ].filter(Boolean);
}
