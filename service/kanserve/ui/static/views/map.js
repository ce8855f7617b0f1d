// Network page: a diagram of all edges, of the strongest ones if there are many, or a matrix per layer; and the list of edges.

import { ApiError } from '../api.js';
import { button, el, facts, heading, labelled, panel, room, select, showError, sized } from '../dom.js';
import { diagram, fits, matching } from '../diagram.js';
import { EdgeCard } from '../edgecard.js';
import { edgeList } from '../edgelist.js';
import { count, number } from '../format.js';
import { layered, selected } from '../layered.js';
import { matrix } from '../matrix.js';
import { BOTH, NUMERIC, SYMBOLIC, curves, glow, layersOf, score, strongest } from '../network.js';
import { BASES } from '../names.js';
import { lines } from '../nodes.js';
import { bone } from '../skeleton.js';
import { savers } from '../svg.js';
import { tablePanel } from '../table.js';

const POINTS = 33; // of a curve on its edge
const PATIENCE = 200; // milliseconds after the last key until a search begins
const [USUAL, FEW] = [64, 128]; // edges of a layered diagram; a network of FEW is shown whole
const MOST = [16, 32, USUAL, FEW, 256];
const KINDS = [['', 'all kinds'], [NUMERIC, 'numeric'], [SYMBOLIC, 'symbolic'], [BOTH, 'both']];
const SOURCES = [['best', 'export rows'], ['live', 'live traffic']];
const KEYS = [['numeric', 'numeric'], ['symbolic', 'symbolic'], ['both', 'both'], ['alarm', 'live values out of grid']];
const STALE = 'The server does not respond. The view shows earlier values.';

export async function show(root, ctx) {
  const { model, params } = ctx;
  const layers = layersOf(model);
  const edges = model.layers.reduce((sum, layer) => sum + layer.active_edges, 0);
  const view = new MapView(ctx, layers, params.get('as') ?? 'diagram');
  root.append(
    heading(`${model.model_name}, version ${model.model_version}`, model.description || []),
    el('section', { class: 'panel' }, facts(identity(model, edges), { across: true })),
    el('div', { class: 'map-page' },
      panel('Network', { tools: view.tools, note: view.about }, view.filters(), keys(), view.status, view.card.node, view.place),
      panel('Edges', { kind: 'edges' }, view.list)),
    layerPanel(model),
  );
  await view.scored();
  return view.follow();
}

function identity(model, edges) {
  const { verification: { zones = [], basis } = {} } = model;
  const errors = zones.filter((zone) => zone.name !== 'nonfinite').map((zone) => zone.outputs_max_rel);
  return [
    ['Library', model.family], ['Shape', shape(model)], ['Edges', `${count(edges)} active edges`],
    BASES[basis] && ['Verified against', BASES[basis][0]],
    errors.length > 0 && ['Largest error', number(Math.max(...errors), 2)],
  ].filter(Boolean);
}

function keys() {
  return el('p', { class: 'keys' }, KEYS.map(([kind, text]) => el('span', { class: `key ${kind}` }, text)));
}

function shape(model) {
  return [model.layers[0].sources, ...model.layers.map((layer) => layer.destinations)].join(' \u2192 ');
}

class MapView {
  constructor(ctx, layers, as) {
    Object.assign(this, { ctx, layers, as });
    this.filter = { text: ctx.params.get('search') ?? '', kind: '', least: 0 };
    this.source = 'best';
    this.most = layers.reduce((sum, layer) => sum + layer.info.active_edges, 0) <= FEW ? FEW : USUAL;
    this.card = new EdgeCard(ctx, layers);
    this.folded = new Set();
    this.about = el('span', {}, 'The server computes the importance of each edge.');
    this.status = el('p', { class: 'quiet status' });
    this.tools = el('span', { class: 'tools' });
    this.place = el('div', { class: 'plot' }, bone('picture'));
    this.card.follow(this.place);
    this.size = labelled('Edges shown', select(MOST, this.most, (value) => { this.most = Number(value); this.picture(); }), { hidden: true });
    this.list = el('div', {}, bone('table'));
    this.matrix = null;
    this.layer = 0;
    this.turn = 0;
  }

  filters() {
    let timer = 0;
    const later = (change) => { clearTimeout(timer); timer = setTimeout(() => { change(); this.draw(); }, PATIENCE); };
    const forms = [['diagram', 'Diagram'], ['matrix', 'Matrix']];
    const tabs = forms.map(([form, text]) => button(text, () => {
      this.as = form;
      tabs.forEach((tab, at) => tab.setAttribute('aria-pressed', String(forms[at][0] === form)));
      this.picture();
    }, { 'aria-pressed': String(form === this.as) }));
    return el('form', { class: 'filters', role: 'search', onsubmit: (event) => event.preventDefault() },
      el('span', { class: 'switch', role: 'group', 'aria-label': 'Form' }, tabs),
      labelled('Importance over', select(SOURCES, this.source, (value) => { this.source = value; this.scored().catch((error) => showError(this.place, error)); })),
      this.size,
      labelled('Find node', el('input', { type: 'search', value: this.filter.text, oninput: (event) => later(() => { this.filter.text = event.target.value; }) })),
      labelled('Kind', select(KINDS, '', (value) => { this.filter.kind = value; this.draw(); })),
      labelled('Minimum importance', el('input', { type: 'range', min: 0, max: 1, step: 0.02, value: '0', oninput: (event) => later(() => { this.filter.least = Number(event.target.value); }) })));
  }

  /** Requests the importance of the edges, and draws them. Without a result, all edges have the same opacity. */
  async scored() {
    try {
      this.about.textContent = `Opacity shows importance, ${await score(this.layers, this.ctx, this.source)}.`;
    } catch (error) {
      if (!(error instanceof ApiError) || ![400, 413, 501].includes(error.status)) throw error;
      if (this.source === 'best') this.layers.forEach((layer) => { layer.scores = null; });
      this.about.textContent = `Importance is not available: ${error.message}`;
    }
    await this.draw();
  }

  /** Draws the picture and the list for changed filters. */
  async draw() {
    await this.picture();
    await new Promise((resolve) => { setTimeout(resolve); }); // a list of a million edges takes time: the picture is first
    this.list.replaceChildren(edgeList(this.layers, this.filter, this.ctx));
  }

  async picture() {
    const turn = ++this.turn;
    if (this.as === 'matrix') return this.#matrix();
    this.matrix?.close();
    this.matrix = null;
    const { layers, folded } = this;
    const width = room(this.place, 900);
    const { edges, hidden } = matching(layers, this.filter, folded);
    const whole = fits(layers, edges, width);
    const drawn = whole ? edges : selected(layers, edges, this.most);
    const known = whole ? await Promise.all(layers.map((layer, at) => this.#curves(layer, edges[at]))) : [];
    if (turn !== this.turn) return undefined;
    const focus = document.activeElement?.closest?.('.network [data-key], .network [data-edge]')?.dataset;
    const common = { layers, edges: drawn, width, folded, link: this.ctx.link, onfold: (key) => this.#fold(key) };
    const picture = whole ? diagram({ ...common, curves: known }) : layered(common);
    const [shown, all] = [drawn, edges].map((lists) => lists.reduce((sum, one) => sum + one.length, 0));
    const order = layers.some((layer) => layer.scores) ? 'the strongest of each layer, ranked by importance' : 'the first of each layer, because their importance is unknown';
    const words = [!whole && (shown < all ? `${count(shown)} of ${count(all)} edges: ${order}.` : `All ${count(all)} edges, ranked by importance.`),
      hidden && `${count(hidden)} edges are folded.`];
    this.status.textContent = words.filter(Boolean).join(' ');
    this.size.hidden = whole;
    if (!this.card.shown && drawn[0].length) this.card.show(layers[0], strongest(layers[0], drawn[0])[0]);
    this.tools.replaceChildren(...savers(picture, `${this.ctx.model.model_name}-network`),
      ...(this.folded.size ? [button('Unfold all', () => { this.folded.clear(); this.picture(); })] : []));
    this.place.replaceChildren(picture);
    if (focus) picture.querySelector(focus.key ? `[data-key="${focus.key}"]` : `[data-edge="${focus.edge}"]`)?.focus();
    return undefined;
  }

  #fold(key) {
    if (!this.folded.delete(key)) this.folded.add(key);
    this.ctx.announce(this.folded.has(key) ? 'Folded' : 'Unfolded');
    this.picture();
  }

  async #curves(layer, edges) {
    layer.cache ??= new Map();
    if (edges.some((edge) => !layer.cache.has(edge))) {
      const sources = [...new Set(Array.from(edges, (edge) => layer.source(edge)))];
      const destinations = [...new Set(Array.from(edges, (edge) => layer.destination(edge)))];
      for (const [edge, curve] of await curves(layer, this.ctx, sources, destinations, POINTS)) layer.cache.set(edge, curve);
    }
    return layer.cache;
  }

  #matrix() {
    this.status.textContent = '';
    this.size.hidden = true;
    if (!this.matrix) {
      const sizes = this.layers.map((layer) => [layer.at, `${layer.at}: ${layer.sources} \u00d7 ${layer.destinations}`]);
      const chooser = labelled('Layer', select(sizes, this.layer, (value) => {
        this.layer = Number(value);
        this.matrix.show(this.layers[this.layer], this.filter);
      }));
      this.matrix = matrix(this.ctx, this.card);
      this.tools.replaceChildren(this.matrix.saver);
      this.place.replaceChildren(el('p', { class: 'row' }, chooser, this.matrix.controls), this.matrix.node);
    }
    this.matrix.show(this.layers[this.layer], this.filter);
  }

  /** Draws rings around nodes whose live values are out of grid. Returns a function that ends the view. */
  follow() {
    const stop = new AbortController();
    const resized = sized(this.place, () => { if (this.as === 'diagram') this.picture(); });
    this.ctx.api.follow(`${this.ctx.kan}/watch?source=live&interval=5`, ({ statistics, end_reason: ended }) => {
      const before = JSON.stringify(this.layers.map((layer) => layer.outOfGrid));
      glow(this.layers, lines(this.ctx.model, statistics));
      if (before !== JSON.stringify(this.layers.map((layer) => layer.outOfGrid))) this.picture();
      if (ended) this.ctx.changed(`The view shows version ${statistics.model_version}: ${ended}.`);
    }, { signal: stop.signal, onTrouble: (error) => this.ctx.announce(error ? STALE : 'The server responds again.') })
      .catch((error) => { this.status.textContent = `Live traffic is not available: ${error.message}`; });
    return () => {
      stop.abort();
      resized();
      this.matrix?.close();
    };
  }
}

function layerPanel(model) {
  return tablePanel('Layers', [
    { name: 'Layer', value: (layer) => layer.index },
    { name: 'Name', value: (layer) => layer.name },
    { name: 'Sources', value: (layer) => layer.sources, number: true },
    { name: 'Destinations', value: (layer) => layer.destinations, number: true },
    { name: 'Active edges', value: (layer) => layer.active_edges, text: (layer) => count(layer.active_edges), number: true },
    { name: 'Functions', value: (layer) => layer.bases.map((basis) => basis.kind).join(', ') },
    { name: 'Edge class', value: (layer) => layer.edge_class || model.edge_class },
  ], model.layers, { caption: 'Layers', file: `${model.model_name}-layers` });
}
