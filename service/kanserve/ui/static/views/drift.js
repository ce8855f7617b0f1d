// Drift page: current traffic against the export's baseline, per node, relative to the no-drift threshold.

import { ended, histograms } from '../charts/histogram.js';
import { legend, over, spark } from '../charts/series.js';
import { button, csv, download, el, select, tell } from '../dom.js';
import { count, number, seconds, share } from '../format.js';
import { lines } from '../nodes.js';
import { ofDrift, queries } from '../promql.js';
import { savers } from '../svg.js';

const KEPT = 900; // updates, of two seconds: half an hour
const SHOWN = 40; // lines of the table at first
const LINES = ['one', 'two', 'three', 'four', 'five', 'six'];

export async function show(root, ctx) {
  const view = new Drift(root, ctx);
  view.start();
  return () => view.leave();
}

class Drift {
  constructor(root, ctx) {
    Object.assign(this, { root, ctx, quit: new AbortController(), series: [], ratios: new Map(), chosen: '', all: false, rows: new Map() });
    this.sort = 'ratio';
    const part = (kind, attributes = {}) => el('div', { class: kind, ...attributes });
    this.parts = { verdict: el('p', { class: 'verdict', role: 'status' }, 'Waiting for the first look at the traffic \u2026'),
      facts: el('p', { class: 'quiet' }), node: part('node-view'), time: part('time'), table: part('table') };
    this.trouble = el('p', { class: 'alarm', role: 'alert' });
    this.resized = () => this.#draw();
    this.wanted = ctx.params.get('node') ?? '';
  }

  start() {
    const { root, ctx, parts } = this;
    root.append(
      el('h1', {}, `Does the traffic of ${ctx.model.model_name} still look like its reference?`),
      this.trouble, parts.verdict, parts.facts,
      el('div', { class: 'pair' }, parts.node, parts.time), parts.table,
      queries(ofDrift(ctx.name, ctx.model.model_version), ctx.announce));
    addEventListener('resize', this.resized);
    this.following = this.#follow();
  }

  leave() {
    removeEventListener('resize', this.resized);
    this.quit.abort();
  }

  async #follow() {
    const { ctx } = this;
    try {
      await ctx.api.follow(`${ctx.kan}/watch?source=live&interval=2`, (update) => this.#safely(update), {
        signal: this.quit.signal,
        onTrouble: (error) => {
          this.trouble.textContent = error ? `${error.message} What is shown is what was known before; the page asks again.` : '';
        },
      });
    } catch (error) {
      if (this.quit.signal.aborted) return;
      if (this.now) this.trouble.textContent = error.message;
      else tell(this.root, error);
    }
  }

  /** A fault of this page is told as one, and not as the server's. */
  #safely(update) {
    try {
      this.#take(update);
    } catch (error) {
      console.error(error);
      this.trouble.textContent = `This page could not show what the server told: ${error.message}`;
    }
  }

  #take({ statistics, end_reason: why }) {
    const { ctx } = this;
    this.now = statistics;
    this.lines = lines(ctx.model, statistics);
    const at = Date.now() / 1000;
    const parts = new Map();
    for (const line of this.lines) {
      if (line.ratio === null) continue;
      const known = this.ratios.get(line.key) ?? [];
      known.push(statistics.row_count ? line.ratio : NaN);
      this.ratios.set(line.key, known.slice(-KEPT));
      const own = parts.get(line.place) ?? { ratio: NaN, outOfRange: [], nodes: 0 };
      if (statistics.row_count && !(own.ratio > line.ratio)) own.ratio = line.ratio;
      own.outOfRange.push(line.drift.outOfRange);
      parts.set(line.place, own);
    }
    this.series = [...this.series, { at, parts }].slice(-KEPT);
    this.#draw();
    if (why) ctx.changed(`These were the last numbers: ${why}.`);
  }

  #draw() {
    if (!this.now) return;
    const { parts, ctx } = this;
    const [kind, ...words] = verdict(this.now, this.lines, ctx.name);
    if (parts.verdict.dataset.said !== words.join('')) { // said once to screen readers
      parts.verdict.className = `verdict ${kind}`;
      parts.verdict.replaceChildren(...words);
      parts.verdict.dataset.said = words.join('');
    }
    parts.facts.textContent = known(this.now);
    const best = this.#ordered()[0];
    if (this.wanted && this.lines.some((line) => line.name === this.wanted || line.key === this.wanted)) {
      this.chosen = this.lines.find((line) => line.name === this.wanted || line.key === this.wanted).key;
      this.wanted = '';
    }
    const line = this.lines.find((one) => one.key === this.chosen) ?? best;
    if (line) this.#node(line);
    this.#time(line);
    this.#table(line);
  }

  #ordered() {
    const value = { ratio: (line) => -(line.ratio ?? -1), place: () => 0, outOfRange: (line) => -(line.drift?.outOfRange ?? 0) }[this.sort];
    return this.lines.map((line, at) => [value(line), at, line]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, , line]) => line);
  }

  #node(line) {
    const { parts, ctx } = this;
    const width = room(parts.node);
    const now = ended(line.bounds, line.counts);
    const before = line.baselineCounts ? ended(line.bounds, line.baselineCounts) : null;
    const title = `${line.name}: ${now.total ? 'now' : 'nothing yet'}${before ? ', beside the reference' : ''}`;
    if (!now.total && !before) {
      parts.node.replaceChildren(el('h2', {}, line.name, el('span', { class: 'quiet' }, ` ${line.place}`)),
        el('p', { class: 'quiet' }, 'No row has come yet: there is nothing to draw.'));
      return;
    }
    const picture = histograms({ now, before, title, label: line.name, width });
    parts.node.replaceChildren(
      el('h2', {}, line.name, el('span', { class: 'quiet' }, ` ${line.place}`)),
      legend([{ name: `now (${count(now.total)} values)`, class: 'now' }, ...(before ? [{ name: `then: ${ctx.model.model_name}'s reference (${count(before.total)})`, class: 'before', mark: 'area' }] : [])]),
      picture, el('p', { class: 'row' }, savers(picture, `${ctx.name}-${line.name}-now-and-then`),
        line.layer === 0 && el('a', { href: ctx.link('explain') }, 'Explain a row')));
  }

  #time(line) {
    const { parts, series, ctx } = this;
    const places = [...new Set(series.flatMap((one) => [...one.parts.keys()]))];
    if (!places.length) {
      parts.time.replaceChildren();
      return;
    }
    const times = series.map((one) => one.at);
    const drawn = places.slice(0, LINES.length - 1).map((name, at) => ({
      name: `worst of ${name}`, class: LINES[at], values: series.map((one) => one.parts.get(name)?.ratio ?? NaN),
    }));
    if (line?.ratio !== null && line) {
      const own = this.ratios.get(line.key) ?? [];
      drawn.push({ name: line.name, class: LINES[5], values: [...Array(Math.max(0, times.length - own.length)).fill(NaN), ...own] });
    }
    const picture = over({ times, lines: drawn, title: 'Drift over the time that this page is open', width: room(parts.time), height: 260,
      y: { label: 'times what chance gives', top: 1.5 }, level: { value: 1, name: 'chance, 99 of 100' } });
    parts.time.replaceChildren(el('h2', {}, 'Since this page is open'), legend(drawn), picture,
      el('p', { class: 'row' }, savers(picture, `${ctx.name}-drift`), button('Save as CSV', () => this.#save(times, drawn))));
  }

  #save(times, drawn) {
    const rows = times.map((at, place) => [new Date(at * 1000).toISOString(), ...drawn.map((one) => one.values[place])]);
    download(`${this.ctx.name}-drift.csv`, csv([['time', ...drawn.map((one) => one.name)], ...rows]), 'text/csv');
  }

  /** Lines stay the same elements, so that the focus and a screen reader stay where they are. */
  #table(line) {
    const { parts } = this;
    if (!this.body) this.#head();
    const ordered = this.#ordered();
    const shown = this.all ? ordered : ordered.slice(0, SHOWN);
    const held = this.body.contains(document.activeElement) || this.body.matches(':hover');
    const order = held ? [...this.body.children].map((row) => shown.find((one) => one.key === row.dataset.key)).filter(Boolean) : shown;
    for (const one of shown) {
      if (!order.includes(one)) order.push(one);
      this.#row(one, one.key === line?.key);
    }
    const rows = order.map((one) => this.rows.get(one.key).node);
    if (!rows.every((row, at) => this.body.children[at] === row) || this.body.children.length !== rows.length) this.body.replaceChildren(...rows);
    this.more.hidden = ordered.length <= SHOWN;
    this.more.textContent = this.all ? `Show the first ${SHOWN}` : `Show all ${ordered.length}`;
    parts.table.hidden = !ordered.length;
  }

  #head() {
    this.body = el('tbody');
    this.more = button('Show all', () => { this.all = !this.all; this.#draw(); });
    const heads = ['Node', 'Where', 'Times chance', 'Course', 'PSI', 'Chance', 'Outside now', 'then', 'Mean now', 'Deviation'];
    const order = [['ratio', 'by drift'], ['outOfRange', 'by share out of range'], ['place', 'in their order']];
    this.parts.table.append(
      el('div', { class: 'row' }, el('h2', {}, 'Nodes'), el('label', {}, 'Sorted ', select(order, this.sort, (value) => { this.sort = value; this.#draw(); }))),
      el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Nodes by drift' },
        el('table', {}, el('caption', {}, 'PSI is the population stability index of the latest rows against the reference; beyond 1 times chance a node has moved.'),
          el('thead', {}, el('tr', {}, heads.map((one, at) => el('th', { scope: 'col', class: at > 1 && at !== 3 && 'number' }, one)))), this.body)),
      el('p', { class: 'row' }, this.more, button('Save as CSV', () => download(`${this.ctx.name}-nodes.csv`, csv([
        ['node', 'where', 'psi_ratio', 'psi', 'psi_threshold', 'out_of_range', 'baseline_out_of_range', 'mean', 'std', 'min', 'max', 'nonfinite'],
        ...this.#ordered().map((one) => [one.name, one.place, one.ratio, one.drift?.psi, one.drift?.threshold, one.drift?.outOfRange, one.drift?.baselineOutOfRange,
          one.mean, one.std, one.min, one.max, one.nonfinite])]), 'text/csv'))));
  }

  #row(line, chosen) {
    let row = this.rows.get(line.key);
    if (!row) {
      const cells = Array.from({ length: 10 }, (_, at) => el('td', { class: at > 1 && at !== 3 && 'number' }));
      const choose = button(line.name, () => { this.chosen = line.key; this.#draw(); this.ctx.announce(`${line.name} is shown.`); }, { class: 'plain' });
      cells[0].append(choose);
      cells[1].textContent = line.place;
      row = { node: el('tr', { 'data-key': line.key }, cells), cells, choose };
      this.rows.set(line.key, row);
    }
    row.node.className = chosen ? 'chosen' : '';
    row.choose.setAttribute('aria-pressed', String(chosen));
    const { cells } = row;
    const drift = line.drift;
    const told = this.now.row_count ? line.ratio : NaN;
    cells[2].textContent = drift ? (this.now.row_count ? number(told, 3) : 'no rows yet') : 'no reference';
    cells[2].classList.toggle('moved', line.moved);
    cells[3].replaceChildren(drift ? spark(this.ratios.get(line.key) ?? [], 1) : '');
    const outside = drift ? [drift.outOfRange, drift.baselineOutOfRange] : [beyond(line), NaN];
    [drift?.psi, drift?.threshold].forEach((value, at) => { cells[4 + at].textContent = drift ? number(value, 3) : ''; });
    cells[6].textContent = this.now.row_count ? share(outside[0]) : '';
    cells[7].textContent = drift ? share(outside[1]) : '';
    cells[8].textContent = this.now.row_count ? number(line.mean, 4) : '';
    cells[9].textContent = this.now.row_count ? number(line.std, 3) : '';
  }
}

function beyond({ zones, origin }) {
  const sum = zones ? zones[0] + zones[1] + zones[2] : 0;
  return sum && origin !== 'drawn' ? zones[2] / sum : NaN;
}

function room(node) {
  return Math.max(300, Math.min(760, node.clientWidth || 600));
}

/** What a person should know at once: a kind, and words. */
function verdict(now, all, model) {
  if (!now.baseline_rows) {
    return ['unknown', 'There is nothing to compare with: the export of this version was given no rows. ',
      `\`kanserve export \u2026 --name ${model} --baseline train.csv\` keeps what its numbers were. What they are now is below.`];
  }
  if (!now.row_count) return ['unknown', 'No row of the traffic has been looked into yet.'];
  const moved = all.filter((line) => line.moved).sort((a, b) => b.ratio - a.ratio);
  const inputs = all.filter((line) => line.place === 'inputs');
  const own = moved.filter((line) => line.place === 'inputs');
  const most = (list) => list.slice(0, 3).map((line) => `${line.name} (${number(line.ratio, 2)} times chance)`).join(', ') + (list.length > 3 ? ' and others' : '');
  if (!moved.length) return ['good', `Yes. In the latest ${count(now.row_count)} rows no input, no node inside and no answer has moved by more than chance would move it.`];
  const words = own.length ? `${own.length} of ${inputs.length} inputs ${own.length > 1 ? 'have' : 'has'} moved: ${most(own)}` : `Inputs look as they did, but inside or in the answers something has moved: ${most(moved)}`;
  const strong = moved[0].ratio >= 3;
  const tail = now.row_count < 50 ? ' These are few rows; wait for more.' : '';
  return [strong ? 'bad' : 'fair', strong ? `No. ${words}.` : `Perhaps not. ${words}; an alarm begins at 3 times chance.`, tail];
}

function known(now) {
  const told = [`The latest ${count(now.row_count)} rows`];
  if (now.baseline_rows) told.push(`against ${count(now.baseline_rows)} rows of ${now.baseline}`);
  if (now.rows_seen) told.push(`${count(now.rows_seen)} answered in ${seconds(now.seconds)}`);
  if (now.processes > 1) told.push(`by ${now.processes} processes`);
  return `${told.join(', ')}. Version ${now.model_version}.`;
}
