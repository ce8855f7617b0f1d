// Form that edits one edge: it previews the curve before and after the edit, and saves the edit as a new version.

import { ApiError, pause } from './api.js';
import { editChart, units } from './charts/edge.js';
import { button, el, labelled, panel, reason, room, select, sized } from './dom.js';
import { count, number } from './format.js';
import * as names from './names.js';
import { Doing } from './skeleton.js';
import { savers } from './svg.js';

const AGAIN = 1000; // milliseconds between two checks whether the server has loaded the new version
const CHECKS = 60;

const text = (placeholder, size = 10, attributes = {}) => () => el('input', { type: 'text', size, placeholder, required: true, autocomplete: 'off', spellcheck: 'false', ...attributes });
const decimal = (placeholder) => text(placeholder, 10, { inputmode: 'decimal' });

// Operation -> its title, its fields as [label, control], and the function that reads their values. That function
// throws Error for values that the server would reject.
const OPERATIONS = {
  to: { title: 'Replace by an expression', fields: [['Expression of x', text('1.2*sin(x)', 26)]], read: ([typed]) => ({ text: filled(typed) }) },
  zero: { title: 'Remove (set to 0)', fields: [], read: () => ({}) },
  clamp: { title: 'Limit the values', fields: [['Lowest value', decimal('-1')], ['Highest value', decimal('2')]], read: limits },
  monotone: {
    title: 'Make monotone', fields: [['Direction', () => select([['up', 'Rising'], ['down', 'Falling']], 'up')]], read: ([direction]) => ({ text: direction }),
  },
  shift: { title: 'Move along x', fields: [['Distance along x', decimal('0.1')]], read: ([typed]) => ({ numbers: [decimalOf(typed)] }) },
  raise: { title: 'Raise or lower', fields: [['Added value', decimal('0.1')]], read: ([typed]) => ({ numbers: [decimalOf(typed)] }) },
  points: {
    title: 'Draw through points', read: ([typed]) => ({ numbers: pairs(typed) }),
    fields: [['Points, one pair of x and y per line', () => el('textarea', { rows: 4, cols: 22, placeholder: '-0.2, 0.1\n0, 0\n0.2, 0.1', required: true, spellcheck: 'false' })]],
  },
};

function filled(typed) {
  if (!typed.trim()) throw new Error('The expression is empty. Write an expression of x, such as 1.2*sin(x).');
  return typed.trim();
}

/** Reads a number, with a decimal point or a decimal comma. */
function decimalOf(typed) {
  const value = Number(typed.trim().replace(',', '.'));
  if (!typed.trim() || !Number.isFinite(value)) throw new Error(`Found \u201c${typed}\u201d, expected a number such as 0.1.`);
  return value;
}

function limits(typed) {
  const [low, high] = typed.map(decimalOf);
  if (low > high) throw new Error(`The lowest value ${number(low)} is above the highest value ${number(high)}. Exchange them.`);
  return { numbers: [low, high] };
}

/** Reads pairs of numbers, one per line, with or without a line of names before them. Returns x0, y0, x1, y1 and so on. */
function pairs(typed) {
  const lines = typed.split('\n').map((line) => line.trim().split(/[\s,;]+/)).filter(([first]) => first);
  if (lines[0]?.join() === 'x,y') lines.shift();
  if (!lines.length) throw new Error('This edit needs points. Write x and y of one point on each line, such as 0.2, 0.1.');
  const wrong = lines.find((line) => line.length !== 2 || !line.every((cell) => Number.isFinite(Number(cell))));
  if (wrong) throw new Error(`Found \u201c${wrong.join(', ')}\u201d, expected a pair of x and y such as 0.2, 0.1.`);
  return lines.flat().map(Number);
}

/**
 * Creates the form of one edge: {node, leave}. view: {ctx, layer, at, source, destination, ends: names of the nodes,
 * unit: scale of the output, file}.
 */
export function edgeEdit(view) {
  const form = new EdgeEdit(view);
  return { node: form.node, leave: () => form.leave() };
}

class EdgeEdit {
  constructor(view) {
    const { ctx: { model }, layer, source, ends, at } = view;
    Object.assign(this, { view, left: new AbortController(), previewed: '', busy: false, x: units(layer, source) ? ends[0] : 'x' });
    this.path = `v1/kan/models/${encodeURIComponent(model.model_name)}/versions/${encodeURIComponent(model.model_version)}/edits`;
    this.fields = el('span', { class: 'row' });
    this.trouble = el('p', { class: 'alarm', role: 'alert', id: 'edit-trouble' });
    this.report = el('div', {});
    this.tools = el('span', { class: 'tools' });
    this.save = button('Save as new version', () => this.#send(false), { disabled: true });
    this.operation = select(Object.entries(OPERATIONS).map(([name, { title }]) => [name, title]), 'to', () => this.#choose());
    this.node = panel('Edit this edge', {
      tools: this.tools,
      note: `x is ${this.x === 'x' ? `the value that the edge reads, after the steps before layer ${at}` : this.x}. An edit is a new version of the model. It does not change version ${model.model_version}.`,
    }, el('form', {
      'aria-label': `Edit of edge ${at}:${source}:${view.destination}`, novalidate: true,
      oninput: () => this.#changed(), onsubmit: (event) => { event.preventDefault(); this.#send(true); },
    }, el('div', { class: 'row edit' }, labelled('Operation', this.operation), this.fields,
      el('span', { class: 'row' }, el('button', { class: 'primary' }, 'Preview'), this.save))), this.trouble, this.report);
    this.#choose();
  }

  leave() {
    this.left.abort();
    this.resized?.();
  }

  #choose() {
    this.chosen = this.operation.value;
    const { fields } = OPERATIONS[this.chosen];
    this.controls = fields.map(([, control]) => control());
    this.controls.forEach((control) => control.setAttribute('aria-describedby', this.trouble.id));
    this.fields.replaceChildren(...fields.map(([label], at) => labelled(label, this.controls[at])));
    this.#changed();
  }

  /** Allows to save only the values of the preview. */
  #changed() {
    this.#fail('');
    let now = null;
    try {
      now = JSON.stringify(this.#edit());
    } catch {
      // The user is still typing. `#send` shows the error.
    }
    this.save.disabled = now !== this.previewed;
  }

  /** Shows an error, or none for ''. `invalid`: the values of the fields are the reason. */
  #fail(message, invalid = false) {
    this.trouble.textContent = message;
    this.controls.forEach((control) => control.setAttribute('aria-invalid', String(invalid)));
  }

  /** The edit of the request. Throws Error if a value is not valid. */
  #edit() {
    const { at: layer, source, destination } = this.view;
    const values = OPERATIONS[this.chosen].read(this.controls.map((control) => control.value));
    return { layer, source, destination, operation: this.chosen, text: '', numbers: [], ...values };
  }

  async #send(preview) {
    const { ctx, at, source, destination } = this.view;
    if (this.busy) return;
    let edit;
    try {
      edit = this.#edit();
    } catch (error) {
      this.#fail(error.message, true);
      this.controls[0]?.focus();
      return;
    }
    this.busy = true;
    this.#fail('');
    const doing = new Doing(preview ? `The server edits edge ${at}:${source}:${destination}, and compares the outputs before and after.`
      : `The server exports the edited network of ${ctx.model.model_name} as a new version, and verifies it.`);
    this.node.append(doing.node);
    try {
      const response = await ctx.api.post(this.path, { edits: [edit], preview }, preview ? { signal: this.left.signal } : {});
      this.previewed = preview ? JSON.stringify(edit) : '';
      if (!this.left.signal.aborted) this.#show(response);
    } catch (error) {
      if (error.name === 'AbortError') return;
      if (!(error instanceof ApiError)) throw error;
      this.#fail(reason(error));
    } finally {
      this.busy = false;
      doing.end();
    }
  }

  #show({ model_version: version, edit, curves: [curve], notes }) {
    const place = el('div', { class: 'plot' });
    const { ends, unit, file, ctx } = this.view;
    const words = summary(ctx.model, edit);
    const saved = version ? this.#saved(version) : null;
    this.report.replaceChildren(...[
      saved,
      el('p', { class: 'keys' }, el('span', { class: 'key former' }, 'before'), el('span', { class: 'key total' }, 'after')),
      place, el('p', {}, words), notes.map((note) => el('p', { class: 'quiet' }, note)),
    ].flat().filter(Boolean));
    const draw = () => place.replaceChildren(editChart({
      curve, names: [this.x, unit === 1 ? ends[1] : `${ends[1]}, scaled`], what: edit.edges[0].operation, width: room(place),
    }));
    this.resized?.();
    draw();
    this.resized = sized(place, draw);
    this.tools.replaceChildren(...savers(() => place.firstChild, `${file}-edit`));
    this.#changed();
    if (!saved) {
      ctx.announce(words);
      return;
    }
    saved.focus(); // `#changed` disabled the button with the focus
    this.#follow(version, saved);
  }

  /** The message about a new version, with the next commands. */
  #saved(version) {
    const name = this.view.ctx.model.model_name;
    return el('div', { class: 'empty', tabindex: '-1' },
      el('p', {}, el('strong', {}, `Saved as version ${version}.`), ' It is not the default version: the server serves it only by its number. ',
        el('span', { class: 'loaded' }, 'The server loads it.')),
      el('p', {}, 'Compare it on live traffic, then make it the default version:'),
      el('code', { class: 'query' }, `kanserve shadow ${name} ${version}`),
      el('code', { class: 'query' }, `kanserve promote ${name} ${version}`));
  }

  /** Links to a new version when the server has loaded it. */
  async #follow(version, saved) {
    const { ctx, at, source, destination } = this.view;
    const place = saved.querySelector('.loaded');
    const { signal } = this.left;
    for (let checks = 0; checks < CHECKS && !signal.aborted; checks += 1) {
      const ready = await ctx.versions().catch(() => []); // the next check may succeed
      if (signal.aborted) return;
      if (ready.includes(version)) {
        const address = [ctx.model.model_name, 'edge', at, source, destination].map(encodeURIComponent).join('/');
        place.replaceChildren(el('a', { href: `ui/${address}?version=${encodeURIComponent(version)}` }, `Show version ${version}`));
        ctx.announce(`Version ${version} is loaded.`);
        return;
      }
      await pause(AGAIN, signal);
    }
    place.textContent = 'The server has not loaded it yet. Load it if model_control is explicit; otherwise, read the log of the server.';
  }
}

/** Describes an edit and the change of the outputs in sentences. */
function summary(model, { edges: [edge], rows, rows_from: from, largest, mean, changed }) {
  const form = edge.form === 'fitted' ? `fitted, largest error ${number(edge.error, 2)}` : edge.form;
  const most = largest.indexOf(Math.max(...largest));
  const flips = changed > 0 ? ` On ${count(changed)} of them, another output is the largest.` : '';
  if (!rows) return `${edge.operation} (${form}).`;
  return `${edge.operation} (${form}). ${names.output(model, most)} changes ${largest.length > 1 ? 'most: ' : ''}by up to ${number(largest[most])}, `
    + `on average by ${number(mean[most])}, on ${count(rows)} rows (${from}).${flips}`;
}
