// Small chart of one edge function, with a dot at the input value of the current row.

import { number } from '../format.js';
import { chart, extent, line, roomy, svg } from '../svg.js';

/** A small picture with a dot that moves: {node, move(x, y)}. curve: {x, phi} lists; domain: from where the range is. */
export function dotted({ curve, title, label, width = 250, height = 170 }) {
  const [low, high] = extent(curve.x);
  const y = roomy(extent(curve.phi), 0.12);
  const found = chart({
    title, width, height, margin: { left: 44, right: 10, top: 10, bottom: 36 },
    x: { domain: [low, high], label, ticks: 4 }, y: { domain: y, ticks: 4 },
  });
  const mark = svg('g', { class: 'here' },
    svg('line', { class: 'stem', y1: found.y.range[0], y2: found.y.range[1] }), svg('circle', { r: 6 }), svg('text', { class: 'strong' }));
  found.plot.append(line(curve.x, curve.phi, found.x, found.y, { class: 'line edge' }), mark);
  const [stem, dot, words] = mark.children;
  const [left, right] = found.x.range;
  return {
    node: found.node,
    /** To where the row is; beyond the curve it stands at its end, and says so. */
    move(at, value) {
      const beyond = at < low || at > high || !Number.isFinite(at);
      const px = Number.isFinite(at) ? Math.min(right, Math.max(left, found.x(at))) : left;
      const py = Math.min(found.y.range[0], Math.max(found.y.range[1], found.y(Number.isFinite(value) ? value : 0)));
      stem.setAttribute('x1', px);
      stem.setAttribute('x2', px);
      dot.setAttribute('cx', px);
      dot.setAttribute('cy', py);
      words.setAttribute('x', px > (left + right) / 2 ? px - 9 : px + 9);
      words.setAttribute('text-anchor', px > (left + right) / 2 ? 'end' : 'start');
      words.setAttribute('y', Math.max(found.y.range[1] + 12, py - 8));
      words.textContent = beyond ? `at ${number(at, 3)}, beyond` : number(value, 3);
      mark.setAttribute('class', beyond ? 'here past' : 'here');
    },
  };
}
