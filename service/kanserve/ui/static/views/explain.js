// Explanation page of one row: feature contributions, paths through the layers, position on the edge functions.

import { ApiError } from '../api.js';
import { dotted } from '../charts/dotted_curve.js';
import { flow } from '../charts/path.js';
import { signed, waterfall } from '../charts/waterfall.js';
import { button, el, heading, labelled, panel, room, select, showError, sized } from '../dom.js';
import { coverage, edgeNames, errorBar, headline, interval, notes, paths, probabilities, story, strongestEdges } from '../explanation.js';
import { number } from '../format.js';
import * as names from '../names.js';
import { RequestQueue } from '../request_queue.js';
import { compareRows, comparison } from '../rowcompare.js';
import { curved, form, fromFragment, paste, sampled, spans, toFragment } from '../rows.js';
import { Doing, bone } from '../skeleton.js';
import { savers } from '../svg.js';
import { table } from '../table.js';

const NEAR = 60; // pixels; two panels with a smaller distance from each other are in one row
const EDGES = 14; // of a layer, in the paths
const ALL = 20_000; // contributions of a row to all outputs, up to which the page requests them
// The boxes that each part shows until the first response arrives.
const WAITING = { prediction: ['tile'], bars: ['chart'], paths: ['picture'], dots: ['chart', 'chart', 'chart'] };
const CHOICES = [['', 'Automatic'], ['mean', 'Baseline mean'], ['grid_center', 'Grid center'], ['zeros', 'Zeros']];

export async function show(root, ctx) {
  const { model } = ctx;
  if (!names.ofInputs(model)) {
    throw new ApiError(501, 'The model has several inputs, or other parts before its KAN layers. The web UI has no form for '
      + 'such rows. Use the command kanserve explain with a file.');
  }
  const size = names.width(model.input);
  const known = fromFragment(size);
  ctx.doing(`The server computes the ranges of the ${size} inputs of ${model.model_name}, and looks up its latest request.`);
  const ranges = await spans(ctx, size);
  const row = known.row ?? await beginning(ctx, ranges);
  const output = known.output ?? largest(await outputs(ctx, row) ?? []);
  const state = { row, against: known.against, reference: known.reference, output: Math.min(output, names.width(model.output) - 1) };
  const view = new Explain(root, ctx, state, ranges);
  await view.start();
  return () => view.leave();
}

/** Resolves to the first row: the newest sampled row, else the mean of live traffic, else the middle of the sliders. */
async function beginning({ api, kan }, ranges) {
  const middle = ranges.map(([low, high]) => (low + high) / 2);
  const { rows, has_statistics: counted } = await api.get(`${kan}/rows`);
  if (rows.length) return Object.values(rows[0].values)[0].flat(Infinity);
  if (counted) {
    const { nodes, row_count: count } = await api.post(`${kan}/statistics`, { source: 'total' });
    const mean = nodes.find((node) => node.layer === 0)?.mean ?? [];
    if (count && mean.length === middle.length && mean.every(Number.isFinite)) return mean.map((value) => Number(value.toPrecision(4)));
  }
  return middle.map((value) => Number(value.toPrecision(4)));
}

/** Resolves to all outputs of a row; null for a model with one output, or with too many for a page. */
async function outputs({ api, kan, model }, row, signal) {
  const several = names.width(model.output);
  if (several < 2 || several * row.length > ALL) return null;
  const { predictions } = await api.post(`${kan}/explain`, { rows: [names.shaped(row, model.input.shape)] }, { signal });
  return predictions[0];
}

/** The index of the largest value, which is the predicted class of a classifier; 0 if there is none. */
function largest(values) {
  return values.reduce((best, value, at) => (value > values[best] ? at : best), 0);
}

class Explain {
  constructor(root, ctx, state, ranges) {
    Object.assign(this, { root, ctx, state, curves: new Map(), shown: [], version: '', open: new Set() });
    this.queue = new RequestQueue((...request) => this.#explain(...request), (response) => this.#draw(response), (error) => this.#fail(error));
    const { model } = ctx;
    this.names = Array.from({ length: state.row.length }, (_, at) => names.feature(model, at));
    this.form = form(model, state.row, ranges, (row, moving) => this.#take({ row }, moving));
    this.parts = Object.fromEntries(['prediction', 'bars', 'paths', 'dots', 'rows', 'notes'].map((name) => [name, el('div', { class: name })]));
    this.tools = { bars: el('span', { class: 'tools' }), paths: el('span', { class: 'tools' }) };
    this.trouble = el('p', { class: 'alarm', role: 'alert' });
    this.doing = new Doing(`The server computes the contributions of ${state.row.length} inputs, the ${EDGES} strongest edges of each layer, and their curves.`);
    for (const [part, kinds] of Object.entries(WAITING)) this.parts[part].append(...kinds.map(bone));
  }

  async start() {
    const { ctx, root, parts, tools } = this;
    const taken = (row) => { this.form.set(row); this.#take({ row }, false); };
    this.pathPanel = panel('Contribution paths', { tools: tools.paths, note: 'Width shows the contribution of an edge. Orange raises the prediction, blue lowers it.' }, parts.paths);
    this.dotPanel = panel('Edge functions', { note: 'The strongest edges of this prediction. The dot is the value of this row.' }, parts.dots);
    this.rowPanel = panel('Comparison of rows', { tools: button('Stop comparing', () => this.#take({ against: null }, false)), note: 'The kept row is the reference of the difference. The contributions of each row are relative to the base value.' }, parts.rows);
    this.rowPanel.hidden = true;
    root.append(
      heading(`Explain a prediction of ${ctx.model.model_name}`),
      el('div', { class: 'explain-page' },
        panel('Input row', {}, el('div', { class: 'choices' }, this.#choices()), this.form.node, paste(this.names, taken),
          sampled(ctx.api, ctx.kan, this.names, taken),
          el('p', { class: 'row' }, button('Keep row to compare', () => { this.#take({ against: [...this.state.row] }, false); ctx.announce('Row kept. Change the row to compare both.'); })), this.#link()),
        el('div', { class: 'results' },
          panel('Prediction', {}, this.trouble, this.doing.node, parts.prediction),
          el('div', { class: 'parts' },
            panel('Feature contributions', { tools: tools.bars, note: 'From the base value to the prediction, one input per bar.' }, parts.bars), this.pathPanel),
          this.rowPanel, this.dotPanel, parts.notes)));
    await this.queue.first(this.state);
    this.resized = sized(parts.bars, () => { if (this.response) this.#draw(this.response); });
  }

  leave() {
    this.resized?.();
    this.doing.end();
    this.queue.end();
  }

  #choices() {
    const { model } = this.ctx;
    const fields = [];
    if (names.width(model.output) > 1) {
      const outputs = Array.from({ length: names.width(model.output) }, (_, at) => [at, names.output(model, at)]);
      fields.push(labelled('Output', select(outputs, this.state.output, (value) => this.#take({ output: Number(value) }, false))));
    }
    fields.push(labelled('Reference', select(CHOICES, this.state.reference, (value) => this.#take({ reference: value }, false))));
    return fields;
  }

  #link() {
    const place = el('input', { type: 'text', readonly: true, hidden: true, 'aria-label': 'Link to this explanation' });
    const copy = button('Copy link', async () => {
      place.value = location.href;
      try {
        await navigator.clipboard.writeText(location.href);
        this.ctx.announce('Link copied.');
        copy.textContent = 'Copied';
      } catch { // browsers allow this only on loopback and over TLS
        place.hidden = false;
        place.select();
      }
    });
    return [el('p', { class: 'row' }, copy, place), el('p', { class: 'quiet status' }, 'The link keeps the row after "#", which browsers don\u2019t send to servers.')];
  }

  #take(change, moving) {
    Object.assign(this.state, change);
    this.moving = moving;
    this.queue.push(this.state);
  }

  /** Requests everything about the row. */
  async #explain({ row, against, reference, output }, signal) {
    const { api, kan, model } = this.ctx;
    const rows = [names.shaped(row, model.input.shape)];
    const post = (path, body) => api.post(`${kan}/${path}`, { rows, ...body }, { signal });
    const [explained, covered, all, compared] = await Promise.all([
      post('explain', { reference, outputs: [output], path_top_k: EDGES }),
      post('coverage', {}),
      outputs(this.ctx, row, signal),
      against && compareRows(this.ctx, { row, against, reference, output }, EDGES, signal),
    ]);
    const edges = this.moving && this.shown.length ? this.shown : strongestEdges(explained.path);
    const layers = [...new Set(edges.map((edge) => edge.layer))];
    const values = new Map();
    await Promise.all(layers.map(async (at) => {
      const own = edges.filter((edge) => edge.layer === at);
      const picked = { sources: unique(own.map((edge) => edge.source)), destinations: unique(own.map((edge) => edge.destination)) };
      const { layers: [layer] } = await post('edges', { layers: [at], nodes: true, ...picked });
      values.set(at, layer);
      await Promise.all(own.map((edge) => this.#curve(edge, signal)));
    }));
    return { explained, covered, outputs: all, edges, values, compared, state: { row, against, reference, output } };
  }

  async #curve({ layer, source, destination }, signal) {
    const key = `${layer}/${source}/${destination}`;
    if (this.curves.has(key)) return;
    const { api, kan, model } = this.ctx;
    if (!curved(model, layer)) {
      this.curves.set(key, null); // an edge of class B depends on the other nodes of the row too
      return;
    }
    const { blocks: [block] } = await api.post(`${kan}/curves`,
      { layers: [layer], sources: [source], destinations: [destination], points: 121 }, { signal });
    this.curves.set(key, { x: block.x[0], phi: block.phi[0][0] });
  }

  #fail(error) {
    this.doing.end();
    if (!this.response) {
      showError(this.root, error);
      return;
    }
    this.trouble.textContent = error.status === 0 ? `${error.message} The view shows the previous prediction.` : error.message;
  }

  #draw(response) {
    const { ctx } = this;
    this.response = response;
    this.trouble.textContent = '';
    this.doing.end();
    const { explained } = response;
    if (this.version && explained.model_version !== this.version) {
      ctx.changed(`Version ${explained.model_version} of ${ctx.name} is the default version now. The page describes version ${this.version}.`);
    }
    this.version ||= ctx.model.model_version;
    toFragment(response.state, names.width(ctx.model.output) > 1);
    const told = story(ctx.model, response);
    this.parts.prediction.replaceChildren(...headline(response, told), ...probabilities(ctx.model, response), ...interval(ctx.model, response), ...errorBar(response), coverage(ctx.model, response));
    this.#bars(response, told);
    this.#paths(response);
    this.#dots(response);
    this.rowPanel.hidden = !response.compared;
    this.parts.rows.replaceChildren(...(response.compared ? comparison(ctx, response, this.parts.rows) : []));
    this.parts.notes.replaceChildren(...notes(explained));
    this.form.first(told.all.slice(0, 20).map((input) => input.at));
    if (!this.moving) ctx.announce(`${told.name} is ${number(explained.predictions[0][0], 4)}. ${told.words}`);
  }

  #bars({ explained }, told) {
    const [base, prediction] = [explained.base[0], explained.predictions[0][0]];
    const steps = [...told.first];
    if (told.others.length) steps.push({ name: `${told.others.length} other inputs`, value: told.rest, rest: true });
    const picture = waterfall({
      base, prediction, steps, width: room(this.parts.bars, 700),
      title: `From ${number(base)} to ${number(prediction)}: ${told.words}`,
      names: { base: 'base value', prediction: told.name },
    });
    const file = `${this.ctx.name}-explanation`;
    this.tools.bars.replaceChildren(...savers(picture, file));
    this.parts.bars.replaceChildren(picture, this.#fold('bars', 'All contributions', () => table([
      { name: 'Input', value: (input) => input.name },
      { name: 'Value', value: (input) => this.state.row[input.at], text: (input) => number(this.state.row[input.at], 6), number: true },
      { name: 'Contribution', value: (input) => input.value, text: (input) => signed(input.value), number: true },
    ], told.all, { caption: `Base value ${number(base)}, prediction ${number(prediction)}`, file })));
  }

  /** A part that stays open or closed while its content changes. */
  #fold(key, title, make) {
    const node = el('details', { open: this.open.has(key) }, el('summary', {}, title));
    if (node.open) node.append(make());
    node.addEventListener('toggle', () => {
      this.open[node.open ? 'add' : 'delete'](key);
      if (node.open && node.children.length === 1) node.append(make());
    });
    return node;
  }

  #paths({ explained, state }) {
    const { model } = this.ctx;
    const found = paths(model, explained, state);
    this.pathPanel.hidden = !found.edges.length;
    if (!found.edges.length) return;
    const { bars, paths: place } = this.parts;
    const height = Math.abs(place.offsetTop - bars.offsetTop) < NEAR ? Number(bars.querySelector('svg')?.getAttribute('height') ?? 0) : 0; // next to the bars
    const picture = flow({ ...found, width: room(place, 700), height, title: `Edges with the largest contributions to ${names.output(model, state.output)}` });
    const file = `${this.ctx.name}-path`;
    this.tools.paths.replaceChildren(...savers(picture, file));
    this.parts.paths.replaceChildren(picture, this.#fold('paths', 'All edges', () => table([
      { name: 'Layer', value: (edge) => edge.layer, number: true },
      { name: 'Edge', value: (edge) => edge.name, text: (edge) => el('a', { href: this.ctx.link('edge', edge.layer, edge.source, edge.destination) }, edge.name) },
      { name: 'Contribution', value: (edge) => edge.value, text: (edge) => signed(edge.value), number: true },
    ], found.edges, { caption: 'Contribution of each edge', file })));
  }

  #dots({ edges, values }) {
    const { model, link } = this.ctx;
    const same = this.pictures && this.shown.length === edges.length && this.shown.every((edge, at) => edge === edges[at]);
    if (!same) {
      this.shown = edges;
      this.pictures = edges.map((edge) => {
        const curve = this.curves.get(`${edge.layer}/${edge.source}/${edge.destination}`);
        if (!curve) return null;
        const [from, to] = edgeNames(model, edge);
        const picture = dotted({ curve, title: `Function from ${from} to ${to}, with the value of this row`, label: from });
        const href = link('edge', edge.layer, edge.source, edge.destination);
        return { ...picture, card: el('figure', {}, picture.node, el('figcaption', {}, el('a', { href }, `${from} \u2192 ${to}`))) };
      });
      const cards = this.pictures.filter(Boolean).map((picture) => picture.card);
      this.dotPanel.hidden = !cards.length;
      this.parts.dots.replaceChildren(el('div', { class: 'grid' }, cards));
    }
    edges.forEach((edge, at) => {
      const layer = values.get(edge.layer);
      const [row, column] = [layer.sources.indexOf(edge.source), layer.destinations.indexOf(edge.destination)];
      const reads = names.nodeOfSource(model.layers[edge.layer], edge.source);
      this.pictures[at]?.move(layer.nodes[0][reads], layer.values[0][row][column]);
    });
  }
}

function unique(list) {
  return [...new Set(list)].sort((a, b) => a - b);
}
