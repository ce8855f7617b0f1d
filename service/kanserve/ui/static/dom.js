// Elements, panels, forms, downloads and errors. Text is set as text: a model's name cannot become markup.

/** Creates el('a', {href, class, onclick, ...}, 'text', node, [nodes]), without null, undefined and false children. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Sets attributes, listeners (on...) and properties other than strings, and appends children. */
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

/** Puts a label around a control. */
export function labelled(text, control, attributes = {}) {
  return el('label', attributes, `${text} `, control);
}

/** Creates a select of values, or of [value, text] pairs. `onchange` receives the value. */
export function select(choices, value, onchange) {
  const pairs = choices.map((choice) => (Array.isArray(choice) ? choice : [choice, choice]));
  const node = el('select', { onchange: () => onchange?.(node.value) },
    pairs.map(([each, text]) => el('option', { value: each, selected: String(each) === String(value) }, text)));
  return node;
}

/** Lists names and values; a value may be a node. `across`: side by side instead of one per line. */
export function facts(pairs, { across = false } = {}) {
  if (!across) return el('dl', { class: 'facts' }, pairs.map(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
  return el('dl', { class: 'facts across' }, pairs.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))));
}

/** Frames a part of a view under a title. options: {note: a line below the title, tools: buttons, kind: a class}. */
export function panel(title, { note, tools, kind } = {}, ...children) {
  return el('section', { class: kind ? `panel ${kind}` : 'panel' },
    el('div', { class: 'head' }, el('h2', {}, title), tools && el('div', { class: 'tools' }, tools), note && el('p', { class: 'quiet' }, note)),
    children);
}

/** Shows that there is nothing yet, and the next step: text, and a command where one helps. */
export function empty(title, step, command) {
  return el('div', { class: 'empty' }, el('p', {}, el('strong', {}, title)), step && el('p', {}, step),
    command && el('code', { class: 'query' }, command));
}

/** Shows a number and its name. kind: '' or 'good' or 'bad'. */
export function tile(value, text, kind = '') {
  return el('div', { class: `tile ${kind}` }, el('strong', {}, value), el('span', {}, text));
}

/** The head of a view: its title, and a line about it. */
export function heading(title, ...line) {
  return el('div', { class: 'page-head' }, el('h1', {}, title), line.length > 0 && el('p', { class: 'quiet' }, line));
}

/** Calls `draw(width)` when the width of a node changes. Returns a function that stops this. */
export function sized(node, draw) {
  let before = Math.floor(node.clientWidth);
  const observer = new ResizeObserver(() => {
    const width = Math.floor(node.clientWidth);
    if (!width || Math.abs(width - before) < 2) return;
    before = width;
    draw(width);
  });
  observer.observe(node);
  return () => observer.disconnect();
}

/** The width in pixels for a picture in this node. */
export function room(node, otherwise = 600) {
  return Math.max(240, Math.floor(node.clientWidth) || otherwise);
}

/** Saves a Blob or a string as a file. */
export function download(name, data, kind = 'text/plain') {
  const blob = data instanceof Blob ? data : new Blob([data], { type: `${kind};charset=utf-8` });
  const address = URL.createObjectURL(blob);
  const link = el('a', { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A small button in the head of a panel. Screen readers read its whole name, such as "Save as CSV". */
export function saver(kind, onclick) {
  return button(kind, onclick, { 'aria-label': `Save as ${kind}`, title: `Save as ${kind}` });
}

/** Writes rows as CSV (RFC 4180). A text that a spreadsheet would read as a formula gets a quote before it. */
export function csv(rows) {
  const cell = (value) => {
    if (typeof value === 'number' || typeof value === 'bigint') return String(value);
    const text = value === null || value === undefined ? '' : String(value);
    const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return rows.map((row) => `${row.map(cell).join(',')}\r\n`).join('');
}

/** Replaces the content of `root` with an error and the next step. `error`: an ApiError, or another error. */
export function showError(root, error) {
  const [title, advice] = described(error);
  root.replaceChildren(el('section', { class: 'trouble', role: 'alert' },
    el('h1', {}, title),
    el('p', {}, error?.message || String(error)),
    advice && el('p', {}, advice),
    hint(error) && el('p', {}, `${hint(error)[0].toUpperCase()}${hint(error).slice(1)}.`),
    el('p', { class: 'row' },
      button('Try again', () => document.dispatchEvent(new CustomEvent('kanserve:again')), { class: 'primary' }),
      el('a', { href: 'ui/' }, 'All models'))));
}

/** The message of an error and the server's hint, in one line. */
export function reason(error) {
  return [error.message, hint(error)].filter(Boolean).join('; ');
}

/** The server's hint, or ''. For a missing token it names a header. The page has a dialog for the token. */
function hint({ status, help = '' }) {
  return status === 401 ? '' : help;
}

function described(error) {
  switch (error?.status) {
    case 0: return ['No response from the server', 'The server may be restarting, or this machine is offline.'];
    case 401: return ['Token required', 'Try again and enter a token with the role interpret.'];
    case 403: return ['Permission denied', 'This view needs a token with the role interpret. Changes need the role admin.'];
    case 404: return ['Not found', 'This version may no longer be served. Choose another.'];
    case 400: case 412: case 501: return ['Not available', ''];
    case 413: return ['Response too large', 'Request fewer rows or edges. The server has limits.'];
    case 429: case 503: return ['Server overloaded or shutting down', 'Wait a moment, then try again.'];
    default: return ['Unexpected error', 'Try again. If the error remains, read the log of the server.'];
  }
}
