// Time series charts: lines with axes, stacked areas, sparklines for table cells.

import { el } from '../dom.js';
import { chart, extent, line, linear, path, svg } from '../svg.js';

const WINDOW = 60; // seconds that a chart shows at least
const STEPS = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600]; // seconds between two ticks
const [LONG, SHORT] = [96, 62]; // pixels for a tick with and without seconds

/** The time axis of a chart: all times, and at least WINDOW seconds before the last one. */
function timeAxis(times, width) {
  const last = times.at(-1) ?? Date.now() / 1000;
  const first = Math.min(last - WINDOW, times[0] ?? last);
  const step = STEPS.find((each) => (last - first) / each <= width / (each < 60 ? LONG : SHORT)) ?? STEPS.at(-1);
  const at = [];
  for (let tick = Math.ceil((first + (last - first) * 0.05) / step) * step; tick <= last; tick += step) at.push(tick);
  const fields = { hour: '2-digit', minute: '2-digit', hour12: false, ...(step < 60 ? { second: '2-digit' } : {}) };
  return { domain: [first, last], at, names: (value) => new Date(value * 1000).toLocaleTimeString([], fields) };
}

function frame({ times, title, width, height, top, y }) {
  return chart({
    title, width, height, margin: { right: 28, left: 60, bottom: 26, top: 10 }, x: timeAxis(times, width),
    y: { domain: [0, (top || 1) * 1.08], names: y.names, ticks: 4 },
  });
}

/**
 * Draws lines over time. times: seconds since the epoch; lines: [{name, values, class}]; level: {value, name}, a line
 * across. y: {names?, top?: the least upper end}.
 */
export function over({ times, lines, title, width, height = 200, y, level }) {
  const shown = lines.map((each) => each.values);
  const [, top] = extent(...shown, level ? [level.value] : [], [y.top ?? 0]);
  const picture = frame({ times, title, width, height, top, y });
  if (level) {
    const at = picture.y(level.value);
    picture.plot.append(svg('line', { class: 'level', x1: picture.x.range[0], x2: picture.x.range[1], y1: at, y2: at }),
      svg('text', { class: 'label', x: picture.x.range[0] + 6, y: at - 5 }, level.name));
  }
  if (!shown.some((values) => values.some(Number.isFinite))) picture.plot.append(nothing(picture));
  const within = times.map((time) => Math.max(time, picture.x.domain[0]));
  for (const each of lines) {
    picture.plot.append(line(within, each.values, picture.x, picture.y, { class: `line ${each.class}` }));
    const last = each.values.findLastIndex(Number.isFinite);
    if (last >= 0) picture.plot.append(svg('circle', { class: `point ${each.class}`, cx: picture.x(within[last]), cy: picture.y(each.values[last]), r: 3 }));
  }
  return picture;
}

/** The text in the middle of a chart without data. */
function nothing({ x, y }) {
  const middle = ({ range: [from, to] }) => (from + to) / 2;
  return svg('text', { class: 'label', x: middle(x), y: middle(y), 'text-anchor': 'middle' }, 'No data');
}

/** Draws parts of a whole over time, one above the other. lines: [{name, values, class}] from below. */
export function stacked({ times, lines, title, width, height = 200, y }) {
  const sums = times.map((_, at) => lines.reduce((sum, each) => sum + (each.values[at] || 0), 0));
  const [, top] = extent(sums, [y.top ?? 0]);
  const picture = frame({ times, title, width, height, top, y });
  if (!sums.some((sum) => sum > 0)) picture.plot.append(nothing(picture));
  const within = times.map((time) => Math.max(time, picture.x.domain[0]));
  let floor = times.map(() => 0);
  for (const each of lines) {
    const roof = floor.map((value, at) => value + (each.values[at] || 0));
    const back = [...within].reverse();
    const d = `${path(within, roof, picture.x, picture.y)}${path(back, [...floor].reverse(), picture.x, picture.y).replace('M', 'L')}Z`;
    if (times.length > 1) picture.plot.append(svg('path', { class: `area ${each.class}`, d }, svg('title', {}, each.name)));
    floor = roof;
  }
  return picture;
}

/**
 * Puts a chart over the names of its lines and their latest values. While the pointer is on the chart, the list shows the
 * values at the pointer. draw: `over` or `stacked`, and its options.
 */
export function timeChart(draw, options) {
  const { times, lines, y: { names = String } } = options;
  const picture = draw(options);
  const list = legend(lines.map((each) => ({ ...each, mark: draw === stacked ? 'area' : 'line' })));
  const values = [...list.querySelectorAll('strong')];
  const show = (at) => {
    lines.forEach((each, place) => {
      const value = at === null ? each.values.findLast(Number.isFinite) : each.values[at];
      values[place].textContent = Number.isFinite(value) ? names(value) : '\u2013';
    });
  };
  follow(picture, times, show);
  show(null);
  return { node: el('div', {}, picture.node, list), picture: picture.node };
}

/** Moves a vertical line with the pointer, and calls show(index of the nearest time), or show(null) when it leaves. */
function follow({ node, plot, x, y }, times, show) {
  const cursor = svg('line', { class: 'cursor', y1: y.range[0], y2: y.range[1], visibility: 'hidden' });
  plot.append(cursor);
  node.addEventListener('pointermove', (event) => {
    if (!times.length) return;
    const box = node.getBoundingClientRect();
    const time = x.back((event.clientX - box.left) * (node.viewBox.baseVal.width / box.width));
    const at = times.reduce((best, each, place) => (Math.abs(each - time) < Math.abs(times[best] - time) ? place : best), 0);
    const place = x(Math.max(times[at], x.domain[0]));
    cursor.setAttribute('x1', place);
    cursor.setAttribute('x2', place);
    cursor.setAttribute('visibility', 'visible');
    show(at);
  });
  node.addEventListener('pointerleave', () => {
    cursor.setAttribute('visibility', 'hidden');
    show(null);
  });
}

/** Lists the names of lines or areas next to their marks. An entry with `values` or `value` has a place for a value. */
export function legend(entries) {
  return el('ul', { class: 'legend' }, entries.map(({ name, class: kind, mark = 'line', values, value }) => el('li', {},
    svg('svg', { width: 22, height: 12, 'aria-hidden': 'true' }, mark === 'area'
      ? svg('rect', { class: `area ${kind}`, x: 1, y: 1, width: 20, height: 10 })
      : svg('path', { class: `line ${kind}`, d: 'M0 6H22' })),
    el('span', { class: 'name', title: name }, name), (values || value !== undefined) && el('strong', {}, value ?? ''))));
}

/** Draws a line without axes through points [time, value], and a level across, for a cell of a table. */
export function spark(points, level, { width = 90, height = 20 } = {}) {
  const [times, values] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const [, top] = extent(values, [level * 1.5]);
  const x = linear(extent(times), [1, width - 1]);
  const y = linear([0, top || 1], [height - 2, 2]);
  return svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true', class: 'spark' },
    svg('line', { class: 'level', x1: 0, x2: width, y1: y(level), y2: y(level) }),
    svg('path', { class: 'line edge', fill: 'none', d: path(times, values, x, y) }));
}
