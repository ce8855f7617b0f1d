// Sortable table with pages, and the whole table as CSV.

import { button, csv, download, el, panel, saver } from './dom.js';

const SHOWN = 200; // rows of a page

/**
 * Creates a table. A click on a heading sorts it.
 * columns: [{name, text?: (row) => string or node, value: (row) => number or string, number?: true, wraps?: true}].
 * options: {caption, file, sort?: {column: index, down: bool}, hideCaption?, panel?: a panel has the button}.
 */
function made(columns, rows, options) {
  let { column = -1, down = true } = options.sort ?? {};
  let page = 0;
  let sorted = rows;
  const head = el('tr');
  const body = el('tbody');
  const place = el('span', { class: 'quiet' });
  const previous = button('Previous', () => draw(page - 1));
  const next = button('Next', () => draw(page + 1));
  const order = () => {
    if (column < 0) return;
    const { value } = columns[column];
    const sign = down ? -1 : 1;
    sorted = rows.map((row) => [value(row), row]).sort(([a], [b]) => sign * compare(a, b)).map(([, row]) => row);
  };
  const cell = (row, { text, value, number, wraps }) => el('td', { class: number ? 'number' : wraps && 'text' }, text ? text(row) : String(value(row)));
  const headings = () => head.replaceChildren(...columns.map((each, at) => el('th',
    { scope: 'col', class: each.number && 'number', 'aria-sort': at === column && (down ? 'descending' : 'ascending') },
    button(each.name, () => {
      down = at === column ? !down : Boolean(each.number);
      column = at;
      order();
      headings();
      draw(0);
      head.children[at].firstChild.focus();
    }))));
  function draw(number) {
    const pages = Math.max(1, Math.ceil(rows.length / SHOWN));
    page = Math.min(Math.max(0, number), pages - 1);
    const part = sorted.slice(page * SHOWN, (page + 1) * SHOWN);
    body.replaceChildren(...part.map((row) => el('tr', {}, columns.map((each) => cell(row, each)))));
    place.textContent = pages > 1 ? `${page * SHOWN + 1} to ${page * SHOWN + part.length} of ${rows.length}` : '';
    previous.hidden = next.hidden = pages === 1;
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
  }
  order();
  headings();
  draw(0);
  const save = saver('CSV', () => download(`${options.file}.csv`,
    csv([columns.map((each) => each.name), ...sorted.map((row) => columns.map((each) => each.value(row)))]), 'text/csv'));
  const scroll = el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': options.caption },
    el('table', {}, el('caption', { class: options.hideCaption && 'hidden' }, options.caption), el('thead', {}, head), body));
  const foot = el('div', { class: 'row' }, !options.panel && el('div', { class: 'tools' }, save), previous, next, place);
  foot.hidden = Boolean(options.panel) && previous.hidden;
  return { node: el('div', { class: 'table' }, scroll, foot), save };
}

/** Frames a table. The panel has the button that saves it. */
export function tablePanel(title, columns, rows, options) {
  const { node, save } = bareTable(columns, rows, options);
  return panel(title, { tools: save, note: options.note, kind: options.kind }, node);
}

/** Creates {node: the table, save: the button that saves it} for a panel. */
export function bareTable(columns, rows, options) {
  return made(columns, rows, { ...options, hideCaption: true, panel: true });
}

/** Creates a table with a caption, and a button that saves it below. */
export function table(columns, rows, options) {
  return made(columns, rows, options).node;
}

function compare(a, b) {
  if (typeof a === 'number' && typeof b === 'number') {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a - b;
  }
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}
