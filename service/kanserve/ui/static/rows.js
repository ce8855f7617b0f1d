// Input row of the explain page: parser for JSON and CSV, form with sliders, URL fragment, sampled rows.

import { button, el } from './dom.js';
import { number } from './format.js';
import { feature, unit } from './names.js';

const FORM = 30; // inputs that are shown at a time

/** A row from JSON (a list, a list of rows, an object by names) or CSV, with or without names above it. Throws Error. */
export function parse(text, names) {
  const given = text.trim();
  if (!given) throw new Error('There is nothing to read: paste a row of numbers.');
  const found = '[{'.includes(given[0]) ? ofJson(given, names) : ofCsv(given, names);
  if (found.length !== names.length) throw new Error(`The row has ${found.length} numbers, the model takes ${names.length}.`);
  const wrong = found.findIndex((one) => typeof one !== 'number' || Number.isNaN(one));
  if (wrong >= 0) throw new Error(`${names[wrong]} is no number.`);
  return found;
}

function ofJson(text, names) {
  let found;
  try {
    found = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is no JSON: ${error.message}`);
  }
  if (!Array.isArray(found)) return ofObject(found, names);
  if (found.length && found.every((one) => one !== null && typeof one === 'object' && !Array.isArray(one))) return ofObject(found[0], names);
  const flat = found.flat(Infinity);
  return found.length && Array.isArray(found[0]) ? flat.slice(0, names.length) : flat;
}

function ofObject(found, names) {
  const unknown = Object.keys(found).find((name) => !names.includes(name));
  if (unknown !== undefined) throw new Error(`The model has no input ${unknown}; it has ${names.slice(0, 12).join(', ')}.`);
  const missing = names.find((name) => !(name in found));
  if (missing !== undefined) throw new Error(`${missing} is missing.`);
  return names.map((name) => found[name]);
}

function ofCsv(text, names) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim());
  const mark = [';', '\t', ','].find((one) => lines[0].includes(one)) ?? ' ';
  const cells = (line) => line.trim().split(mark === ' ' ? /\s+/ : mark).map((cell) => cell.trim().replace(/^"(.*)"$/, '$1'));
  const first = cells(lines[0]);
  const titled = first.some((cell) => cell !== '' && Number.isNaN(Number(cell)));
  if (titled && lines.length < 2) throw new Error('There are names and no numbers below them.');
  const values = cells(titled ? lines[1] : lines[0]).map((cell) => (cell === '' ? NaN : Number(cell)));
  if (!titled || !first.every((name) => names.includes(name))) {
    if (titled) throw new Error(`The model has no input ${first.find((name) => !names.includes(name))}; it has ${names.slice(0, 12).join(', ')}.`);
    return values;
  }
  return ofObject(Object.fromEntries(first.map((name, at) => [name, values[at]])), names);
}

/** What stands behind # of this address. Nothing of it goes to the server with the page, nor into a log. */
export function fromFragment(count) {
  const said = new URLSearchParams(location.hash.slice(1));
  const row = (said.get('row') ?? '').split(',').filter((one) => one !== '').map(Number);
  return {
    row: row.length === count && !row.some(Number.isNaN) ? row : null,
    reference: said.get('reference') ?? '',
    output: Number(said.get('output') ?? 0) || 0,
  };
}

/** Leaves a row behind #, so that the address leads back to it. */
export function toFragment({ row, reference, output }) {
  const said = [`row=${row.map((one) => Number(one.toPrecision(9))).join(',')}`];
  if (reference) said.push(`reference=${reference}`);
  if (output) said.push(`output=${output}`);
  history.replaceState(history.state, '', `${location.pathname}${location.search}#${said.join('&')}`);
}

/**
 * A form of all inputs: {node, set(row), first(order)}. ranges: [low, high] of each slider. onrow(row, moving) is called
 * with the row after a change; moving: more will come. `first` brings these inputs to the top, where there are many.
 */
export function form(model, row, ranges, onrow) {
  let own = [...row];
  let order = own.map((_, at) => at);
  let sought = '';
  const list = el('div', { class: 'inputs' });
  const lines = new Map();
  const count = el('span', { class: 'quiet' });
  const change = (at, value, moving) => {
    own = own.with(at, value);
    lines.get(at)?.show(value);
    onrow([...own], moving);
  };
  const line = (at) => {
    if (!lines.has(at)) lines.set(at, one(model, at, own[at], ranges[at], (value, moving) => change(at, value, moving)));
    return lines.get(at).node;
  };
  function draw() {
    const found = order.filter((at) => feature(model, at).toLowerCase().includes(sought));
    list.replaceChildren(...found.slice(0, FORM).map(line));
    count.textContent = found.length > FORM ? `${FORM} of ${found.length} inputs; search for others` : '';
  }
  const search = own.length > FORM && el('label', { class: 'search' }, 'Search inputs ',
    el('input', { type: 'search', oninput: (event) => { sought = event.target.value.trim().toLowerCase(); draw(); } }));
  draw();
  return {
    node: el('div', {}, search, list, count),
    set(values) {
      own = [...values];
      for (const [at, shown] of lines) shown.show(own[at]);
    },
    first(wanted) {
      if (own.length <= FORM || list.contains(document.activeElement)) return;
      order = [...wanted, ...own.map((_, at) => at).filter((at) => !wanted.includes(at))];
      draw();
    },
  };
}

function one(model, at, value, [low, high], onvalue) {
  const name = feature(model, at);
  const said = unit(model, at);
  const slider = el('input', {
    type: 'range', min: low, max: high, step: (high - low) / 400 || 'any', value, 'aria-label': `${name}, slider`,
    oninput: () => onvalue(Number(slider.value), true), onchange: () => onvalue(Number(slider.value), false),
  });
  const box = el('input', {
    type: 'text', inputmode: 'decimal', value: number(value, 4), 'aria-label': name, autocomplete: 'off',
    onchange: () => {
      const given = Number(box.value.trim().replace(',', '.'));
      const good = box.value.trim() !== '' && !Number.isNaN(given);
      box.setAttribute('aria-invalid', String(!good));
      if (good) onvalue(given, false);
    },
  });
  const show = (given) => {
    slider.value = given;
    if (document.activeElement !== box) box.value = number(given, 4);
    box.setAttribute('aria-invalid', 'false');
    node.classList.toggle('outside', given < low || given > high);
  };
  const node = el('div', { class: 'input' },
    el('span', { class: 'name', title: name }, name, said && el('span', { class: 'quiet' }, ` ${said}`)), slider, box);
  show(value);
  return { node, show };
}

/** Where to paste a row, and what of it is wrong in words. */
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

/** Rows of the traffic that the server was told to keep; they are asked for when they are opened. */
export function sampled(api, kan, names, onrow) {
  const body = el('div', { class: 'sampled' });
  const load = async () => {
    body.replaceChildren(el('p', { class: 'quiet' }, 'Asking \u2026'));
    try {
      const { rows, note } = await api.get(`${kan}/rows`);
      body.replaceChildren(...(rows.length ? list(rows) : [el('p', {}, note || 'No row has come yet.')]));
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
    el('p', { class: 'row' }, button('Ask for newer ones', load)),
  ];
  const node = el('details', { class: 'paste', ontoggle: () => node.open && load() },
    el('summary', {}, 'Pick a row of the traffic'), body);
  return node;
}
