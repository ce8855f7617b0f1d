// Network page: a diagram of all edges, or a matrix per layer if there are too many, and the list of edges.

import { ApiError } from '../api.js';
import { button, el, labelled, select, table, tell } from '../dom.js';
import { LINES, diagram, visible } from '../diagram.js';
import { edgeList } from '../edgelist.js';
import { count } from '../format.js';
import { matrix } from '../matrix.js';
import { BOTH, NUMERIC, SYMBOLIC, curves, glow, layersOf, score } from '../network.js';
import { lines } from '../nodes.js';
import { bone } from '../skeleton.js';
import { savers } from '../svg.js';

const POINTS = 33; // of a curve on its edge
const PATIENCE = 200; // milliseconds after the last key, before a search begins
const KINDS = [['', 'all kinds'], [NUMERIC, 'numeric'], [SYMBOLIC, 'symbolic'], [BOTH, 'numeric and symbolic']];

export async function show(root, ctx) {
  const { model, params } = ctx;
  const layers = layersOf(model);
  const edges = model.layers.reduce((sum, layer) => sum + layer.active_edges, 0);
  const view = new MapView(root, ctx, layers, params.get('as') ?? (edges <= LINES ? 'diagram' : 'matrix'));
  root.append(
    el('h1', {}, `${model.model_name}, version ${model.model_version}`),
    model.description && el('p', {}, model.description) || '',
    el('p', { class: 'quiet' }, `${model.family}, ${shape(model)}: ${count(edges)} edges that can add something.`),
    view.bar(), view.said, legend(), view.place,
    el('h2', {}, 'Edges'), view.list, el('h2', {}, 'Layers'), layerTable(model),
  );
  await view.scored();
  return view.follow();
}

function legend() {
  const kinds = [['numeric', 'numeric'], ['symbolic', 'symbolic'], ['both', 'both'], ['alarm', 'traffic outside the grid']];
  return el('p', { class: 'row legend' }, kinds.map(([kind, text]) => el('span', { class: `key ${kind}` }, text)));
}

function shape(model) {
  return [model.layers[0].sources, ...model.layers.map((layer) => layer.destinations)].join(' \u2192 ');
}

class MapView {
  constructor(root, ctx, layers, as) {
    Object.assign(this, { root, ctx, layers, as });
    this.wanted = { text: ctx.params.get('search') ?? '', kind: '', least: 0 };
    this.source = 'best';
    this.folded = new Set();
    this.said = el('p', { class: 'quiet' }, 'The server computes what each edge matters.');
    this.place = el('div', {}, bone('picture'));
    this.list = el('div', {}, bone('table'));
    this.matrix = null;
    this.layer = 0;
    this.turn = 0;
  }

  bar() {
    let timer = 0;
    const later = (change) => { clearTimeout(timer); timer = setTimeout(() => { change(); this.draw(); }, PATIENCE); };
    const tabs = ['diagram', 'matrix'].map((one) => button(one === 'diagram' ? 'Diagram' : 'Matrix', () => {
      this.as = one;
      tabs.forEach((tab, at) => tab.setAttribute('aria-pressed', String(['diagram', 'matrix'][at] === one)));
      this.picture();
    }, { 'aria-pressed': String(one === this.as) }));
    return el('form', { class: 'row', role: 'search', onsubmit: (event) => event.preventDefault() },
      el('span', { class: 'row', role: 'group', 'aria-label': 'Picture' }, tabs),
      labelled('Importance', select([['best', 'over the export\u2019s rows'], ['live', 'over the traffic']], this.source, (value) => { this.source = value; this.scored().catch((error) => tell(this.place, error)); })),
      labelled('Find a node', el('input', { type: 'search', value: this.wanted.text, oninput: (event) => later(() => { this.wanted.text = event.target.value; }) })),
      labelled('Kind', select(KINDS, '', (value) => { this.wanted.kind = value; this.draw(); })),
      labelled('At least as dark as', el('input', { type: 'range', min: 0, max: 1, step: 0.02, value: '0', oninput: (event) => later(() => { this.wanted.least = Number(event.target.value); }) })));
  }

  /** Asks what the edges matter, and draws them; without an answer they are all the same, and it is said why. */
  async scored() {
    try {
      this.about = `Edges are as dark as they matter ${await score(this.layers, this.ctx, this.source)}.`;
    } catch (error) {
      if (!(error instanceof ApiError) || ![400, 413, 501].includes(error.status)) throw error;
      if (this.source === 'best') this.layers.forEach((layer) => { layer.scores = null; });
      this.about = `What the edges matter is not known: ${error.message}`;
    }
    await this.draw();
  }

  /** Anew, since others are wanted. */
  async draw() {
    await this.picture();
    await new Promise((resolve) => { setTimeout(resolve); }); // of a million edges each takes a while: the picture is seen first
    this.list.replaceChildren(edgeList(this.layers, this.wanted, this.ctx));
  }

  async picture() {
    const turn = ++this.turn;
    if (this.as === 'matrix') return this.#matrix();
    this.matrix?.close();
    this.matrix = null;
    const shown = visible(this.layers, this.wanted, this.folded);
    const known = await Promise.all(this.layers.map((layer, at) => this.#curves(layer, shown.edges[at])));
    if (turn !== this.turn) return undefined;
    const focus = document.activeElement?.closest?.('.network .spot')?.dataset.key;
    const picture = diagram({
      layers: this.layers, shown, curves: known, width: Math.max(320, this.root.clientWidth), folded: this.folded,
      link: this.ctx.link, onfold: (key) => this.#fold(key),
    });
    const words = [this.about,
      shown.left ? `The ${count(shown.edges.reduce((sum, one) => sum + one.size, 0))} strongest are drawn, ${count(shown.left)} are not.` : '', shown.hidden ? `${count(shown.hidden)} are folded.` : ''];
    this.said.textContent = words.filter(Boolean).join(' ');
    this.place.replaceChildren(picture, el('p', { class: 'row' },
      savers(picture, `${this.ctx.model.model_name}-network`), this.folded.size > 0 && button('Unfold all', () => { this.folded.clear(); this.picture(); })));
    if (focus) picture.querySelector(`[data-key="${focus}"]`)?.focus();
    return undefined;
  }

  #fold(key) {
    if (!this.folded.delete(key)) this.folded.add(key);
    this.ctx.announce(this.folded.has(key) ? 'Folded' : 'Unfolded');
    this.picture();
  }

  async #curves(layer, edges) {
    if (!edges.size || edges.size > LINES) return new Map();
    layer.cache ??= new Map();
    if ([...edges].some((edge) => !layer.cache.has(edge))) {
      const sources = [...new Set(Array.from(edges, (edge) => layer.source(edge)))];
      const destinations = [...new Set(Array.from(edges, (edge) => layer.destination(edge)))];
      if (sources.length * destinations.length > 4 * LINES) return layer.cache;
      for (const [edge, curve] of await curves(layer, this.ctx, sources, destinations, POINTS)) layer.cache.set(edge, curve);
    }
    return layer.cache;
  }

  #matrix() {
    this.said.textContent = `${this.about}`;
    if (!this.matrix) {
      const chooser = labelled('Layer', select(this.layers.map((layer) => [layer.at, `${layer.at}: ${layer.sources} \u00d7 ${layer.destinations}`]), this.layer, (value) => {
        this.layer = Number(value);
        this.matrix.show(this.layers[this.layer], this.wanted);
      }));
      this.matrix = matrix(this.ctx);
      this.place.replaceChildren(el('p', { class: 'row' }, chooser, this.matrix.controls), this.matrix.node);
    }
    this.matrix.show(this.layers[this.layer], this.wanted);
  }

  /** Rings around the nodes whose traffic is outside; returns what ends the view. */
  follow() {
    const stop = new AbortController();
    this.ctx.api.follow(`${this.ctx.kan}/watch?source=live&interval=5`, ({ statistics, end_reason: ended }) => {
      const before = JSON.stringify(this.layers.map((layer) => layer.outOfGrid));
      glow(this.layers, lines(this.ctx.model, statistics));
      if (before !== JSON.stringify(this.layers.map((layer) => layer.outOfGrid))) this.picture();
      if (ended) this.ctx.changed(`${ended}: what is shown is of version ${statistics.model_version}.`);
    }, { signal: stop.signal, onTrouble: (error) => this.ctx.announce(error ? 'The server does not answer; what is shown is old.' : 'The server answers again.') })
      .catch((error) => { this.said.append(` Where the traffic is, is not known: ${error.message}`); });
    return () => {
      stop.abort();
      this.matrix?.close();
    };
  }
}

function layerTable(model) {
  return table([
    { name: 'Layer', value: (layer) => layer.index, number: true },
    { name: 'Name', value: (layer) => layer.name },
    { name: 'Sources', value: (layer) => layer.sources, number: true },
    { name: 'Destinations', value: (layer) => layer.destinations, number: true },
    { name: 'Edges that can add something', value: (layer) => layer.active_edges, text: (layer) => count(layer.active_edges), number: true },
    { name: 'Functions', value: (layer) => layer.bases.map((basis) => basis.kind).join(', ') },
    { name: 'Class', value: (layer) => layer.edge_class || model.edge_class },
  ], model.layers, { caption: 'Layers', file: `${model.model_name}-layers` });
}
