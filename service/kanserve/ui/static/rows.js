// Input row of the explain page: parser for JSON and CSV, form with sliders, URL fragment, sampled rows.

import { button, el } from './dom.js';
import { number } from './format.js';
import { feature, nodeOfSource, unit } from './names.js';

const FORM = 30; // inputs that the form shows at a time
const LISTED = 12; // names in an error message

/** Reads a row from JSON (a list, a list of rows, an object by names) or CSV, with or without names. Throws Error. */
export function parse(text, names) {
  const source = text.trim();
  if (!source) throw new Error('The text is empty. Paste a row of numbers.');
  const row = '[{'.includes(source[0]) ? ofJson(source, names) : ofCsv(source, names);
  if (row.length !== names.length) throw new Error(`The row has ${row.length} numbers, expected ${names.length}.`);
  const wrong = row.findIndex((value) => typeof value !== 'number' || Number.isNaN(value));
  if (wrong >= 0) throw new Error(`The value of ${names[wrong]} is not a number.`);
  return row;
}

function ofJson(text, names) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`The text is not valid JSON: ${error.message}`);
  }
  if (!Array.isArray(value)) return ofObject(value, names);
  if (value.length && value.every((each) => each !== null && typeof each === 'object' && !Array.isArray(each))) return ofObject(value[0], names);
  const flat = value.flat(Infinity);
  return value.length && Array.isArray(value[0]) ? flat.slice(0, names.length) : flat;
}

function unknownInput(name, names) {
  return new Error(`The model has no input ${name}. Its inputs: ${names.slice(0, LISTED).join(', ')}${names.length > LISTED ? ', \u2026' : ''}.`);
}

function ofObject(object, names) {
  const unknown = Object.keys(object).find((name) => !names.includes(name));
  if (unknown !== undefined) throw unknownInput(unknown, names);
  const missing = names.find((name) => !(name in object));
  if (missing !== undefined) throw new Error(`The value of ${missing} is missing.`);
  return names.map((name) => object[name]);
}

function ofCsv(text, names) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim());
  const mark = [';', '\t', ','].find((each) => lines[0].includes(each)) ?? ' ';
  const cells = (line) => line.trim().split(mark === ' ' ? /\s+/ : mark).map((cell) => cell.trim().replace(/^"(.*)"$/, '$1'));
  const first = cells(lines[0]);
  const titled = first.some((cell) => cell !== '' && Number.isNaN(Number(cell)));
  if (titled && lines.length < 2) throw new Error('The text has names, but no row of numbers below them.');
  const values = cells(titled ? lines[1] : lines[0]).map((cell) => (cell === '' ? NaN : Number(cell)));
  if (!titled) return values;
  const unknown = first.find((name) => !names.includes(name));
  if (unknown !== undefined) throw unknownInput(unknown, names);
  return ofObject(Object.fromEntries(first.map((name, at) => [name, values[at]])), names);
}

/** Resolves to the range of each input, which is the range of the curves of the first layer. */
export async function spans({ api, kan, model }, size) {
  const ranges = Array.from({ length: size }, () => [-1, 1]);
  if (!curved(model, 0)) return ranges; // edges of class B have no range
  const { blocks } = await api.post(`${kan}/curves`, { layers: [0], destinations: [0], points: 2 });
  for (const block of blocks) {
    block.sources.forEach((source, at) => { ranges[nodeOfSource(model.layers[0], source)] = block.x[at]; });
  }
  return ranges;
}

/** Whether the edges of a layer are curves over their sources. */
export function curved(model, layer) {
  return (model.layers[layer].edge_class || model.edge_class) === 'A';
}

/** Reads the row from the part of the address after #, which browsers do not send to servers. */
export function fromFragment(count) {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const read = (name) => {
    const row = (fragment.get(name) ?? '').split(',').filter((value) => value !== '').map(Number);
    return row.length === count && !row.some(Number.isNaN) ? row : null;
  };
  return {
    row: read('row'),
    against: read('against'),
    reference: fragment.get('reference') ?? '',
    output: fragment.has('output') ? Number(fragment.get('output')) || 0 : null,
  };
}

/** Writes the row after #, so that the address shows it again. `several`: the model has several outputs. */
export function toFragment({ row, against, reference, output }, several) {
  const written = (values) => values.map((value) => Number(value.toPrecision(9))).join(',');
  const parts = [`row=${written(row)}`];
  if (against) parts.push(`against=${written(against)}`);
  if (reference) parts.push(`reference=${reference}`);
  if (several) parts.push(`output=${output}`);
  history.replaceState(history.state, '', `${location.pathname}${location.search}#${parts.join('&')}`);
}

/**
 * Creates a form of all inputs: {node, set(row), first(order)}. ranges: [low, high] of each slider. onrow(row, moving)
 * receives the row after a change; moving: more changes follow. `first` moves these inputs to the top of a long form.
 */
export function form(model, row, ranges, onrow) {
  let current = [...row];
  let order = current.map((_, at) => at);
  let search = '';
  const list = el('div', { class: 'inputs' });
  const lines = new Map();
  const count = el('span', { class: 'quiet' });
  const change = (at, value, moving) => {
    current = current.with(at, value);
    lines.get(at)?.show(value);
    onrow([...current], moving);
  };
  const line = (at) => {
    if (!lines.has(at)) lines.set(at, input(model, at, current[at], ranges[at], (value, moving) => change(at, value, moving)));
    return lines.get(at).node;
  };
  function draw() {
    const matches = order.filter((at) => feature(model, at).toLowerCase().includes(search));
    list.replaceChildren(...matches.slice(0, FORM).map(line));
    count.textContent = matches.length > FORM ? `${FORM} of ${matches.length} inputs. Search for others.` : '';
  }
  const box = current.length > FORM && el('label', { class: 'search' }, 'Search inputs ',
    el('input', { type: 'search', oninput: (event) => { search = event.target.value.trim().toLowerCase(); draw(); } }));
  draw();
  return {
    node: el('div', {}, box, list, count),
    set(values) {
      current = [...values];
      for (const [at, shown] of lines) shown.show(current[at]);
    },
    first(indices) {
      if (current.length <= FORM || list.contains(document.activeElement)) return;
      order = [...indices, ...current.map((_, at) => at).filter((at) => !indices.includes(at))];
      draw();
    },
  };
}

function input(model, at, value, [low, high], onvalue) {
  const name = feature(model, at);
  const measure = unit(model, at);
  const slider = el('input', {
    type: 'range', min: low, max: high, step: (high - low) / 400 || 'any', value, 'aria-label': `${name}, slider`,
    oninput: () => onvalue(Number(slider.value), true), onchange: () => onvalue(Number(slider.value), false),
  });
  const box = el('input', {
    type: 'text', inputmode: 'decimal', value: number(value, 4), 'aria-label': name, autocomplete: 'off',
    onchange: () => {
      const typed = Number(box.value.trim().replace(',', '.'));
      const good = box.value.trim() !== '' && !Number.isNaN(typed);
      box.setAttribute('aria-invalid', String(!good));
      if (good) onvalue(typed, false);
    },
  });
  const show = (shown) => {
    slider.value = shown;
    if (document.activeElement !== box) box.value = number(shown, 4);
    box.setAttribute('aria-invalid', 'false');
    node.classList.toggle('outside', shown < low || shown > high);
  };
  const node = el('div', { class: 'input' },
    el('span', { class: 'name', title: name }, name, measure && el('span', { class: 'quiet' }, ` ${measure}`)), slider, box);
  show(value);
  return { node, show };
}

/** Creates a field for a pasted row. An error appears below it. */
export function paste(names, onrow) {
  const area = el('textarea', { rows: 4, spellcheck: 'false', 'aria-label': 'A row as JSON or CSV', placeholder: sample(names) });
  const wrong = el('p', { class: 'alarm', role: 'alert' });
  const take = () => {
    try {
      onrow(parse(area.value, names));
      wrong.textContent = '';
    } catch (error) {
      wrong.textContent = error.message;
    }
  };
  return el('details', { class: 'paste' }, el('summary', {}, 'Paste a row (JSON or CSV)'), area,
    el('p', { class: 'row' }, button('Explain this row', take)), wrong);
}

function sample(names) {
  const some = names.slice(0, 3);
  const more = names.length > 3 ? ', \u2026' : '';
  return `{${some.map((name) => `"${name}": 0`).join(', ')}${more}}\nor ${some.map(() => '0').join(',')}${more}`;
}

/** Lists rows of live traffic that the server keeps, when the user opens the list. */
export function sampled(api, kan, names, onrow) {
  const body = el('div', { class: 'sampled' });
  const load = async () => {
    body.replaceChildren(el('p', { class: 'quiet' }, 'Loading \u2026'));
    try {
      const { rows, note } = await api.get(`${kan}/rows`);
      body.replaceChildren(...(rows.length ? list(rows) : [el('p', {}, note || 'No request yet. Send one, then load the list again.')]));
    } catch (error) {
      body.replaceChildren(el('p', {}, error.message));
    }
  };
  const list = (rows) => [
    el('ol', {}, rows.map(({ time, values }) => {
      const row = Object.values(values)[0].flat(Infinity);
      const words = row.slice(0, 4).map((value, place) => `${names[place]} ${number(value, 3)}`).join(', ');
      return el('li', {}, button(`${new Date(time * 1000).toLocaleTimeString()}: ${words}${row.length > 4 ? ' \u2026' : ''}`, () => onrow(row)));
    })),
    el('p', { class: 'row' }, button('Load newer requests', load)),
  ];
  const node = el('details', { class: 'paste', ontoggle: () => node.open && load() },
    el('summary', {}, 'Choose a recent request'), body);
  return node;
}
