// Operations page: rates, times, batches, errors, versions, their history and their shadows.

import { bars } from '../charts/bars.js';
import { legend, over, stacked } from '../charts/series.js';
import { button, csv, download, el, facts, select, table, tell } from '../dom.js';
import { count, moment, number, seconds, share } from '../format.js';
import { ofOperations, queries } from '../promql.js';
import { Doing, bone } from '../skeleton.js';
import { savers } from '../svg.js';

const EVERY = 2000; // milliseconds
const SLOWEST = 20_000; // between two tries where nobody answers
const KEPT = 900; // readings
const LONG = 10; // seconds between two
const LINES = ['one', 'two', 'three', 'four', 'five', 'six'];
const PHASES = [['queue', 'waiting', 'two'], ['input', 'inputs', 'four'], ['infer', 'the graph', 'one'], ['output', 'outputs', 'three']];
// The boxes that each part shows until the first answer arrives.
const WAITING = { tiles: ['tiles'], rates: ['line', 'chart'], times: ['line', 'chart'], phases: ['line', 'chart'], batches: ['line', 'chart'], versions: ['line', 'table'] };
const RATES = { names: (value) => number(value, 3) };

export async function show(root, ctx) {
  const view = new Operations(root, ctx);
  await view.start();
  return () => view.leave();
}

class Operations {
  constructor(root, ctx) {
    Object.assign(this, { root, ctx, quit: new AbortController(), readings: [], since: 0, chosen: '', tables: new Map() });
    this.trouble = el('p', { class: 'alarm', role: 'alert' });
    this.parts = Object.fromEntries(['tiles', 'rates', 'times', 'phases', 'batches', 'versions', 'errors', 'shadows', 'history', 'server']
      .map((name) => [name, el('section', { class: `ops-${name}` })]));
    this.picker = el('div', { class: 'row' });
    this.doing = new Doing('The server counts: requests, times, batches and errors of every version since its start.');
    for (const [part, kinds] of Object.entries(WAITING)) this.parts[part].append(...kinds.map(bone));
    this.resized = () => this.#charts();
  }

  async start() {
    const { parts } = this;
    this.root.append(el('h1', {}, 'Operations'), this.trouble, this.doing.node, parts.tiles, this.picker,
      el('div', { class: 'pair' }, parts.rates, parts.times, parts.phases, parts.batches),
      parts.versions, parts.errors, parts.shadows, parts.history,
      queries(ofOperations(), this.ctx.announce), parts.server);
    addEventListener('resize', this.resized);
    await this.#ask();
    this.loop = this.#again();
  }

  leave() {
    removeEventListener('resize', this.resized);
    this.doing.end();
    this.quit.abort();
  }

  async #again() {
    const { signal } = this.quit;
    let wait = EVERY;
    while (!signal.aborted) {
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, wait);
        signal.addEventListener('abort', () => { clearTimeout(timer); resolve(); }, { once: true });
      });
      if (signal.aborted) return;
      try {
        await this.#ask();
        wait = EVERY;
        this.trouble.textContent = '';
      } catch (error) {
        if (signal.aborted) return;
        if ([401, 403].includes(error.status)) {
          tell(this.root, error);
          return;
        }
        this.trouble.textContent = `${error.message} What is shown is of ${moment(this.now.time)}; the page asks again.`;
        wait = Math.min(2 * wait, SLOWEST);
      }
    }
  }

  async #ask() {
    const found = await this.ctx.api.post('v1/kan/operations', { since: this.since }, { signal: this.quit.signal });
    const before = this.now;
    this.now = found;
    this.doing.end();
    if (this.readings.length && found.server.started !== before?.server.started) this.readings = []; // another process
    this.readings = [...this.readings, ...found.readings].slice(-KEPT);
    this.since = found.time;
    this.#tiles();
    this.#choices();
    this.#charts();
    this.#lists();
  }

  #tiles() {
    const { versions, server, shadows } = this.now;
    const ready = versions.filter((one) => one.state === 'READY');
    const recent = (name) => versions.reduce((sum, one) => sum + (one.recent?.[name] ?? 0), 0);
    const tile = (value, text) => el('div', { class: 'tile' }, el('strong', {}, value), el('span', {}, text));
    const span = this.now.recent_seconds;
    this.parts.tiles.replaceChildren(el('div', { class: 'tiles' },
      tile(server.ready ? 'ready' : 'not ready', `${ready.length} of ${versions.length} versions serve`),
      tile(span ? `${number(recent('requests') / span, 3)}/s` : 'unknown', 'requests'),
      tile(span ? `${number(recent('rows') / span, 3)}/s` : 'unknown', 'rows'),
      tile(span ? share(failed(versions) / Math.max(1, failed(versions) + recent('requests'))) : 'unknown', 'of requests failed'),
      tile(number(server.inflight ?? 0), 'calls now'),
      tile(seconds(Math.max(0, this.now.time - server.started)), 'up'),
      server.workers && tile(number(server.workers), 'workers'),
      shadows.some((one) => one.running) && tile(number(shadows.filter((one) => one.running).length), 'shadows')),
    el('p', { class: 'quiet' }, span ? `Over the last ${seconds(span)}.` : 'Rates come with the second reading.'));
  }

  #choices() {
    const keys = this.now.versions.filter((one) => one.total.requests || one.state === 'READY').map(keyOf);
    const busiest = [...this.now.versions].sort((a, b) => (b.recent?.requests ?? b.total.requests) - (a.recent?.requests ?? a.total.requests))[0];
    if (!keys.includes(this.chosen)) this.chosen = busiest ? keyOf(busiest) : '';
    const said = JSON.stringify([keys, this.chosen]);
    if (this.picker.dataset.said === said || !keys.length) return;
    this.picker.dataset.said = said;
    this.picker.replaceChildren(el('label', {}, 'Times of ', select(keys, this.chosen, (value) => { this.chosen = value; this.#charts(); })));
  }

  #charts() {
    if (!this.now) return;
    const shown = this.readings.flatMap((one) => (one.to - one.from > LONG ? [{ ...one, to: one.from }, one] : [one]));
    const times = shown.map((one) => one.to); // a long time has one rate: a line that is flat
    const of = (key) => shown.map((one) => one.versions.find((each) => keyOf(each) === key));
    const own = of(this.chosen);
    const active = [...new Set(shown.flatMap((one) => one.versions.map(keyOf)))];
    const busy = active.map((key) => [key, of(key)]).slice(0, LINES.length - 1);
    const values = (list, name, none) => list.map((one) => one?.[name] ?? none);
    this.#lines('rates', 'Requests a second', times, [
      ...busy.map(([key, list], at) => ({ name: key, class: LINES[at], values: values(list, 'requests_per_second', 0) })),
      { name: 'failures', class: LINES[5], values: shown.map((one) => one.versions.reduce((sum, each) => sum + each.failures_per_second, 0)) },
    ], { label: 'a second', ...RATES });
    this.#lines('times', `Time of a request: ${this.chosen}`, times, ['p50', 'p95', 'p99'].map((name, at) => (
      { name, class: LINES[at], values: values(own, name, NaN) })), { names: (value) => seconds(value) });
    this.#phases(times, own, values);
    this.#batches();
  }

  #lines(part, title, times, lines, y) {
    const node = this.parts[part];
    if (!times.length) {
      node.replaceChildren(el('h2', {}, title), el('p', { class: 'quiet' }, 'Comes with the second reading, in a moment.'));
      return;
    }
    const picture = over({ times, lines, title, width: room(node), y });
    node.replaceChildren(el('h2', {}, title), legend(lines), picture,
      el('p', { class: 'row' }, savers(picture, `operations-${part}`), saver(`operations-${part}`, times, lines)));
  }

  #phases(times, own, values) {
    const node = this.parts.phases;
    const layers = PHASES.map(([key, name, kind]) => ({ name, class: kind, values: values(own, key, 0) }));
    const title = `Where the time of a request goes: ${this.chosen}`;
    if (!times.length) {
      node.replaceChildren();
      return;
    }
    const picture = stacked({ times, layers, title, width: room(node), y: { names: (value) => seconds(value) } });
    node.replaceChildren(el('h2', {}, title), legend(layers.map((one) => ({ ...one, mark: 'area' }))), picture,
      el('p', { class: 'row' }, savers(picture, 'operations-phases'), saver('operations-phases', times, layers)));
  }

  #batches() {
    const node = this.parts.batches;
    const one = this.now.versions.find((each) => keyOf(each) === this.chosen);
    const span = one?.recent?.executions ? one.recent : one?.total;
    if (!span?.executions) {
      node.replaceChildren(el('h2', {}, 'Rows of a run'), el('p', { class: 'quiet' }, 'Nothing has run yet.'));
      return;
    }
    const last = span.batches.findLastIndex((each) => each.executions > 0);
    const entries = span.batches.slice(0, last + 1).map((each, at) => ({
      name: rowsOf(span.batches[at - 1]?.up_to ?? 0, each.up_to),
      value: each.executions, said: `${count(each.executions)} executions`, short: each.executions ? count(each.executions) : '',
    }));
    const title = `Rows of a run: ${this.chosen}`;
    const picture = bars({ entries, title, width: room(node), height: 220, label: 'rows that ran together' });
    node.replaceChildren(el('h2', {}, title),
      el('p', { class: 'quiet' }, `${count(span.executions)} executions of ${number(span.rows_per_execution, 3)} rows, ${span.seconds ? `in the last ${seconds(span.seconds)}` : 'since the start'}.`),
      picture, el('p', { class: 'row' }, savers(picture, 'operations-batches')));
  }

  #lists() {
    const { versions, calls, shadows, history, server } = this.now;
    this.#list('versions', 'Versions', [
      { name: 'Model', value: (one) => one.model, text: (one) => (one.has_card ? el('a', { href: `ui/${encodeURIComponent(one.model)}/card?version=${one.version}` }, one.model) : one.model) },
      { name: 'Version', value: (one) => Number(one.version), number: true },
      { name: 'State', value: (one) => one.state.toLowerCase() },
      { name: 'Answers', value: (one) => (one.default ? (one.chosen ? 'by default, chosen' : 'by default') : '') },
      { name: 'Requests', value: (one) => one.total.requests, text: (one) => count(one.total.requests), number: true },
      { name: 'Failed', value: (one) => sum(one.total.failures), text: (one) => count(sum(one.total.failures)), number: true },
      { name: 'p99', value: (one) => one.total.p99 ?? NaN, text: (one) => (one.total.p99 === null ? '' : seconds(one.total.p99)), number: true },
      { name: 'Waiting', value: (one) => one.pending, number: true },
      { name: 'Loaded', value: (one) => one.loads, text: (one) => (one.loads > 1 ? `${one.loads} times` : one.loads ? `in ${seconds(one.load_seconds)}` : ''), number: true },
      { name: 'Graph', value: (one) => one.digest.slice(0, 12) },
      { name: 'Why', value: (one) => one.reason },
    ], versions, `${versions.length} versions`, 'The repository has no models.');
    this.#list('errors', 'Errors by code', [
      { name: 'Call', value: (one) => one.method.replace(/^.*\./, '') },
      { name: 'Code', value: (one) => one.code },
      { name: 'Recently', value: (one) => one.recent ?? 0, number: true },
      { name: 'Since the start', value: (one) => one.count, text: (one) => count(one.count), number: true },
    ], calls.filter((one) => !one.good), 'Calls that did not end well', 'No call has failed.');
    this.#list('shadows', 'Versions on a copy of the traffic', [
      { name: 'Version', value: (one) => `${one.model} ${one.version}` },
      { name: 'Beside', value: (one) => one.baseline_version },
      { name: 'State', value: (one) => (one.running ? `runs, ${share(one.share)}` : 'ended') },
      { name: 'Rows', value: (one) => one.rows, text: (one) => count(one.rows), number: true },
      { name: 'Beyond', value: (one) => one.rows_out_of_tolerance, text: (one) => el('span', { class: one.rows_out_of_tolerance && 'moved' }, count(one.rows_out_of_tolerance)), number: true },
      { name: 'Largest difference', value: (one) => one.largest_difference, text: (one) => number(one.largest_difference, 3), number: true },
      { name: 'Dropped, failed', value: (one) => `${one.requests_dropped}, ${one.requests_failed}` },
    ], shadows, 'Differences by more than the tolerance are beyond', 'None is tried; `kanserve shadow NAME VERSION` tries one.');
    this.#list('history', 'What happened', [
      { name: 'When', value: (one) => new Date(one.time * 1000).toISOString(), text: (one) => moment(one.time) },
      { name: 'Model', value: (one) => one.model },
      { name: 'Version', value: (one) => Number(one.version), number: true },
      { name: 'What', value: (one) => one.what, text: (one) => el('span', { class: one.what === 'refused' && 'moved' }, one.what) },
      { name: 'More', value: (one) => one.text },
    ], history, 'Loads, switches and what was refused, the newest first', 'Nothing has happened since the start.');
    this.parts.server.replaceChildren(el('h2', {}, 'The server'), facts([
      ['Version', server.version], ['Runtime', server.runtime], ['Device', server.device], ['Started', moment(server.started)],
      ['Memory', `${count((server.memory_bytes ?? 0) / 2 ** 20)} MiB`], ['CPU time', seconds(server.cpu_seconds ?? 0)],
      ...(server.worker_ends ? [['Workers that ended', count(server.worker_ends)]] : []),
    ]));
  }

  /** A table that is made anew where its rows have changed, and nobody is in it. */
  #list(part, title, columns, rows, caption, none) {
    const node = this.parts[part];
    const said = JSON.stringify(rows.map((row) => columns.map((one) => one.value(row))));
    if (node.dataset.said === said || (node.dataset.said && node.contains(document.activeElement))) return;
    node.dataset.said = said;
    node.replaceChildren(el('h2', {}, title), rows.length ? table(columns, rows, { caption, file: `operations-${part}` }) : el('p', { class: 'quiet' }, none));
  }
}

function rowsOf(below, upTo) {
  if (upTo === null) return `> ${below}`;
  return upTo > below + 1 ? `${below + 1}\u2013${upTo}` : String(upTo);
}

function keyOf({ model, version }) {
  return `${model} ${version}`;
}

function sum(failures) {
  return Object.values(failures).reduce((total, one) => total + one, 0);
}

function failed(versions) {
  return versions.reduce((total, one) => total + (one.recent ? sum(one.recent.failures) : 0), 0);
}

function room(node) {
  return Math.max(300, Math.min(760, node.clientWidth || 600));
}

function saver(file, times, lines) {
  return button('Save as CSV', () => download(`${file}.csv`, csv([['time', ...lines.map((one) => one.name)],
    ...times.map((at, place) => [new Date(at * 1000).toISOString(), ...lines.map((one) => one.values[place])])]), 'text/csv'));
}
