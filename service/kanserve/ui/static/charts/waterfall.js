// Waterfall chart of feature contributions, from the base value to the prediction.

import { number, shortened } from '../format.js';
import { linear, roomy, svg, ticks } from '../svg.js';

const ROW = 30;
const FIGURE = 60; // pixels of a number

/**
 * Draws the contributions. steps: [{name, shown?: the value of the input, value: its contribution}] in order, with the
 * rest among them; they lead from `base` to `prediction`. names: {base, prediction}. width: in pixels.
 */
export function waterfall({ base, prediction, steps, title, names, width, unit = '' }) {
  const narrow = width < 560;
  const left = narrow ? 124 : 210;
  const height = (steps.length + 2) * ROW + 34;
  const ends = [base];
  for (const step of steps) ends.push(ends.at(-1) + (Number.isFinite(step.value) ? step.value : 0));
  const shown = [...ends, prediction].filter(Number.isFinite);
  const domain = roomy([Math.min(...shown), Math.max(...shown)], 0.14);
  const x = linear(domain, [left, width - 12]);
  const floor = height - 30;
  const node = svg('svg', { viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': title, class: 'chart waterfall' },
    svg('title', {}, title),
    ticks(x.domain, narrow ? 3 : 6).map((value) => [
      svg('line', { class: 'grid', x1: x(value), x2: x(value), y1: 4, y2: floor }),
      svg('text', { class: 'label', x: x(value), y: floor + 16, 'text-anchor': 'middle' }, number(value, 3)),
    ]));
  const line = (at) => 4 + at * ROW;
  const whole = (at, value, name) => [
    svg('line', { class: 'whole', x1: x(value), x2: x(value), y1: line(at) + 4, y2: line(at) + ROW - 4 }),
    svg('text', { x: left - 8, y: line(at) + 20, 'text-anchor': 'end', class: 'strong' }, shortened(name, narrow ? 15 : 30)),
    svg('text', { ...nextTo(x, value, width), y: line(at) + 20, class: 'strong' }, `${number(value, 4)}${unit}`),
  ];
  node.append(...whole(0, base, names.base));
  steps.forEach((step, at) => node.append(bar(step, ends[at], ends[at + 1], { x, top: line(at + 1), left, narrow, width })));
  node.append(...whole(steps.length + 1, prediction, names.prediction));
  return node;
}

/** The place of a text next to a mark: to the right if there is room, otherwise to the left. */
function nextTo(x, value, width) {
  const at = x(value);
  return at > width - 80 ? { x: at - 7, 'text-anchor': 'end' } : { x: at + 7 };
}

function bar(step, from, to, { x, top, left, narrow, width }) {
  const up = to >= from;
  const [a, b] = [x(from), x(to)];
  const tip = Math.min(7, Math.abs(b - a)) * (up ? 1 : -1);
  const [y0, y1] = [top + 5, top + ROW - 5];
  const end = up ? Math.max(a, b) : Math.min(a, b);
  const room = up ? width - 76 : left + 70;
  const outside = up ? end < room : end > room;
  const free = up ? Math.min(a, b) - left : width - 12 - Math.max(a, b);
  const words = outside ? { x: up ? end + 5 : end - 5, 'text-anchor': up ? 'start' : 'end' }
    : free > FIGURE ? { x: up ? Math.min(a, b) - 5 : Math.max(a, b) + 5, 'text-anchor': up ? 'end' : 'start' }
      : { x: up ? end - 12 : end + 12, 'text-anchor': up ? 'end' : 'start', inside: true };
  return svg('g', { class: step.rest ? 'step rest' : 'step' },
    svg('title', {}, `${step.name}${step.shown ? ` = ${step.shown}` : ''}: ${signed(step.value)}`),
    svg('line', { class: 'thread', x1: a, x2: a, y1: top - 5, y2: y0 }),
    svg('path', { class: up ? 'more' : 'less', d: `M${a} ${y0}L${b - tip} ${y0}L${b} ${(y0 + y1) / 2}L${b - tip} ${y1}L${a} ${y1}Z` }),
    label(step, { x: left - 8, y: top + 20 }, narrow ? 15 : 30),
    svg('text', { x: words.x, 'text-anchor': words['text-anchor'], y: top + 20, class: words.inside ? 'figure inside' : 'figure' }, signed(step.value)));
}

function label(step, place, most) {
  const shown = step.shown && most > 20 ? ` = ${step.shown}` : ''; // on a phone, the form has the values
  const name = shortened(step.name, Math.max(5, most - shown.length));
  return svg('text', { ...place, 'text-anchor': 'end' }, name, shown && svg('tspan', { class: 'label' }, shown));
}

export function signed(value) {
  const text = number(value, 3);
  return value > 0 ? `+${text}` : text.replace('-', '\u2212');
}
