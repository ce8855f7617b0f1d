// Drift page: live traffic against the export's baseline, per node, relative to the no-drift threshold.

import { ranked } from '../charts/bars.js';
import { ended, histograms } from '../charts/histogram.js';
import { legend, over, spark, timeChart } from '../charts/series.js';
import { button, csv, download, el, empty, heading, labelled, panel, room, saver, select, showError, sized, tile } from '../dom.js';
import { count, number, seconds, share } from '../format.js';
import { lines } from '../nodes.js';
import { ofDrift, queries } from '../promql.js';
import { savers } from '../svg.js';

const [HOUR, KEPT] = [3600, 900]; // seconds, and points of a line
const SHOWN = 40; // rows of the table at first
const RANKED = 8; // bars of the ranking
const ALARM = 3; // drift ratio at which the alert KanserveDrift fires
const FEW = 50; // rows, below which the verdict says to wait
const LINES = ['one', 'two', 'three', 'four', 'five', 'six'];
const HEADS = ['Node', 'Layer', 'Drift ratio', 'Trend', 'PSI', 'Threshold', 'Out of grid (live)', 'Out of grid (baseline)', 'Mean', 'Std dev'];
const TREND = 3; // column
const ORDERS = [['ratio', 'by drift ratio'], ['outOfRange', 'by out-of-grid share'], ['place', 'by layer']];
const FIELDS = ['node', 'where', 'psi_ratio', 'psi', 'psi_threshold', 'out_of_range', 'baseline_out_of_range', 'mean', 'std', 'min', 'max', 'nonfinite'];

export async function show(root, ctx) {
  const view = new Drift(root, ctx);
  view.start();
  return () => view.leave();
}

class Drift {
  constructor(root, ctx) {
    Object.assign(this, { root, ctx, quit: new AbortController(), past: [], series: [], ratios: new Map(), chosen: '', all: false, rows: new Map() });
    this.sort = 'ratio';
    this.verdict = el('p', { class: 'verdict', role: 'status' }, 'Comparing traffic with the baseline …');
    this.facts = el('p', { class: 'quiet status' });
    this.tiles = el('div', { class: 'tiles' });
    this.panels = {};
    this.tools = {};
    this.parts = {};
    for (const [name, title, note] of [
      ['node', 'Distribution', '\u00a0'], ['ratio', 'Drift ratio', 'Largest of each layer, in the last hour'],
      ['ranking', 'Largest drift ratios', 'PSI divided by the no-drift threshold'], ['outside', 'Out of grid', 'Highest out-of-grid share of any node in the last hour'],
    ]) {
      this.tools[name] = el('span', { class: 'tools' });
      this.parts[name] = el('div', { class: `plot ${name}-view` });
      this.panels[name] = panel(title, { tools: this.tools[name], note }, this.parts[name]);
      this.panels[name].hidden = true;
    }
    this.trouble = el('p', { class: 'alarm', role: 'alert' });
    this.wanted = ctx.params.get('node') ?? '';
  }

  start() {
    const { root, ctx } = this;
    this.board = el('div', { class: 'board four' }, Object.values(this.panels));
    this.table = this.#tablePanel();
    this.table.hidden = true;
    root.append(
      heading(`Has ${possessive(ctx.model.model_name)} traffic drifted?`),
      this.trouble, this.verdict, this.facts, this.tiles,
      this.board, this.table,
      queries(ofDrift(ctx.name, ctx.model.model_version), ctx.announce));
    this.resized = sized(root, () => this.#draw(true));
    this.following = this.#follow();
  }

  leave() {
    this.resized();
    this.quit.abort();
  }

  async #follow() {
    const { ctx } = this;
    const signal = this.quit.signal;
    try {
      this.past = await past(ctx, signal);
      await ctx.api.follow(`${ctx.kan}/watch?source=live&interval=2`, (update) => this.#safely(update), {
        signal,
        onTrouble: (error) => {
          this.trouble.textContent = error ? `${error.message} The view shows earlier values and tries again.` : '';
        },
      });
    } catch (error) {
      if (signal.aborted) return;
      if (this.now) this.trouble.textContent = error.message;
      else showError(this.root, error);
    }
  }

  /** Reports an error of this page as such, and not as one of the server. */
  #safely(update) {
    try {
      this.#take(update);
    } catch (error) {
      console.error(error);
      this.trouble.textContent = `The view could not show the statistics: ${error.message}`;
    }
  }

  #take({ statistics, end_reason: why }) {
    const { ctx } = this;
    this.now = statistics;
    this.lines = lines(ctx.model, statistics);
    this.#begin();
    const at = Date.now() / 1000;
    const places = new Map();
    for (const line of this.lines) {
      if (line.ratio === null) continue;
      const known = this.ratios.get(line.key) ?? [];
      known.push([at, statistics.row_count ? line.ratio : NaN]);
      this.ratios.set(line.key, thinned(known, at, ([time]) => time));
      const place = places.get(line.place) ?? { ratio: NaN, outside: NaN };
      if (statistics.row_count && !(place.ratio > line.ratio)) place.ratio = line.ratio;
      if (statistics.row_count && !(place.outside > line.drift.outOfRange)) place.outside = line.drift.outOfRange;
      places.set(line.place, place);
    }
    this.series = thinned([...this.series, { at, places }], at, (each) => each.at);
    this.#draw(false);
    if (why) ctx.changed(`The view shows the last values: ${why}.`);
  }

  /** Puts the hour that the server has kept before the first update. */
  #begin() {
    const known = Map.groupBy(this.lines, (line) => line.layer);
    for (const { at, layers } of this.past) {
      const places = new Map();
      for (const { layer, ratio, outside } of layers) {
        const own = known.get(layer) ?? [];
        places.set(own[0]?.place, { ratio: ratio.reduce((most, each) => Math.max(most, each), 0), outside });
        for (const line of ratio.length === own.length ? own : []) { // of a wide layer, the server keeps the largest ratio only
          this.ratios.set(line.key, [...this.ratios.get(line.key) ?? [], [at, ratio[line.at]]]);
        }
      }
      this.series.push({ at, places });
    }
    this.past = [];
  }

  /** Draws everything. A chart under the pointer stays, unless it `must` be drawn. */
  #draw(must) {
    if (!this.now) return;
    const [kind, ...words] = verdict(this.now, this.lines, this.ctx.name);
    if (this.verdict.dataset.words !== words.join('')) { // screen readers read a verdict once
      this.verdict.className = `verdict ${kind}`;
      this.verdict.replaceChildren(...words);
      this.verdict.dataset.words = words.join('');
    }
    this.facts.textContent = known(this.now);
    this.board.classList.toggle('four', this.now.baseline_rows > 0);
    this.table.classList.toggle('bare', !this.now.baseline_rows);
    this.tiles.replaceChildren(...tiles(this.now, this.lines));
    if (this.wanted) {
      this.chosen = this.lines.find((line) => line.name === this.wanted || line.key === this.wanted)?.key ?? '';
      this.wanted = '';
    }
    const line = this.lines.find((each) => each.key === this.chosen) ?? this.#ordered()[0];
    const held = (name) => !must && this.parts[name].childElementCount > 0 && this.parts[name].matches(':hover');
    if (line && !held('node')) this.#node(line);
    if (!held('ranking')) this.#ranking();
    if (!held('ratio')) this.#ratio(line);
    if (!held('outside')) this.#outside();
    this.#table(line);
  }

  #ordered() {
    const value = { ratio: (line) => -(line.ratio ?? -1), place: () => 0, outOfRange: (line) => -(line.drift?.outOfRange ?? 0) }[this.sort];
    return this.lines.map((line, at) => [value(line), at, line]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, , line]) => line);
  }

  #place(name, node, tools) {
    this.panels[name].hidden = false;
    this.parts[name].replaceChildren(...node);
    this.tools[name].replaceChildren(...tools);
  }

  #node(line) {
    const { ctx, parts } = this;
    this.panels.node.hidden = false;
    this.panels.node.querySelector('h2').textContent = `Distribution of ${line.name}`;
    this.panels.node.querySelector('.head p').textContent = `${line.baselineCounts ? 'Live and baseline values' : 'Live values'}, ${line.place}`;
    const now = ended(line.bounds, line.counts);
    const before = line.baselineCounts ? ended(line.bounds, line.baselineCounts) : null;
    if (!now.total && !before) {
      this.#place('node', [empty('No live traffic yet.', 'Send requests. The distribution appears within two seconds.', `kanserve infer ${ctx.name} --input rows.csv`)], []);
      return;
    }
    const title = `Distribution of ${line.name}: ${now.total ? 'live traffic' : 'no live traffic'}${before ? ' and baseline' : ''}`;
    const picture = histograms({ now, before, title, label: line.name, width: room(parts.node), height: 228 });
    const entries = [{ name: 'live values', class: 'now', value: count(now.total) }, ...(before ? [{ name: 'baseline values', class: 'before', mark: 'area', value: count(before.total) }] : [])];
    const link = line.layer === 0 && el('p', { class: 'status' }, el('a', { href: ctx.link('explain') }, 'Explain a prediction'));
    this.#place('node', [picture, legend(entries), link].filter(Boolean), savers(picture, `${ctx.name}-${line.name}-distribution`));
  }

  /** Ranks the nodes by drift ratio, or without a baseline by out-of-grid share. */
  #ranking() {
    const drift = this.now.baseline_rows > 0;
    const value = drift ? (line) => line.ratio ?? NaN : outOfGrid;
    const entries = this.lines.map((line) => ({ name: fullName(line), value: value(line) })).filter((entry) => Number.isFinite(entry.value))
      .sort((a, b) => b.value - a.value).slice(0, RANKED);
    const { ranking } = this.panels;
    ranking.hidden = !drift && (!entries.length || !this.now.row_count);
    this.panels.node.classList.toggle('full', ranking.hidden);
    if (ranking.hidden) return;
    const title = drift ? 'Largest drift ratios' : 'Largest out-of-grid shares';
    ranking.querySelector('h2').textContent = title;
    ranking.querySelector('.head p').textContent = drift ? 'PSI divided by the no-drift threshold' : 'Share of live values outside the grid of a node';
    if (!this.now.row_count) {
      this.#place('ranking', [empty('No live traffic yet.', 'Send requests. The ranking appears within two seconds.')], []);
      return;
    }
    const options = drift ? { level: { value: 1, name: 'threshold' } } : { text: share };
    const picture = ranked({ entries, title, width: room(this.parts.ranking), ...options });
    this.#place('ranking', [picture], savers(picture, `${this.ctx.name}-ranking`));
  }

  /** The lines of a chart over time, one per layer. */
  #perPlace(name) {
    const places = [...new Set(this.series.flatMap((each) => [...each.places.keys()]))].slice(0, LINES.length - 1);
    return places.map((place, at) => ({
      name: place, class: LINES[at], values: this.series.map((each) => each.places.get(place)?.[name] ?? NaN),
    }));
  }

  #ratio(line) {
    const drawn = this.#perPlace('ratio');
    this.panels.ratio.hidden = !drawn.length;
    if (!drawn.length) return;
    const times = this.series.map((each) => each.at);
    if (line && line.ratio !== null) {
      const own = this.ratios.get(line.key) ?? [];
      const known = new Map(own);
      drawn.push({ name: line.name, class: LINES[5], values: times.map((at) => known.get(at) ?? NaN) });
    }
    this.#time('ratio', 'Drift ratio over time', times, drawn, { y: { names: (value) => number(value, 3), top: 1.5 }, level: { value: 1, name: 'no-drift threshold' } });
  }

  #outside() {
    const drawn = this.#perPlace('outside');
    this.panels.outside.hidden = !drawn.length;
    if (drawn.length) this.#time('outside', 'Out-of-grid share over time', this.series.map((each) => each.at), drawn, { y: { names: (value) => share(value), top: 0.01 } });
  }

  #time(name, title, times, drawn, options) {
    const made = timeChart(over, { times, lines: drawn, title, width: room(this.parts[name]), ...options });
    const file = `${this.ctx.name}-${name}`;
    const rows = () => times.map((at, place) => [new Date(at * 1000).toISOString(), ...drawn.map((each) => each.values[place])]);
    this.#place(name, [made.node], [...savers(made.picture, file),
      saver('CSV', () => download(`${file}.csv`, csv([['time', ...drawn.map((each) => each.name)], ...rows()]), 'text/csv'))]);
  }

  /** Fills the table. Its rows stay the same elements, so that the focus and a screen reader stay where they are. */
  #table(line) {
    const ordered = this.#ordered();
    const shown = this.all ? ordered : ordered.slice(0, SHOWN);
    const held = this.body.contains(document.activeElement) || this.body.matches(':hover');
    const order = held ? [...this.body.children].map((row) => shown.find((each) => each.key === row.dataset.key)).filter(Boolean) : shown;
    for (const each of shown) {
      if (!order.includes(each)) order.push(each);
      this.#row(each, each.key === line?.key);
    }
    const rows = order.map((each) => this.rows.get(each.key).node);
    if (!rows.every((row, at) => this.body.children[at] === row) || this.body.children.length !== rows.length) this.body.replaceChildren(...rows);
    this.more.hidden = ordered.length <= SHOWN;
    this.more.textContent = this.all ? `Show the first ${SHOWN}` : `Show all ${ordered.length}`;
    this.table.hidden = !ordered.length;
  }

  #tablePanel() {
    this.body = el('tbody');
    this.more = button('Show all', () => { this.all = !this.all; this.#draw(false); });
    const save = () => download(`${this.ctx.name}-nodes.csv`, csv([FIELDS,
      ...this.#ordered().map((line) => [line.name, line.place, line.ratio, line.drift?.psi, line.drift?.threshold, line.drift?.outOfRange,
        line.drift?.baselineOutOfRange, line.mean, line.std, line.min, line.max, line.nonfinite])]), 'text/csv');
    return panel('Nodes', { tools: saver('CSV', save), kind: 'nodes', note: 'PSI compares the latest rows with the baseline. A node with a drift ratio above 1 is marked. Select a node to see its distribution.' },
      el('p', { class: 'row' }, labelled('Order', select(ORDERS, this.sort, (value) => { this.sort = value; this.#draw(false); })), this.more),
      el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Nodes by drift ratio' },
        el('table', {}, el('thead', {}, el('tr', {}, HEADS.map((head, at) => el('th', { scope: 'col', class: numeric(at) && 'number' }, head)))), this.body)));
  }

  #row(line, chosen) {
    let row = this.rows.get(line.key);
    if (!row) {
      const cells = HEADS.map((_, at) => el('td', { class: numeric(at) && 'number' }));
      const choose = button(line.name, () => { this.chosen = line.key; this.#draw(true); this.ctx.announce(`The chart shows ${line.name}.`); }, { class: 'plain' });
      cells[0].append(choose);
      cells[1].textContent = line.place;
      row = { node: el('tr', { 'data-key': line.key }, cells), cells, choose };
      this.rows.set(line.key, row);
    }
    row.node.className = chosen ? 'chosen' : '';
    row.choose.setAttribute('aria-pressed', String(chosen));
    const live = this.now.row_count > 0;
    const { drift } = line;
    const outside = drift ? drift.outOfRange : outOfGrid(line);
    row.cells[2].classList.toggle('moved', line.moved);
    row.cells[TREND].replaceChildren(drift ? spark(this.ratios.get(line.key) ?? [], 1) : '');
    const texts = new Map([[2, drift ? (live ? number(line.ratio, 3) : 'no traffic') : 'no baseline'], [4, drift ? number(drift.psi, 3) : ''], [5, drift ? number(drift.threshold, 3) : ''],
      [6, live ? share(outside) : ''], [7, drift ? share(drift.baselineOutOfRange) : ''], [8, live ? number(line.mean, 4) : ''], [9, live ? number(line.std, 3) : '']]);
    for (const [at, text] of texts) row.cells[at].textContent = text;
  }
}

/** The points of the last hour. If there are too many, every second one of the older half goes. */
function thinned(points, now, time) {
  const late = points.filter((each) => time(each) > now - HOUR);
  return late.length <= KEPT ? late : late.filter((_, at) => at % 2 || at > KEPT / 2);
}

/** Resolves to the drift in each minute of the last hour, as the server has kept it: [{at, layers: [{layer, ratio, outside}]}]. */
async function past({ api, kan }, signal) {
  try {
    const { times, layers } = await api.get(`${kan}/statistics/history`, { signal });
    return times.map((at, place) => ({ at, layers: layers.map(({ layer, ratio, out_of_range: outside }) => ({ layer, ratio: ratio[place], outside: outside[place] })) }));
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    return []; // `follow` reports what is wrong
  }
}

function possessive(name) {
  return name.endsWith('s') ? `${name}\u2019` : `${name}\u2019s`;
}

function numeric(column) {
  return column > 1 && column !== TREND;
}

function fullName({ name, place }) {
  return place === 'inputs' || place === 'outputs' ? name : `${name}, ${place}`;
}

function outOfGrid({ zones, origin }) {
  const sum = zones ? zones[0] + zones[1] + zones[2] : 0;
  return sum && origin !== 'drawn' ? zones[2] / sum : NaN;
}

function tiles(now, all) {
  const moved = all.filter((line) => line.moved).length;
  const ratios = all.map((line) => line.ratio).filter((ratio) => ratio !== null);
  const outside = all.map((line) => line.drift?.outOfRange ?? outOfGrid(line)).filter(Number.isFinite);
  const live = now.row_count > 0;
  return [
    now.baseline_rows > 0 && tile(live ? `${moved} of ${all.length}` : 'unknown', 'nodes drifted', live ? (moved ? 'bad' : 'good') : ''),
    now.baseline_rows > 0 && tile(live ? number(Math.max(...ratios), 3) : 'unknown', 'largest drift ratio'),
    tile(live && outside.length ? share(Math.max(...outside)) : 'unknown', 'largest out-of-grid share'),
    tile(count(now.row_count), 'latest rows'),
    tile(now.baseline_rows ? count(now.baseline_rows) : 'none', 'baseline rows'),
  ].filter(Boolean);
}

/** The verdict: a kind, and words. */
function verdict(now, all, model) {
  if (!now.baseline_rows) {
    return ['unknown', 'Unknown: this version has no baseline. ',
      `Export it again with rows of your training data: kanserve export \u2026 --name ${model} --baseline train.csv`];
  }
  if (!now.row_count) return ['unknown', 'Unknown: no live traffic yet. Send requests, and the page updates within two seconds.'];
  const moved = all.filter((line) => line.moved).sort((a, b) => b.ratio - a.ratio);
  if (!moved.length) return ['good', `No. In the latest ${count(now.row_count)} rows, all inputs, hidden nodes and outputs are below the no-drift threshold.`];
  const inputs = all.filter((line) => line.place === 'inputs');
  const own = moved.filter((line) => line.place === 'inputs');
  const most = (list) => list.slice(0, 3).map((line) => `${line.name} (ratio ${number(line.ratio, 2)})`).join(', ') + (list.length > 3 ? ' and others' : '');
  const words = own.length ? `${own.length} of ${inputs.length} inputs ${own.length > 1 ? 'have' : 'has'} drifted: ${most(own)}.`
    : `No input has drifted, but hidden nodes or outputs have: ${most(moved)}.`;
  const strong = moved[0].ratio >= ALARM;
  const tail = now.row_count < FEW ? ' These are few rows. Wait for more.' : '';
  return [strong ? 'bad' : 'fair', strong ? `Yes. ${words}` : `Possibly. ${words} The alert KanserveDrift fires above a ratio of ${ALARM}.`, tail];
}

function known(now) {
  const compared = now.baseline_rows ? `, compared with ${count(now.baseline_rows)} rows of ${now.baseline}` : '';
  const served = now.rows_seen ? ` ${count(now.rows_seen)} rows served in ${seconds(now.seconds)}${now.processes > 1 ? ` by ${now.processes} processes` : ''}.` : '';
  return `Latest ${count(now.row_count)} rows${compared}.${served} Version ${now.model_version}.`;
}
