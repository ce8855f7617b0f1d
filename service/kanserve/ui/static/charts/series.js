// Time series charts: lines with axes, stacked areas, sparklines for table cells.

import { chart, extent, line, linear, path, svg } from '../svg.js';

function clock(value) {
  return new Date(value * 1000).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
}

/**
 * Lines over time. times: seconds since the epoch; lines: [{name, values, class}]; level: {value, name}, a line across.
 * y: {label, names?, top?: at least so high}.
 */
export function over({ times, lines, title, width, height = 220, y, level }) {
  const shown = lines.map((one) => one.values);
  const [, top] = extent(...shown, level ? [level.value] : [], [y.top ?? 0]);
  const domain = times.length > 1 ? [times[0], times.at(-1)] : [(times[0] ?? 0) - 30, times[0] ?? 0];
  const found = chart({
    title, width, height, margin: { right: 30, left: 64 },
    x: { domain, names: clock, ticks: Math.max(1, Math.floor(width / 190)) },
    y: { domain: [0, (top || 1) * 1.08], label: y.label, names: y.names, ticks: 4 },
  });
  if (level) {
    const at = found.y(level.value);
    found.plot.append(svg('line', { class: 'level', x1: found.x.range[0], x2: found.x.range[1], y1: at, y2: at }),
      svg('text', { class: 'label', x: found.x.range[1], y: at - 5, 'text-anchor': 'end' }, level.name));
  }
  if (!shown.some((values) => values.some(Number.isFinite))) found.plot.append(nothing(found));
  for (const one of lines) {
    found.plot.append(line(times, one.values, found.x, found.y, { class: `line ${one.class}` }));
    const last = one.values.findLastIndex(Number.isFinite);
    if (last >= 0) found.plot.append(svg('circle', { class: `point ${one.class}`, cx: found.x(times[last]), cy: found.y(one.values[last]), r: 3 }));
  }
  return found.node;
}

/** Said in the middle of a picture that has nothing to show. */
function nothing({ x, y }) {
  const middle = ({ range: [from, to] }) => (from + to) / 2;
  return svg('text', { class: 'label', x: middle(x), y: middle(y), 'text-anchor': 'middle' }, 'nothing in this time');
}

/** Parts of a whole over time, one above the other. layers: [{name, values, class}] from below. */
export function stacked({ times, layers, title, width, height = 220, y }) {
  const sums = times.map((_, at) => layers.reduce((sum, one) => sum + (one.values[at] || 0), 0));
  const [, top] = extent(sums, [y.top ?? 0]);
  const domain = times.length > 1 ? [times[0], times.at(-1)] : [(times[0] ?? 0) - 30, times[0] ?? 0];
  const found = chart({
    title, width, height, margin: { right: 30, left: 64 },
    x: { domain, names: clock, ticks: Math.max(1, Math.floor(width / 190)) },
    y: { domain: [0, (top || 1) * 1.08], label: y.label, names: y.names, ticks: 4 },
  });
  if (!sums.some((sum) => sum > 0)) found.plot.append(nothing(found));
  let floor = times.map(() => 0);
  for (const one of layers) {
    const roof = floor.map((value, at) => value + (one.values[at] || 0));
    const back = [...times].reverse();
    const d = `${path(times, roof, found.x, found.y)}${path(back, [...floor].reverse(), found.x, found.y).replace('M', 'L')}Z`;
    if (times.length > 1) found.plot.append(svg('path', { class: `area ${one.class}`, d }, svg('title', {}, one.name)));
    floor = roof;
  }
  return found.node;
}

/** What a line or an area means, in words beside its colour. */
export function legend(entries) {
  const list = document.createElement('ul');
  list.className = 'legend';
  for (const { name, class: kind, mark = 'line' } of entries) {
    const item = document.createElement('li');
    item.append(svg('svg', { width: 22, height: 12, 'aria-hidden': 'true' }, mark === 'area'
      ? svg('rect', { class: `area ${kind}`, x: 1, y: 1, width: 20, height: 10 })
      : svg('line', { class: `line ${kind}`, x1: 0, x2: 22, y1: 6, y2: 6 })), name);
    list.append(item);
  }
  return list;
}

/** A line without axes, and a level across: for a cell of a table. */
export function spark(values, level, { width = 90, height = 20 } = {}) {
  const [, top] = extent(values, [level * 1.5]);
  const x = linear([0, Math.max(1, values.length - 1)], [1, width - 1]);
  const y = linear([0, top || 1], [height - 2, 2]);
  return svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true', class: 'spark' },
    svg('line', { class: 'level', x1: 0, x2: width, y1: y(level), y2: y(level) }),
    svg('path', { class: 'line edge', fill: 'none', d: path(values.map((_, at) => at), values, x, y) }));
}
