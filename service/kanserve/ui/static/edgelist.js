// Paged table of the selected edges, sorted by importance or by number, with CSV download; works for a million edges.

import { button, csv, download, el, labelled, saver, select } from './dom.js';
import { count, number } from './format.js';
import { KINDS, brief, chosen, strongest } from './network.js';

const SHOWN = 25; // rows of a page
const CHUNK = 20_000; // rows of CSV that are written before the page may do other work
const ORDERS = [['strongest', 'strongest first'], ['weakest', 'weakest first'], ['place', 'by source']];

/** Creates the list. layers: those of `network.js`; filter: the filters of `chosen`. */
export function edgeList(layers, filter, { link, model }) {
  let layer = layers[0];
  let order = 'strongest';
  let edges = new Uint32Array(0);
  let page = 0;
  const body = el('tbody');
  const place = el('span', { class: 'quiet', role: 'status' });
  const previous = button('Previous', () => draw(page - 1));
  const next = button('Next', () => draw(page + 1));
  const names = (edge) => [layer.sourceName(layer.source(edge)), layer.destinationName(layer.destination(edge))];
  const record = (edge) => [...names(edge), KINDS[layer.kinds[edge]], layer.scores ? layer.scores[edge] : ''];
  function sort() {
    const matches = chosen(layer, filter);
    if (order === 'strongest') edges = strongest(layer, matches);
    else if (order === 'weakest') edges = strongest(layer, matches).reverse();
    else edges = matches;
    draw(0);
  }
  function row(edge) {
    const [from, to] = names(edge).map(brief);
    return el('tr', {}, el('td', {}, el('a', { href: link('edge', layer.at, layer.source(edge), layer.destination(edge)) }, `${from} \u2192 ${to}`)),
      el('td', {}, KINDS[layer.kinds[edge]]), el('td', { class: 'number' }, layer.scores ? number(layer.scores[edge], 3) : 'unknown'));
  }
  function draw(wantedPage) {
    page = Math.min(Math.max(0, wantedPage), Math.max(0, Math.ceil(edges.length / SHOWN) - 1));
    const part = edges.subarray(page * SHOWN, (page + 1) * SHOWN);
    body.replaceChildren(...Array.from(part, row));
    place.textContent = edges.length ? `${count(page * SHOWN + 1)} to ${count(page * SHOWN + part.length)} of ${count(edges.length)}`
      : 'No edge matches. Clear the search, or lower the minimum importance.';
    previous.disabled = page === 0;
    next.disabled = (page + 1) * SHOWN >= edges.length;
    previous.hidden = next.hidden = edges.length <= SHOWN;
  }
  async function save() {
    const parts = [csv([['source', 'destination', 'kind', 'importance']])];
    for (let at = 0; at < edges.length; at += CHUNK) {
      parts.push(csv(Array.from(edges.subarray(at, at + CHUNK), record)));
      await new Promise((resolve) => { setTimeout(resolve); });
    }
    download(`${model.model_name}-layer${layer.at}-edges.csv`, new Blob(parts, { type: 'text/csv;charset=utf-8' }));
  }
  const sizes = layers.map((each) => [each.at, `${each.at}: ${each.sources} \u00d7 ${each.destinations}`]);
  const result = el('div', { class: 'table' },
    el('div', { class: 'filters' },
      labelled('Layer', select(sizes, 0, (value) => { layer = layers[Number(value)]; sort(); })),
      labelled('Order', select(ORDERS, order, (value) => { order = value; sort(); }))),
    el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Edges of a layer' },
      el('table', {}, el('thead', {}, el('tr', {}, ['Edge', 'Kind', 'Importance'].map((name, at) => el('th', { scope: 'col', class: at === 2 && 'number' }, name)))), body)),
    el('div', { class: 'row' }, el('div', { class: 'tools' }, saver('CSV', save)), previous, next, place));
  sort();
  return result;
}
