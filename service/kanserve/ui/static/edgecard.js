// Card of the edge under the pointer or with the focus: its name, kind, importance, range, and its curve with axes.

import { el, reason } from './dom.js';
import { number, share } from './format.js';
import { KINDS, curves } from './network.js';
import { chart, extent, line, roomy } from './svg.js';

const POINTS = 65;
const STILL = 60; // milliseconds on an edge until the request for its curve
const REST = 'Point at an edge, or move the focus to it, to see its curve.';

/** `node` shows an edge after `show`; `follow` shows each edge with `data-edge` in a part of the page. */
export class EdgeCard {
  constructor(ctx, layers) {
    Object.assign(this, { ctx, layers, known: new Map() });
    this.text = el('p', { class: 'pointed' }, REST);
    this.place = el('div', {});
    this.node = el('div', { class: 'edge-card', role: 'status' }, this.text, this.place);
  }

  follow(part) {
    const show = ({ target }) => {
      const [at, edge] = target.closest?.('[data-edge]')?.dataset.edge.split('/').map(Number) ?? [];
      if (edge !== undefined) this.show(this.layers[at], edge);
    };
    part.addEventListener('pointerover', show);
    part.addEventListener('focusin', show);
  }

  say(text) {
    this.text.textContent = text;
  }

  show(layer, edge) {
    const key = `${layer.at}/${edge}`;
    if (key === this.shown) return;
    this.shown = key;
    const outside = layer.outOfGrid?.[layer.nodeOf(layer.source(edge))];
    this.facts = [layer.edgeName(edge), KINDS[layer.kinds[edge]], layer.scores && `importance ${number(layer.scores[edge], 3)}`,
      outside > 0 && `${share(outside)} of its live values are out of grid`].filter(Boolean).join(', ');
    this.say(this.facts);
    this.place.replaceChildren();
    clearTimeout(this.timer);
    if (this.known.has(key)) this.#draw(layer, edge, this.known.get(key));
    else this.timer = setTimeout(() => this.#request(layer, edge, key), STILL);
  }

  async #request(layer, edge, key) {
    try {
      const curve = (await curves(layer, this.ctx, [layer.source(edge)], [layer.destination(edge)], POINTS)).get(edge);
      this.known.set(key, curve);
      if (key === this.shown) this.#draw(layer, edge, curve);
    } catch (error) {
      if (key === this.shown) this.say(`${this.facts}. The curve is not available: ${reason(error)}`);
    }
  }

  #draw(layer, edge, curve) {
    if (!curve) { this.say(`${this.facts}. This edge has no curve.`); return; }
    const [[a, b], [low, high]] = [extent(curve.x), extent(curve.phi)];
    this.say(`${this.facts}. Values ${number(low, 3)} to ${number(high, 3)} over ${number(a, 3)} to ${number(b, 3)}.`);
    const picture = chart({
      title: `Curve of ${layer.edgeName(edge)}`, width: 300, height: 140, margin: { left: 48, top: 8, bottom: 36 },
      x: { domain: [a, b], label: layer.sourceName(layer.source(edge)), ticks: 4 }, y: { domain: roomy([low, high], 0.1), ticks: 3 },
    });
    picture.plot.append(line(curve.x, curve.phi, picture.x, picture.y, { class: 'line edge' }));
    this.place.replaceChildren(picture.node);
  }
}
