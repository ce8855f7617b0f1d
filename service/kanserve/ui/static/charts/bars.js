// Vertical bar chart of values by name.

import { linear, svg } from '../svg.js';

/** The picture. entries: [{name, value, said}], in order. */
export function bars({ entries, title, width, height = 200, label }) {
  const top = Math.max(...entries.map((one) => one.value), 1e-300);
  const margin = { left: 14, right: 14, top: 20, bottom: 42 };
  const y = linear([0, top], [height - margin.bottom, margin.top]);
  const step = (width - margin.left - margin.right) / Math.max(1, entries.length);
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': title, class: 'chart' },
    svg('title', {}, title),
    entries.map((one, at) => {
      const x = margin.left + at * step;
      return svg('g', {},
        svg('rect', { class: 'bar', x: x + 2, y: y(one.value), width: Math.max(1, step - 4), height: Math.max(0, y(0) - y(one.value)) },
          svg('title', {}, `${one.name}: ${one.said}`)),
        svg('text', { x: x + step / 2, y: y(one.value) - 5, 'text-anchor': 'middle', class: 'small' }, one.short ?? ''),
        svg('text', { x: x + step / 2, y: height - margin.bottom + 15, 'text-anchor': 'middle', class: 'small' }, one.name));
    }),
    svg('line', { class: 'axis', x1: margin.left, x2: width - margin.right, y1: y(0), y2: y(0) }),
    label && svg('text', { class: 'label', x: width / 2, y: height - 6, 'text-anchor': 'middle' }, label));
}
