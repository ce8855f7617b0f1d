// Bar charts of values by name: vertical bars, and horizontal bars with a level.

import { number, shortened } from '../format.js';
import { linear, svg } from '../svg.js';

const LETTER = 6.6; // pixels of a letter of a name

/** Draws vertical bars. entries: [{name, value, short: text above the bar, title}], in order. */
export function bars({ entries, title, width, height = 200, label }) {
  const top = Math.max(...entries.map((each) => each.value), 1e-300);
  const step = (width - 28) / Math.max(1, entries.length);
  const longest = Math.max(0, ...entries.map((each) => each.name.length)) * LETTER;
  const upright = longest > step; // otherwise the names of narrow bars overlap
  const margin = { left: 14, right: 14, top: 20, bottom: upright ? 32 + longest : 42 };
  const y = linear([0, top], [height - margin.bottom, margin.top]);
  const size = Math.min(step - 4, 64);
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': title, class: 'chart' },
    svg('title', {}, title),
    entries.map((each, at) => {
      const middle = margin.left + (at + 0.5) * step;
      return svg('g', {},
        svg('rect', { class: 'bar', x: middle - size / 2, y: y(each.value), width: Math.max(1, size), height: Math.max(0, y(0) - y(each.value)) },
          svg('title', {}, `${each.name}: ${each.title}`)),
        svg('text', { x: middle, y: y(each.value) - 5, 'text-anchor': 'middle', class: 'small' }, each.short ?? ''),
        svg('text', { class: 'small', ...(upright ? { 'text-anchor': 'end', transform: `translate(${middle + 4} ${y(0) + 6}) rotate(-90)` }
          : { 'text-anchor': 'middle', x: middle, y: y(0) + 15 }) }, each.name));
    }),
    svg('line', { class: 'axis', x1: margin.left, x2: width - margin.right, y1: y(0), y2: y(0) }),
    label && svg('text', { class: 'label', x: width / 2, y: height - 6, 'text-anchor': 'middle' }, label));
}

/** Draws horizontal bars, and a vertical line at `level` if there is one. entries: [{name, value}], in order. */
export function ranked({ entries, level, title, width, height = 228, text = (value) => number(value, 3) }) {
  const left = Math.min(150, width * 0.34);
  const [top, bottom] = [8, 24];
  const row = Math.min(26, (height - top - bottom) / Math.max(1, entries.length));
  const x = linear([0, 1.02 * Math.max((level?.value ?? 0) * 1.2, 1e-9, ...entries.map((each) => each.value).filter(Number.isFinite))], [left, width - 52]);
  const floor = height - bottom;
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': title, class: 'chart' },
    svg('title', {}, title),
    entries.map(({ name, value }, at) => {
      const middle = top + (at + 0.5) * row;
      const end = Number.isFinite(value) ? x(value) : left;
      return svg('g', {},
        svg('title', {}, `${name}: ${text(value)}`),
        svg('text', { x: left - 8, y: middle + 4, 'text-anchor': 'end' }, shortened(name, Math.floor(left / 7.2))),
        svg('rect', { class: level && value > level.value ? 'bar over' : 'bar', x: left, y: middle - row * 0.32, width: Math.max(1, end - left), height: row * 0.64 }),
        svg('text', { x: end + 6, y: middle + 4, class: 'figure' }, text(value)));
    }),
    svg('line', { class: 'axis', x1: left, x2: left, y1: top, y2: floor }),
    level && svg('line', { class: 'level ink', x1: x(level.value), x2: x(level.value), y1: top - 4, y2: floor }),
    level && svg('text', { class: 'label', x: x(level.value), y: floor + 16, 'text-anchor': 'middle' }, level.name));
}
