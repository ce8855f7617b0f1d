// Paged table of the selected edges, sorted by importance or by number, with CSV download; works for a million edges.

import { button, csv, download, el, labelled, select } from './dom.js';
import { count, number } from './format.js';
import { KINDS, chosen, strongest } from './network.js';

const SHOWN = 25; // lines at a time
const PIECE = 20_000; // lines of CSV that are written before the page may do other things

/** layers: of `network.js`; wanted: of `chosen`. */
export function edgeList(layers, wanted, { link, model }) {
  let layer = layers[0];
  let order = 'strongest';
  let edges = new Uint32Array(0);
  let page = 0;
  const body = el('tbody');
  const place = el('span', { class: 'quiet', role: 'status' });
  const back = button('Back', () => draw(page - 1));
  const on = button('More', () => draw(page + 1));
  const line = (edge) => [layer.sourceName(layer.source(edge)), layer.destinationName(layer.destination(edge)), KINDS[layer.kinds[edge]], layer.scores ? layer.scores[edge] : ''];
  function sort() {
    const found = chosen(layer, wanted);
    if (order === 'strongest') edges = strongest(layer, found);
    else if (order === 'weakest') edges = strongest(layer, found).reverse();
    else edges = found;
    draw(0);
  }
  function draw(wantedPage) {
    page = Math.min(Math.max(0, wantedPage), Math.max(0, Math.ceil(edges.length / SHOWN) - 1));
    const part = edges.subarray(page * SHOWN, (page + 1) * SHOWN);
    body.replaceChildren(...Array.from(part, (edge) => {
      const [from, to, kind, matters] = line(edge);
      return el('tr', {}, el('td', {}, el('a', { href: link('edge', layer.at, layer.source(edge), layer.destination(edge)) }, `${from} \u2192 ${to}`)),
        el('td', {}, kind), el('td', { class: 'number' }, matters === '' ? 'unknown' : number(matters)));
    }));
    place.textContent = edges.length ? `${count(page * SHOWN + 1)} to ${count(page * SHOWN + part.length)} of ${count(edges.length)}` : 'No edge is like that.';
    back.disabled = page === 0;
    on.disabled = (page + 1) * SHOWN >= edges.length;
  }
  async function save() {
    const parts = [csv([['source', 'destination', 'kind', 'importance']])];
    for (let at = 0; at < edges.length; at += PIECE) {
      parts.push(csv(Array.from(edges.subarray(at, at + PIECE), line)));
      await new Promise((resolve) => { setTimeout(resolve); });
    }
    download(`${model.model_name}-layer${layer.at}-edges.csv`, new Blob(parts, { type: 'text/csv;charset=utf-8' }));
  }
  const found = el('div', { class: 'table' },
    el('p', { class: 'row' },
      labelled('Layer', select(layers.map((one) => [one.at, `${one.at}: ${one.sources} \u00d7 ${one.destinations}`]), 0, (value) => { layer = layers[Number(value)]; sort(); })),
      labelled('Order', select([['strongest', 'strongest first'], ['weakest', 'weakest first'], ['place', 'by source']], order, (value) => { order = value; sort(); }))),
    el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Edges of a layer' },
      el('table', {}, el('thead', {}, el('tr', {}, ['Edge', 'Kind', 'Importance'].map((name) => el('th', { scope: 'col' }, name)))), body)),
    el('p', { class: 'row' }, button('Save as CSV', save), back, on, place));
  sort();
  return found;
}
