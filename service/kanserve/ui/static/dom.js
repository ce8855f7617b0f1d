// Elements, tables, forms and downloads. Text is set as text: nothing that a model is called becomes markup.

/** el('a', {href, class, onclick, ...}, 'text', node, [nodes]); null, undefined and false are left out. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Sets attributes, listeners (on...) and properties that are no strings, and appends children. */
export function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'value' || name === 'checked') node[name] = value;
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function button(text, onclick, attributes = {}) {
  return el('button', { type: 'button', onclick, ...attributes }, text);
}

/** A control with its label around it. */
export function labelled(text, control, attributes = {}) {
  return el('label', attributes, `${text} `, control);
}

/** choices: values, or [value, text] pairs. onchange gets the value. */
export function select(choices, value, onchange) {
  const pairs = choices.map((one) => (Array.isArray(one) ? one : [one, one]));
  const found = el('select', { onchange: () => onchange?.(found.value) },
    pairs.map(([each, text]) => el('option', { value: each, selected: String(each) === String(value) }, text)));
  return found;
}

/** What something is, as a list of names and values; a value may be a node. */
export function facts(pairs) {
  return el('dl', { class: 'facts' }, pairs.map(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
}

/** Hands a file to the viewer; data: a Blob or a string. */
export function download(name, data, kind = 'text/plain') {
  const blob = data instanceof Blob ? data : new Blob([data], { type: `${kind};charset=utf-8` });
  const address = URL.createObjectURL(blob);
  const link = el('a', { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Rows of values as CSV (RFC 4180). A text that a spreadsheet would take for a formula gets a quote before it. */
export function csv(rows) {
  const cell = (value) => {
    if (typeof value === 'number' || typeof value === 'bigint') return String(value);
    const text = value === null || value === undefined ? '' : String(value);
    const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return rows.map((row) => `${row.map(cell).join(',')}\r\n`).join('');
}

const SHOWN = 200; // lines of a table at a time

/**
 * A table that is sorted by a click on a heading, shown a page at a time, and saved as CSV whole.
 * columns: [{name, text?: (row) => string or node, value: (row) => number or string, number?: true}].
 * options: {caption, file, sort?: {column: index, down: bool}, onrow?: (row) => void}.
 */
export function table(columns, rows, options) {
  let { column = -1, down = true } = options.sort ?? {};
  let page = 0;
  let sorted = rows;
  const head = el('tr');
  const body = el('tbody');
  const place = el('span', { class: 'quiet' });
  const back = button('Back', () => draw(page - 1));
  const on = button('More', () => draw(page + 1));
  const order = () => {
    if (column < 0) return;
    const { value } = columns[column];
    const sign = down ? -1 : 1;
    sorted = rows.map((row) => [value(row), row]).sort(([a], [b]) => sign * compare(a, b)).map(([, row]) => row);
  };
  const heading = () => head.replaceChildren(...columns.map((one, at) => el('th',
    { scope: 'col', class: one.number && 'number', 'aria-sort': at === column && (down ? 'descending' : 'ascending') },
    button(one.name, () => {
      down = at === column ? !down : Boolean(one.number);
      column = at;
      order();
      heading();
      draw(0);
      head.children[at].firstChild.focus();
    }))));
  function draw(wanted) {
    const pages = Math.max(1, Math.ceil(rows.length / SHOWN));
    page = Math.min(Math.max(0, wanted), pages - 1);
    const part = sorted.slice(page * SHOWN, (page + 1) * SHOWN);
    body.replaceChildren(...part.map((row) => el('tr', {}, columns.map((one) =>
      el('td', { class: one.number && 'number' }, one.text ? one.text(row) : String(one.value(row)))))));
    place.textContent = pages > 1 ? `${page * SHOWN + 1} to ${page * SHOWN + part.length} of ${rows.length}` : '';
    back.hidden = on.hidden = pages === 1;
    back.disabled = page === 0;
    on.disabled = page === pages - 1;
  }
  order();
  heading();
  draw(0);
  const save = button('Save as CSV', () => download(`${options.file}.csv`,
    csv([columns.map((one) => one.name), ...sorted.map((row) => columns.map((one) => one.value(row)))]), 'text/csv'));
  return el('div', { class: 'table' },
    el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': options.caption },
      el('table', {}, el('caption', {}, options.caption), el('thead', {}, head), body)),
    el('p', { class: 'row' }, save, back, on, place));
}

function compare(a, b) {
  if (typeof a === 'number' && typeof b === 'number') {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a - b;
  }
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

/** Shows in words what went wrong, in place of what is in `root`, with a way on. `error`: an ApiError, or any. */
export function tell(root, error) {
  const [title, advice] = words(error);
  root.replaceChildren(el('section', { class: 'trouble', role: 'alert' },
    el('h1', {}, title),
    el('p', {}, error?.message || String(error)),
    advice && el('p', {}, advice),
    el('p', { class: 'row' },
      button('Try again', () => document.dispatchEvent(new CustomEvent('kanserve:again'))),
      el('a', { href: 'ui/' }, 'All models'))));
}

function words(error) {
  switch (error?.status) {
    case 0: return ['The server does not answer', 'It may be restarting, or this machine is offline.'];
    case 401: return ['A token is needed', 'Try again, and give one with the role interpret.'];
    case 403: return ['This token may not see that', 'The page needs a token with the role interpret, for changes admin.'];
    case 404: return ['There is no such thing', 'The model or version may have been replaced or let go.'];
    case 400: case 412: case 501: return ['This cannot be shown', ''];
    case 413: return ['This is too much for one answer', 'Ask for fewer rows or edges; the server has limits.'];
    case 429: case 503: return ['The server has too much to do, or is on its way out', 'Wait a moment.'];
    default: return ['Something went wrong', ''];
  }
}
