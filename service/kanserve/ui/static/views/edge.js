// Page of one edge, at /ui/NAME/edge/LAYER/SOURCE/DESTINATION: function, slope, formula, live input.

import { ApiError } from '../api.js';
import { button, el, facts, labelled, table, tell } from '../dom.js';
import { beyond, functionChart, grids, inputChart, slopeChart, style, total } from '../charts/edge.js';
import { count, number, seconds, share } from '../format.js';
import * as names from '../names.js';
import { lines } from '../nodes.js';
import { savers } from '../svg.js';

const POINTS = 257;
const WIDEST = 880; // pixels of a picture

export async function show(root, ctx) {
  const { model, path } = ctx;
  const [at, source, destination] = where(model, path);
  const layer = model.layers[at];
  const node = names.nodeOfSource(layer, source);
  const into = names.nodeOfDestination(layer, destination);
  const ends = [names.node(model, at, node), into === null ? `sum ${destination}` : names.node(model, at + 1, into)];
  root.append(
    el('h1', {}, `${ends[0]} \u2192 ${ends[1]}`),
    el('p', { class: 'quiet' }, `Edge ${source} \u2192 ${destination} of layer ${at}${layer.name ? ` (${layer.name})` : ''}, `,
      el('a', { href: ctx.link('map') }, `${model.model_name} version ${model.model_version}`)),
    chooser(ctx, at, source, destination),
  );
  const picture = el('section', { 'aria-label': 'Function' });
  const input = el('section', { 'aria-label': 'Input' });
  const more = el('section', {});
  root.append(picture, input, more);
  const known = { ...grids(layer, source), names: ends, width: Math.min(WIDEST, Math.max(300, root.clientWidth)) };
  let domain = null;
  try {
    const curve = await curveOf(ctx, at, source, destination);
    domain = [curve.x[0], curve.x.at(-1)];
    drawFunction(picture, curve, known, `${model.model_name}-${at}-${source}-${destination}`);
    more.append(...details(model, layer, [source, destination], ends, curve));
  } catch (error) {
    if (!(error instanceof ApiError) || ![400, 501].includes(error.status)) throw error;
    picture.append(el('p', { class: 'trouble' }, error.message)); // as an edge of class B, which is no curve
  }
  return follow(input, ctx, [at, node], domain, known);
}

/** Raises what `tell` has words for. */
function where(model, path) {
  const found = path.map((part) => (/^\d+$/.test(part) ? Number(part) : NaN));
  const [at, source, destination] = found;
  const layer = model.layers[at];
  if (found.length !== 3 || !layer || !(source < layer.sources) || !(destination < layer.destinations)) {
    const sizes = model.layers.map((one) => `${one.sources} \u00d7 ${one.destinations}`).join(', ');
    throw new ApiError(404, `${model.model_name} version ${model.model_version} has no edge ${path.join('/')}; `
      + `an address ends with LAYER/SOURCE/DESTINATION, counted from 0, and its layers have ${sizes} edges.`);
  }
  return found;
}

function chooser(ctx, at, source, destination) {
  const { model } = ctx;
  const box = (text, value, most) => labelled(text, el('input', { type: 'number', min: 0, max: most - 1, value: String(value), required: true }));
  const fields = [['Layer', at, model.layers.length], ['source', source, model.layers[at].sources], ['destination', destination, model.layers[at].destinations]].map((one) => box(...one));
  const step = (by) => {
    const { sources, destinations } = model.layers[at];
    const next = (source * destinations + destination + by + sources * destinations) % (sources * destinations);
    ctx.go(ctx.link('edge', at, Math.floor(next / destinations), next % destinations).slice(3));
  };
  return el('form', {
    class: 'row', 'aria-label': 'Edge', onsubmit: (event) => {
      event.preventDefault();
      ctx.go(ctx.link('edge', ...fields.map((field) => field.querySelector('input').value)).slice(3));
    },
  }, fields, el('button', {}, 'Show'), button('Previous', () => step(-1)), button('Next', () => step(1)));
}

async function curveOf({ api, kan }, layer, source, destination) {
  const { blocks: [block] } = await api.post(`${kan}/curves`, {
    layers: [layer], sources: [source], destinations: [destination], points: POINTS, derivative: true, parts: true, extrema: true,
  }, { packed: true });
  return {
    x: block.x, phi: block.phi, derivative: block.derivative, domain: block.domains[0],
    parts: (block.parts ?? []).filter((part) => part.phi).map(({ kind, phi }) => ({ kind, phi })),
    extrema: [0, 1].map((one) => [block.extrema_x[one], block.extrema[one]]),
  };
}

function drawFunction(root, curve, known, file) {
  const shown = new Set(['parts', 'knots']);
  const place = el('div', {});
  const slope = el('div', {});
  const draw = () => {
    place.replaceChildren(functionChart({ curve, shown, ...known }));
    slope.replaceChildren(...(shown.has('slope') ? [slopeChart({ curve, ...known })] : []));
  };
  const box = (name, text) => el('label', {}, el('input', {
    type: 'checkbox', checked: shown.has(name),
    onchange: (event) => { shown[event.target.checked ? 'add' : 'delete'](name); draw(); },
  }), text);
  root.append(el('h2', {}, 'Function'),
    el('p', { class: 'row legend' },
      el('span', { class: 'key total' }, 'the edge'),
      curve.parts.length > 1 && curve.parts.map((part) => el('span', { class: `key ${style(part.kind)[0]}` }, style(part.kind)[1])),
      curve.parts.length > 1 && box('parts', 'what it is made of'), known.knots.length > 0 && box('knots', 'knots'), box('slope', 'slope')),
    place, slope,
    el('p', { class: 'row' }, savers(() => place.firstChild, file)));
  draw();
}

function details(model, layer, [source, destination], ends, curve) {
  const symbolic = (layer.symbolic ?? []).find((one) => one.source === source && one.destination === destination);
  const mask = layer.mask?.[source * layer.destinations + destination];
  const from = { requested: 'as requested', grid: 'the extended grid, and 2 % more', reference: 'what the reference rows had, and a tenth more', assumed: 'assumed, nothing says more' };
  const columns = [['x', curve.x], ['phi', curve.phi], ...(curve.parts.length > 1 ? curve.parts.map((part) => [part.kind, part.phi]) : []), ['slope', curve.derivative]];
  return [
    el('h2', {}, 'What it is'),
    facts([
      symbolic && ['Formula', el('code', {}, formula(symbolic, ends[0]))],
      ['Range', from[curve.domain] ?? curve.domain],
      mask !== undefined && ['Mask', number(mask)],
      ['Smallest', `${number(curve.extrema[0][1])} at ${number(curve.extrema[0][0])}`],
      ['Largest', `${number(curve.extrema[1][1])} at ${number(curve.extrema[1][0])}`],
    ].filter(Boolean)),
    el('h2', {}, 'Table'),
    table(columns.map(([name, values]) => ({ name, number: true, value: (row) => values[row], text: (row) => number(values[row], 6) })),
      Array.from({ length: curve.x.length }, (_, row) => row), { caption: `${curve.x.length} points of the curve`, file: `${model.model_name}-${source}-${destination}` }),
  ];
}

/** phi(x) = mask * (c * function(a * x + b) + d), with what says nothing left out. */
export function formula({ function: called, expression, a, b, c, d, mask }, name) {
  if (expression) return expression;
  const shift = (value) => (value === 0 ? '' : ` ${value < 0 ? '-' : '+'} ${number(Math.abs(value))}`);
  const times = (value, text) => (value === 1 ? text : `${number(value)} ${text}`);
  const inner = `${called}(${times(a, name)}${shift(b)})`;
  const outer = `${times(c, inner)}${shift(d)}`;
  return mask === 1 || mask === 0 ? outer : `${number(mask)} (${outer})`;
}

/** Draws what the source was as long as the view is there; returns what ends that. */
function follow(root, ctx, [layer, node], domain, known) {
  const stop = new AbortController();
  const name = known.names[0];
  const place = el('div', {}, el('p', { class: 'quiet' }, 'Waiting for the statistics of the traffic.'));
  const told = el('p', { class: 'quiet' });
  root.append(el('h2', {}, `Where ${name} was`), place, told);
  const draw = ({ statistics, end_reason: ended }) => {
    const seen = lines(ctx.model, statistics).find((one) => one.layer === layer && one.at === node);
    if (ended) ctx.changed(`${ended}: what is shown is of version ${statistics.model_version}.`);
    if (!seen) { place.replaceChildren(el('p', {}, `Nothing is counted of ${name}.`)); return; }
    const counted = [['Reference', seen.baselineCounts, 'reference'], ['Traffic', seen.counts, 'live']];
    const any = counted.some(([, counts]) => total(counts) > 0);
    const found = [
      any && el('p', { class: 'row legend' }, counted.filter(([, counts]) => total(counts) > 0).map(([text, counts, kind]) =>
        el('span', { class: `key ${kind}` }, `${text}: ${count(total(counts))} values, ${beyond(seen.bounds, counts)}`))),
      any && inputChart({ seen, domain: domain ?? [seen.bounds[0], seen.bounds.at(-1)], name, grid: known.grid, width: known.width }),
      !statistics.baseline_rows && el('p', {}, 'There is nothing to compare with: the export was given no rows (', el('code', {}, 'kanserve export --baseline'), ').'),
      !total(seen.counts) && el('p', {}, 'The model was not asked anything yet, since this is counted.'),
    ];
    place.replaceChildren(...found.filter(Boolean));
    const zones = seen.zones && total(seen.zones) ? `; on the grid ${share(seen.zones[0] / total(seen.zones))}, outside ${share(seen.zones[2] / total(seen.zones))}` : '';
    told.textContent = !statistics.rows_seen ? '' : `About ${count(statistics.rows_seen)} rows were answered in ${seconds(statistics.seconds)}${zones}.`;
  };
  ctx.api.follow(`${ctx.kan}/watch?source=live&interval=2`, draw, {
    signal: stop.signal,
    onTrouble: (error) => ctx.announce(error ? 'The server does not answer; what is shown is old.' : 'The server answers again.'),
  }).catch((error) => (error.status === 400 || error.status === 501 ? place.replaceChildren(el('p', {}, error.message)) : tell(place, error)));
  return () => stop.abort();
}
