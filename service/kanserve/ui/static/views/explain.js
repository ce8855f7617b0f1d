// Explanation page of one row: feature contributions, paths through the layers, position on the edge curves.

import { ApiError } from '../api.js';
import { Asking } from '../asking.js';
import { dotted } from '../charts/dotted_curve.js';
import { flow, valued } from '../charts/path.js';
import { signed, waterfall } from '../charts/waterfall.js';
import { button, el, select, table, tell } from '../dom.js';
import { number } from '../format.js';
import { Doing, bone } from '../skeleton.js';
import * as names from '../names.js';
import { form, fromFragment, paste, sampled, toFragment } from '../rows.js';
import { savers } from '../svg.js';

const BARS = 10; // inputs with a bar of their own
const EDGES = 14; // of a layer, on the way
const CURVES = 6;
// The boxes that each part shows until the first answer arrives.
const WAITING = { answer: ['tile', 'line'], where: ['row'], bars: ['line', 'chart'], way: ['line', 'picture'] };

export async function show(root, ctx) {
  const { model } = ctx;
  if (!names.ofInputs(model)) {
    throw new ApiError(501, 'This model has several inputs, or other parts before its KAN layers: the page has no form for its '
      + 'rows. `kanserve explain` takes them from files.');
  }
  const size = names.width(model.input);
  const known = fromFragment(size);
  ctx.doing(`The server computes where the ${size} inputs of ${model.model_name} range, and which row of its traffic is the newest.`);
  const ranges = await spans(ctx, size);
  const state = {
    row: known.row ?? await beginning(ctx, ranges), reference: known.reference,
    output: Math.min(known.output, names.width(model.output) - 1),
  };
  const view = new Explain(root, ctx, state, ranges);
  await view.start();
  return () => view.leave();
}

/** From where to where each input's slider goes: as far as the curves of the first layer. */
async function spans({ api, kan, model }, size) {
  const found = Array.from({ length: size }, () => [-1, 1]);
  if (!alone(model, 0)) return found; // edges that are no curves: any range is as good
  const { blocks } = await api.post(`${kan}/curves`, { layers: [0], destinations: [0], points: 2 });
  for (const block of blocks) {
    block.sources.forEach((source, at) => { found[names.nodeOfSource(model.layers[0], source)] = block.x[at]; });
  }
  return found;
}

/** Whether the edges of a layer are curves over their sources. */
function alone(model, layer) {
  return (model.layers[layer].edge_class || model.edge_class) === 'A';
}

/** The newest row that was kept, else the mean of the traffic, else the middle of the sliders. */
async function beginning({ api, kan }, ranges) {
  const middle = ranges.map(([low, high]) => (low + high) / 2);
  const { rows, has_statistics: counted } = await api.get(`${kan}/rows`);
  if (rows.length) return Object.values(rows[0].values)[0].flat(Infinity);
  if (counted) {
    const { nodes, row_count: count } = await api.post(`${kan}/statistics`, { source: 'total' });
    const mean = nodes.find((one) => one.layer === 0)?.mean ?? [];
    if (count && mean.length === middle.length && mean.every(Number.isFinite)) return mean.map((one) => Number(one.toPrecision(4)));
  }
  return middle.map((one) => Number(one.toPrecision(4)));
}

class Explain {
  constructor(root, ctx, state, ranges) {
    Object.assign(this, { root, ctx, state, ranges, curves: new Map(), shown: [], version: '' });
    this.asking = new Asking((...asked) => this.#answers(...asked), (answer) => this.#draw(answer), (error) => this.#fail(error));
    const { model } = ctx;
    this.names = Array.from({ length: state.row.length }, (_, at) => names.feature(model, at));
    this.form = form(model, state.row, ranges, (row, moving) => this.#take({ row }, moving));
    this.parts = Object.fromEntries(['answer', 'where', 'bars', 'way', 'dots', 'notes'].map((name) => [name, el('div', { class: name })]));
    this.trouble = el('p', { class: 'alarm', role: 'alert' });
    this.doing = new Doing(`The server explains this row: contributions of ${state.row.length} inputs, the ${EDGES} strongest edges of each layer, and their curves.`);
    for (const [part, kinds] of Object.entries(WAITING)) this.parts[part].append(...kinds.map(bone));
    this.resized = () => { if (this.answer) this.#draw(this.answer); };
  }

  async start() {
    const { ctx, root, parts } = this;
    const { model } = ctx;
    const taken = (row) => { this.form.set(row); this.#take({ row }, false); };
    root.append(
      el('h1', {}, `Why ${model.model_name} answers so`),
      el('div', { class: 'columns' },
        el('section', { class: 'side', 'aria-label': 'The row' },
          el('h2', {}, 'The row'),
          el('div', { class: 'row' }, this.#choices()),
          this.form.node, paste(this.names, taken), sampled(ctx.api, ctx.kan, this.names, taken),
          el('div', { class: 'row' }, this.#link())),
        el('section', { class: 'wide', 'aria-label': 'The answer' },
          this.trouble, this.doing.node, parts.answer, parts.where, parts.bars, parts.way, parts.dots, parts.notes)));
    addEventListener('resize', this.resized);
    await this.asking.first(this.state);
  }

  leave() {
    removeEventListener('resize', this.resized);
    this.doing.end();
    this.asking.end();
  }

  #choices() {
    const { model } = this.ctx;
    const found = [];
    if (names.width(model.output) > 1) {
      const outputs = Array.from({ length: names.width(model.output) }, (_, at) => [at, names.output(model, at)]);
      found.push(el('label', {}, 'Of ', select(outputs, this.state.output, (value) => this.#take({ output: Number(value) }, false))));
    }
    const references = [['', 'the best there is'], ['mean', 'mean of the reference'], ['grid_center', 'centre of the grid'], ['zeros', 'zeros']];
    found.push(el('label', {}, 'Compared with ', select(references, this.state.reference, (value) => this.#take({ reference: value }, false))));
    return found;
  }

  #link() {
    const place = el('input', { type: 'text', readonly: true, hidden: true, 'aria-label': 'Address of this explanation' });
    const copy = button('Copy a link to this', async () => {
      place.value = location.href;
      try {
        await navigator.clipboard.writeText(location.href);
        this.ctx.announce('The link is copied.');
        copy.textContent = 'Copied';
      } catch { // only pages of this machine, or over TLS, may
        place.hidden = false;
        place.select();
      }
    });
    return [copy, place, el('span', { class: 'quiet' }, 'The row stands behind #, which is sent to no server.')];
  }

  #take(change, moving) {
    Object.assign(this.state, change);
    this.moving = moving;
    this.asking.ask(this.state, moving);
  }

  /** Everything about the row. */
  async #answers({ row, reference, output }, signal) {
    const { api, kan, model } = this.ctx;
    const rows = [names.shaped(row, model.input.shape)];
    const ask = (what, body) => api.post(`${kan}/${what}`, { rows, ...body }, { signal });
    const [explained, covered] = await Promise.all([
      ask('explain', { reference, outputs: [output], path_top_k: EDGES }),
      ask('coverage', {}),
    ]);
    const edges = this.moving && this.shown.length ? this.shown : chosen(explained.path);
    const layers = [...new Set(edges.map((edge) => edge.layer))];
    const values = new Map();
    await Promise.all(layers.map(async (at) => {
      const own = edges.filter((edge) => edge.layer === at);
      const picked = { sources: unique(own.map((edge) => edge.source)), destinations: unique(own.map((edge) => edge.destination)) };
      const { layers: [found] } = await ask('edges', { layers: [at], nodes: true, ...picked });
      values.set(at, found);
      await Promise.all(own.map((edge) => this.#curve(edge, signal)));
    }));
    return { explained, covered, edges, values, state: { row, reference, output } };
  }

  async #curve({ layer, source, destination }, signal) {
    const key = `${layer}/${source}/${destination}`;
    if (this.curves.has(key)) return;
    const { api, kan, model } = this.ctx;
    if (!alone(model, layer)) {
      this.curves.set(key, null); // the other nodes of the row have a say in what such an edge gives
      return;
    }
    const { blocks: [block] } = await api.post(`${kan}/curves`,
      { layers: [layer], sources: [source], destinations: [destination], points: 121 }, { signal });
    this.curves.set(key, { x: block.x[0], phi: block.phi[0][0], domain: block.domains[0] });
  }

  #fail(error) {
    this.doing.end();
    if (!this.answer) {
      tell(this.root, error);
      return;
    }
    this.trouble.textContent = error.status === 0 ? `${error.message} What is shown is the answer before.` : error.message;
  }

  #draw(answer) {
    const { ctx } = this;
    this.answer = answer;
    this.trouble.textContent = '';
    this.doing.end();
    const { explained } = answer;
    if (this.version && explained.model_version !== this.version) {
      ctx.changed(`Version ${explained.model_version} of ${ctx.name} answers now; the page described version ${this.version}.`);
    }
    this.version ||= ctx.model.model_version;
    toFragment(answer.state);
    const story = told(ctx.model, answer);
    this.parts.answer.replaceChildren(...headline(ctx.model, answer, story));
    this.parts.where.replaceChildren(where(ctx.model, answer, this.ranges));
    this.#bars(answer, story);
    this.#way(answer);
    this.#dots(answer);
    this.parts.notes.replaceChildren(...notes(explained));
    this.form.first(story.all.slice(0, 20).map((one) => one.at));
    if (!this.moving) ctx.announce(`${story.name} is ${number(explained.predictions[0][0], 4)}. ${story.words}`);
  }

  #bars({ explained }, story) {
    const [base, prediction] = [explained.base[0], explained.predictions[0][0]];
    const steps = [...story.first];
    if (story.others.length) steps.push({ name: `${story.others.length} other inputs`, value: story.rest, rest: true });
    const picture = waterfall({
      base, prediction, steps, width: room(this.parts.bars, 900),
      title: `From ${number(base)} to ${number(prediction)}: ${story.words}`,
      names: { base: REFERENCES[explained.reference] ?? explained.reference, prediction: story.name },
    });
    const file = `${this.ctx.name}-explanation`;
    this.parts.bars.replaceChildren(
      el('h2', {}, 'What each input had to do with it'),
      picture, el('p', { class: 'row' }, savers(picture, file)),
      this.#fold('bars', 'All contributions as a table', () => table([
        { name: 'Input', value: (one) => one.name },
        { name: 'Value', value: (one) => this.state.row[one.at], text: (one) => number(this.state.row[one.at], 6), number: true },
        { name: 'Contribution', value: (one) => one.value, text: (one) => signed(one.value), number: true },
      ], story.all, { caption: `Base ${number(base)}, prediction ${number(prediction)}`, file })));
  }

  /** A part that stays open, or closed, while what is in it changes. */
  #fold(key, title, make) {
    this.open ??= new Set();
    const node = el('details', { open: this.open.has(key) }, el('summary', {}, title));
    if (node.open) node.append(make());
    node.addEventListener('toggle', () => {
      this.open[node.open ? 'add' : 'delete'](key);
      if (node.open && node.children.length === 1) node.append(make());
    });
    return node;
  }

  #way({ explained, values, state }) {
    const { model } = this.ctx;
    const found = ways(model, explained, values, state);
    if (!found.edges.length) {
      this.parts.way.replaceChildren();
      return;
    }
    const picture = flow({ ...found, width: room(this.parts.way, 900), title: `The edges that carried most of the difference to ${names.output(model, state.output)}` });
    const file = `${this.ctx.name}-path`;
    this.parts.way.replaceChildren(
      el('h2', {}, 'The way through the layers'),
      el('p', { class: 'quiet' }, 'Each edge as wide as what it carried of the difference from the reference; orange moved the answer up, blue down.'),
      picture, el('p', { class: 'row' }, savers(picture, file)),
      this.#fold('way', 'These edges as a table', () => table([
        { name: 'Layer', value: (edge) => edge.layer, number: true },
        { name: 'Edge', value: (edge) => edge.name, text: (edge) => el('a', { href: this.ctx.link('edge', edge.layer, edge.source, edge.destination) }, edge.name) },
        { name: 'Carried', value: (edge) => edge.value, text: (edge) => signed(edge.value), number: true },
      ], found.edges, { caption: 'What edges carried', file })));
  }

  #dots({ edges, values }) {
    const { model, link } = this.ctx;
    const same = this.shown.length === edges.length && this.shown.every((edge, at) => edge === edges[at]);
    if (!same) {
      this.shown = edges;
      this.pictures = edges.map((edge) => {
        const curve = this.curves.get(`${edge.layer}/${edge.source}/${edge.destination}`);
        if (!curve) return null;
        const [from, to] = edgeNames(model, edge);
        const picture = dotted({ curve, title: `The function from ${from} to ${to}, and where this row is`, label: from });
        const href = link('edge', edge.layer, edge.source, edge.destination);
        return { ...picture, card: el('figure', {}, picture.node, el('figcaption', {}, el('a', { href }, `${from} \u2192 ${to}`))) };
      });
      const cards = this.pictures.filter(Boolean).map((one) => one.card);
      this.parts.dots.replaceChildren(...(cards.length
        ? [el('h2', {}, 'Where this row is on the curves that carried most'), el('div', { class: 'grid' }, cards)] : []));
    }
    edges.forEach((edge, at) => {
      const layer = values.get(edge.layer);
      const [row, column] = [layer.sources.indexOf(edge.source), layer.destinations.indexOf(edge.destination)];
      const reads = names.nodeOfSource(model.layers[edge.layer], edge.source);
      this.pictures[at]?.move(layer.nodes[0][reads], layer.values[0][row][column]);
    });
  }
}

const REFERENCES = { mean: 'mean of the reference', zeros: 'zeros', grid_center: 'centre of the grid', rows: 'rows of reference' };

function unique(list) {
  return [...new Set(list)].sort((a, b) => a - b);
}

function room(node, most) {
  return Math.max(300, Math.min(most, node.clientWidth || most));
}

/** The edges whose curves are shown: of all layers those that carried most. */
function chosen(path) {
  return path.flatMap(({ layer, sources, destinations, values }) => values[0][0].map((value, at) => (
    { layer, source: sources[0][0][at], destination: destinations[0][0][at], value })))
    .filter((edge) => Number.isFinite(edge.value) && edge.value !== 0)
    .sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, CURVES)
    .sort((a, b) => a.layer - b.layer);
}

function edgeNames(model, { layer, source, destination }) {
  const to = names.nodeOfDestination(model.layers[layer], destination);
  return [
    names.node(model, layer, names.nodeOfSource(model.layers[layer], source)),
    to === null ? `sum ${destination} of layer ${layer}` : names.node(model, layer + 1, to),
  ];
}

/** Contributions in order, those with a bar of their own, the rest, and what is to be said of it in a sentence. */
function told(model, { explained, state }) {
  const all = explained.contributions[0].map(([value], at) => ({
    at, value, name: names.feature(model, at),
    said: Number.isFinite(state.row[at]) ? `${number(state.row[at], 4)}${names.unit(model, at) ? ` ${names.unit(model, at)}` : ''}` : String(state.row[at]),
  })).sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const most = BARS + 1; // one more is no longer than a bar for one
  const moving = all.filter((one) => one.value !== 0);
  const first = moving.length > most ? moving.slice(0, BARS) : moving;
  const others = all.slice(first.length);
  const name = names.output(model, explained.outputs[0]);
  const apart = explained.predictions[0][0] - explained.base[0];
  const words = moving.length
    ? `${moving[0].name} = ${moving[0].said} moved it most, by ${signed(moving[0].value)} of ${signed(apart)}`
      + `${moving[1] ? `; then ${moving[1].name} = ${moving[1].said}, by ${signed(moving[1].value)}` : ''}.`
    : 'No input moved it: this row is as its reference. Move a slider, paste a row, or pick one of the traffic.';
  return { all, first, others, rest: others.reduce((sum, one) => sum + one.value, 0), name, words, apart };
}

function headline(model, { explained }, story) {
  const value = explained.predictions[0][0];
  return [
    el('p', { class: 'big' }, el('span', { class: 'quiet' }, `${story.name} `), el('strong', {}, number(value, 5)),
      el('span', { class: 'quiet' }, ` ${signed(story.apart)} from ${number(explained.base[0], 4)}, the answer for the ${REFERENCES[explained.reference] ?? explained.reference}`)),
    el('p', { class: 'story' }, story.words),
  ];
}

/** Whether the row is where the model was made for. */
function where(model, { covered, state }) {
  const first = covered.layers[0];
  const zones = first.zones[0].flat(Infinity);
  const named = (zone) => zones.flatMap((one, at) => (one === zone ? [`${names.feature(model, at)} = ${number(state.row[at], 4)}`] : []));
  const [outside, beside] = [named(3), named(2)];
  const inside = covered.layers.slice(1).map((layer) => layer.counts[0][2]).reduce((sum, one) => sum + one, 0);
  if (zones.every((one) => one === 0)) {
    return el('p', { class: 'cover unknown' }, 'Nothing says where the inputs of this model should be: it has no grids, and its export was given no rows of reference.');
  }
  const words = [];
  if (outside.length) {
    words.push(`${listed(outside)} ${outside.length > 1 ? 'are' : 'is'} outside of what the model was made for`
      + ` (by ${number(first.cells[0], 3)} cells at most): of a spline nothing but its base is left there, and the answer is extrapolated.`);
  }
  if (beside.length) words.push(`${listed(beside)} ${beside.length > 1 ? 'are' : 'is'} beside the grid, where fewer functions are at work.`);
  if (inside) words.push(`${inside} ${inside > 1 ? 'nodes' : 'node'} inside the network left ${inside > 1 ? 'their grids' : 'its grid'}.`);
  if (!words.length) return el('p', { class: 'cover good' }, 'All inputs are where the model was made for.');
  return el('p', { class: `cover ${outside.length ? 'bad' : 'fair'}`, role: 'status' }, el('strong', {}, outside.length ? 'Beyond its grid. ' : 'At the edge of its grid. '), words.join(' '));
}

function listed(words) {
  return words.length > 4 ? `${words.slice(0, 3).join(', ')} and ${words.length - 3} more` : words.join(', ');
}

/** Columns of nodes and the edges between them, from what Explain tells. */
function ways(model, explained, values, state) {
  const last = model.layers.length;
  const edges = explained.path.flatMap(({ layer, sources, destinations, values: carried }) => carried[0][0].map((value, at) => {
    const edge = { layer, source: sources[0][0][at], destination: destinations[0][0][at], value };
    const from = names.nodeOfSource(model.layers[layer], edge.source);
    const to = names.nodeOfDestination(model.layers[layer], edge.destination);
    return { ...edge, stage: layer, from, to, name: edgeNames(model, edge).join(' \u2192 ') };
  })).filter((edge) => edge.to !== null && Number.isFinite(edge.value) && edge.value !== 0);
  const strongest = Math.max(...edges.map((edge) => Math.abs(edge.value)), 0);
  const seen = edges.filter((edge) => Math.abs(edge.value) >= strongest * 0.01);
  const columns = Array.from({ length: last + 1 }, (_, stage) => {
    const keys = unique(seen.flatMap((edge) => (edge.stage === stage ? [edge.from] : edge.stage === stage - 1 ? [edge.to] : [])));
    return keys.map((key) => ({
      key, name: stage && stage < last ? `node ${key}` : names.node(model, stage, key),
      said: stage === 0 ? `= ${valued(state.row[key])}` : stage === last ? `= ${valued(explained.predictions[0][0])}` : '',
    }));
  });
  return { columns, edges: seen };
}

function notes(explained) {
  const missed = explained.completeness_error[0][0];
  return [
    el('details', {}, el('summary', {}, 'How this was computed'),
      el('p', {}, 'Reference-difference propagation: base and contributions add up to the prediction, but for '
        + `${number(missed, 2)}. A contribution is about this answer of this model against this reference; it is no statement about the world.`)),
    ...explained.notes.map((note) => el('p', { class: 'cover fair' }, note)),
  ];
}
