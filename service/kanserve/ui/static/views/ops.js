// Operations page: rates, times, batches, errors, versions, their history and their shadows.

import { pause } from '../api.js';
import { bars } from '../charts/bars.js';
import { over, stacked, timeChart } from '../charts/series.js';
import { csv, download, el, empty, facts, heading, labelled, panel, room, saver, select, showError, sized, tile } from '../dom.js';
import { count, moment, number, seconds, share } from '../format.js';
import { ofOperations, queries } from '../promql.js';
import { Doing, bone } from '../skeleton.js';
import { savers } from '../svg.js';
import { bareTable } from '../table.js';

const EVERY = 2000; // milliseconds
const SLOWEST = 20_000; // milliseconds between two attempts while the server does not respond
const KEPT = 900; // readings
const SHOWN = 60; // seconds that the average since the start covers in a chart
const LONG = 10; // seconds; a longer interval between two readings has one rate, drawn as a flat line
const LINES = ['one', 'two', 'three', 'four', 'five', 'six'];
const QUANTILES = ['p50', 'p95', 'p99'];
const PHASES = [['queue', 'queue', 'two'], ['input', 'input', 'four'], ['infer', 'execution', 'one'], ['output', 'output', 'three']];
const CHARTS = [
  ['rates', 'Request rate', 'Requests per second'], ['rows', 'Row rate', 'Rows per second'], ['failures', 'Failure rate', 'Failed requests per second'],
  ['times', 'Request duration', ''], ['phases', 'Latency breakdown', ''], ['batches', 'Batch size', ''],
];
const LISTS = [
  ['versions', 'Versions', ''], ['errors', 'Failed requests', 'By method and status code'],
  ['shadows', 'Shadow versions', 'Mirrored traffic, compared with the default version'], ['history', 'Events', 'Loads, switches and rejected versions, the newest first'],
];
const RATE = { names: (value) => `${number(value, 3)}/s` };
const DURATION = { names: (value) => seconds(value) };

export async function show(root, ctx) {
  const view = new Operations(root, ctx);
  await view.start();
  return () => view.leave();
}

class Operations {
  constructor(root, ctx) {
    Object.assign(this, { root, ctx, quit: new AbortController(), readings: [], since: 0, chosen: '' });
    this.trouble = el('p', { class: 'alarm', role: 'alert' });
    this.tiles = el('div', {}, bone('tiles'));
    this.span = el('span', {});
    this.picker = el('div', { class: 'row' });
    this.charts = {};
    for (const [name, title, note] of CHARTS) {
      const tools = el('span', { class: 'tools' });
      const body = el('div', { class: 'plot' }, bone('chart'));
      this.charts[name] = { body, tools, title, frame: panel(title, { tools, note: note || '\u00a0', kind: `ops-${name}` }, body) };
    }
    this.lists = {};
    for (const [name, title, note] of LISTS) {
      const tools = el('span', { class: 'tools' });
      const body = el('div', {}, name === 'versions' ? bone('table') : []);
      this.lists[name] = { body, tools, frame: panel(title, { tools, note, kind: `ops-${name}` }, body) };
    }
    this.server = el('div', {});
    this.doing = new Doing('The server counts requests, durations, batches and errors per version.');
  }

  async start() {
    const { versions, errors, shadows, history } = this.lists;
    this.empty = el('div', {});
    this.root.append(heading('Operations', this.span), this.trouble, this.doing.node, this.tiles, this.empty, this.picker,
      el('div', { class: 'board three' }, Object.values(this.charts).map((chart) => chart.frame)),
      versions.frame, el('div', { class: 'board' }, errors.frame, shadows.frame), history.frame, panel('Server', {}, this.server),
      queries(ofOperations(), this.ctx.announce));
    await this.#request();
    this.resized = sized(this.root, () => this.#draw(true));
    this.loop = this.#again();
  }

  leave() {
    this.resized?.();
    this.doing.end();
    this.quit.abort();
  }

  async #again() {
    const { signal } = this.quit;
    let wait = EVERY;
    while (!signal.aborted) {
      await pause(wait, signal);
      if (signal.aborted) return;
      try {
        await this.#request();
        wait = EVERY;
        this.trouble.textContent = '';
      } catch (error) {
        if (signal.aborted) return;
        if ([401, 403].includes(error.status)) {
          showError(this.root, error);
          return;
        }
        this.trouble.textContent = `${error.message} The view shows values of ${moment(this.now.time)} and tries again.`;
        wait = Math.min(2 * wait, SLOWEST);
      }
    }
  }

  async #request() {
    const latest = await this.ctx.api.post('v1/kan/operations', { since: this.since }, { signal: this.quit.signal });
    const before = this.now;
    this.now = latest;
    this.doing.end();
    if (this.readings.length && latest.server.started !== before?.server.started) this.readings = []; // the server restarted
    this.readings.push(...latest.readings);
    if (!this.readings.length) this.readings.push(sinceStart(latest));
    this.readings = this.readings.slice(-KEPT);
    this.since = latest.time;
    this.#tiles();
    this.#choices();
    this.#draw(false);
    this.#lists();
  }

  /** Shows current values: of the last minutes, and without a second reading of the time since the start. */
  #tiles() {
    const { versions, server, shadows, time } = this.now;
    const uptime = Math.max(0, time - server.started);
    const recent = this.now.recent_seconds;
    const [name, span] = recent ? ['recent', recent] : ['total', uptime];
    const sum = (value) => versions.reduce((total, version) => total + (version[name] ? value(version[name]) : 0), 0);
    const requests = sum((each) => each.requests);
    const failures = sum((each) => total(each.failures));
    const ready = versions.filter((version) => version.state === 'READY');
    this.span.textContent = recent ? `Averages of the last ${seconds(recent)}` : `Averages since the server started, ${seconds(uptime)} ago`;
    this.tiles.replaceChildren(el('div', { class: 'tiles' },
      tile(server.ready ? 'Ready' : 'Not ready', `${ready.length} of ${versions.length} versions`, server.ready ? 'good' : 'bad'),
      tile(RATE.names(requests / Math.max(span, 1e-9)), 'request rate'),
      tile(RATE.names(sum((each) => each.rows) / Math.max(span, 1e-9)), 'row rate'),
      tile(share(failures / Math.max(1, failures + requests)), 'failed requests', failures ? 'bad' : ''),
      tile(number(server.inflight ?? 0), 'requests in flight'),
      tile(`${count((server.memory_bytes ?? 0) / 2 ** 20)} MiB`, 'memory'),
      tile(seconds(uptime), 'uptime'),
      server.workers && tile(number(server.workers), 'workers'),
      shadows.some((shadow) => shadow.running) && tile(number(shadows.filter((shadow) => shadow.running).length), 'shadow versions')));
    const served = versions.some((version) => version.total.requests || total(version.total.failures));
    const model = ready[0]?.model ?? 'NAME';
    const first = !served && empty('No requests yet.', 'Send one. The charts show it within two seconds.', `kanserve infer ${model} --input rows.csv`);
    this.empty.replaceChildren(...(first ? [first] : []));
    this.empty.hidden = !first;
  }

  /** The versions, those with most recent requests first, and among them those with most requests. */
  #byRequests() {
    const recent = (version) => version.recent?.requests ?? version.total.requests;
    return [...this.now.versions].sort((a, b) => recent(b) - recent(a) || b.total.requests - a.total.requests);
  }

  #choices() {
    const keys = this.now.versions.filter((version) => version.total.requests || version.state === 'READY').map(keyOf);
    const busiest = this.#byRequests()[0];
    if (!keys.includes(this.chosen)) this.chosen = busiest ? keyOf(busiest) : '';
    const shown = JSON.stringify([keys, this.chosen]);
    if (this.picker.dataset.shown === shown || !keys.length) return;
    this.picker.dataset.shown = shown;
    this.picker.replaceChildren(labelled('Version', select(keys, this.chosen, (value) => { this.chosen = value; this.#draw(true); })),
      el('span', { class: 'quiet' }, 'for duration, breakdown and batch size'));
  }

  /** Draws the charts. A chart under the pointer stays, unless it `must` be drawn. */
  #draw(must) {
    if (!this.now) return;
    const shown = this.readings.flatMap((reading) => (reading.average || reading.to - reading.from > LONG ? [{ ...reading, to: reading.from }, reading] : [reading]));
    const times = shown.map((reading) => reading.to);
    const of = (key) => shown.map((reading) => reading.versions.find((version) => keyOf(version) === key));
    const values = (list, name, none) => list.map((version) => version?.[name] ?? none);
    const active = [...this.#byRequests().filter((version) => version.total.requests).map(keyOf), ...shown.flatMap((reading) => reading.versions.map(keyOf))];
    const busy = [...new Set(active)].slice(0, LINES.length).map((key) => [key, of(key)]);
    const perVersion = (name) => busy.map(([key, list], at) => ({ name: key, class: LINES[at], values: values(list, name, 0) }));
    const own = of(this.chosen);
    for (const name of ['times', 'phases', 'batches']) this.charts[name].frame.querySelector('.head p').textContent = this.chosen || '\u00a0';
    const time = (name, draw, lines, y) => { if (must || !held(this.charts[name].body)) this.#time(name, draw, times, lines, y); };
    time('rates', over, perVersion('requests_per_second'), RATE);
    time('rows', over, perVersion('rows_per_second'), RATE);
    time('failures', over, perVersion('failures_per_second'), { ...RATE, top: 0.1 });
    time('times', over, QUANTILES.map((name, at) => ({ name, class: LINES[at], values: values(own, name, NaN) })), DURATION);
    time('phases', stacked, PHASES.map(([key, name, kind]) => ({ name, class: kind, values: values(own, key, 0) })), DURATION);
    this.#batches();
  }

  #time(name, draw, times, lines, y) {
    const { body, tools, title } = this.charts[name];
    const made = timeChart(draw, { times, lines, title, width: room(body), y });
    const file = `operations-${name}`;
    body.replaceChildren(made.node);
    tools.replaceChildren(...savers(made.picture, file), saver('CSV', () => download(`${file}.csv`, csv([['time', ...lines.map((line) => line.name)],
      ...times.map((at, place) => [new Date(at * 1000).toISOString(), ...lines.map((line) => line.values[place])])]), 'text/csv')));
  }

  #batches() {
    const { body, tools, title } = this.charts.batches;
    const version = this.now.versions.find((each) => keyOf(each) === this.chosen);
    const span = version?.recent?.executions ? version.recent : version?.total;
    if (!span?.executions) {
      body.replaceChildren(empty('No executions yet.', 'Send a request to this version.'));
      tools.replaceChildren();
      return;
    }
    const last = span.batches.findLastIndex((batch) => batch.executions > 0);
    const entries = span.batches.slice(0, last + 1).map((batch, at) => ({
      name: sizes(span.batches[at - 1]?.up_to ?? 0, batch.up_to), value: batch.executions,
      title: `${count(batch.executions)} executions`, short: batch.executions ? count(batch.executions) : '',
    }));
    const picture = bars({ entries, title: `${title} of ${this.chosen}`, width: room(body), height: 200, label: 'rows per execution' });
    const average = `${count(span.executions)} executions of ${number(span.rows_per_execution, 3)} rows on average, ${span.seconds ? `in the last ${seconds(span.seconds)}` : 'since the start'}`;
    body.replaceChildren(picture, el('p', { class: 'quiet status' }, average));
    tools.replaceChildren(...savers(picture, 'operations-batches'));
  }

  #lists() {
    const { versions, calls, shadows, history, server } = this.now;
    this.#list('versions', versionColumns(versions), versions, `${versions.length} versions`, 'The repository has no models.');
    this.#list('errors', [
      { name: 'Method', value: (call) => call.method.replace(/^[\w.]+\/(\w+)$/, '$1') },
      { name: 'Code', value: (call) => call.code },
      { name: 'Recent', value: (call) => call.recent ?? 0, number: true },
      { name: 'Since start', value: (call) => call.count, text: (call) => count(call.count), number: true },
    ], calls.filter((call) => !call.good), 'Failed requests by method and code', 'No request has failed.');
    this.#list('shadows', [
      { name: 'Version', value: (shadow) => keyOf(shadow) },
      { name: 'Compared with', value: (shadow) => shadow.baseline_version },
      { name: 'State', value: (shadow) => (shadow.running ? `running, ${share(shadow.share)}` : 'ended') },
      { name: 'Rows', value: (shadow) => shadow.rows, text: (shadow) => count(shadow.rows), number: true },
      { name: 'Mismatches', value: (shadow) => shadow.rows_out_of_tolerance, text: (shadow) => el('span', { class: shadow.rows_out_of_tolerance && 'moved' }, count(shadow.rows_out_of_tolerance)), number: true },
      { name: 'Other class', value: (shadow) => shadow.rows_with_other_class ?? -1, text: (shadow) => (shadow.rows_with_other_class === null ? '-' : count(shadow.rows_with_other_class)), number: true },
      { name: 'Largest difference', value: (shadow) => shadow.largest_difference, text: (shadow) => number(shadow.largest_difference, 3), number: true },
      { name: 'Dropped', value: (shadow) => shadow.requests_dropped, number: true },
      { name: 'Failed', value: (shadow) => shadow.requests_failed, number: true },
    ], shadows, 'Mismatches are rows out of tolerance', 'No shadow version. Start one:', 'kanserve shadow NAME VERSION');
    this.#list('history', [
      { name: 'Time', value: (event) => new Date(event.time * 1000).toISOString(), text: (event) => moment(event.time) },
      { name: 'Version', value: (event) => keyOf(event) },
      { name: 'Event', value: (event) => event.what, text: (event) => el('span', { class: event.what === 'rejected' && 'moved' }, event.what) },
      { name: 'Details', value: (event) => event.text, wraps: true },
    ], history, 'Events', 'No event since the start.');
    this.server.replaceChildren(facts([
      ['Version', server.version], ['Runtime', server.runtime], ['Device', server.device], ['Started', moment(server.started)],
      ['Memory', `${count((server.memory_bytes ?? 0) / 2 ** 20)} MiB`], ['CPU time', seconds(server.cpu_seconds ?? 0)],
      ...(server.worker_ends ? [['Worker exits', count(server.worker_ends)]] : []),
    ], { across: true }));
  }

  /** Draws a table again if its rows changed and the focus is elsewhere. */
  #list(part, columns, rows, caption, none, command) {
    const { body, tools } = this.lists[part];
    const shown = JSON.stringify(rows.map((row) => columns.map((column) => column.value(row))));
    if (body.dataset.shown === shown || (body.dataset.shown && body.contains(document.activeElement))) return;
    body.dataset.shown = shown;
    const made = rows.length ? bareTable(columns, rows, { caption, file: `operations-${part}` }) : { node: empty(none, '', command), save: '' };
    body.replaceChildren(made.node);
    tools.replaceChildren(made.save);
  }
}

/** A reading over the whole life of the server, until there are two readings for a rate. */
function sinceStart({ server, time, versions }) {
  const span = Math.max(time - server.started, 1e-9);
  const active = versions.filter((version) => version.total.requests || total(version.total.failures));
  return {
    average: true, from: Math.max(server.started, time - SHOWN), to: time,
    versions: active.map(({ model, version, total: all }) => ({
      ...all, model, version, requests_per_second: all.requests / span, rows_per_second: all.rows / span, failures_per_second: total(all.failures) / span,
    })),
  };
}

function versionColumns(versions) {
  const columns = [
    { name: 'Model', value: (each) => each.model, text: (each) => (each.has_card ? el('a', { href: `ui/${encodeURIComponent(each.model)}/card?version=${each.version}` }, each.model) : each.model) },
    { name: 'Version', value: (each) => Number(each.version), text: (each) => `v${each.version}` },
    { name: 'State', value: (each) => each.state.toLowerCase(), text: (each) => el('span', { class: `badge ${each.state === 'READY' ? 'good' : 'bad'}` }, each.state.toLowerCase()) },
    { name: 'Default', value: (each) => (each.default ? (each.chosen ? 'default, set by an operator' : 'default') : '') },
    { name: 'Requests', value: (each) => each.total.requests, text: (each) => count(each.total.requests), number: true },
    { name: 'Failed', value: (each) => total(each.total.failures), text: (each) => count(total(each.total.failures)), number: true },
    { name: 'p99', value: (each) => each.total.p99 ?? NaN, text: (each) => (each.total.p99 === null ? '' : seconds(each.total.p99)), number: true },
    { name: 'Queued', value: (each) => each.pending, number: true },
    { name: 'Loads', value: (each) => each.loads, number: true },
    { name: 'Load time', value: (each) => each.load_seconds, text: (each) => (each.loads ? seconds(each.load_seconds) : ''), number: true },
    { name: 'Graph digest', value: (each) => each.digest.slice(0, 12), text: (each) => el('code', {}, each.digest.slice(0, 12)) },
  ];
  if (versions.some((each) => each.reason)) columns.push({ name: 'Reason', value: (each) => each.reason, wraps: true });
  return columns;
}

function held(node) {
  return node.matches(':hover') && node.querySelector('.chart') !== null;
}

function sizes(below, upTo) {
  if (upTo === null) return `> ${below}`;
  return upTo > below + 1 ? `${below + 1}\u2013${upTo}` : String(upTo);
}

function keyOf({ model, version }) {
  return `${model} ${version}`;
}

function total(failures) {
  return Object.values(failures).reduce((sum, each) => sum + each, 0);
}
