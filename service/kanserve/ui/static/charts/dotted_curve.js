// Small chart of one edge function, with a dot at the input value of the current row.

import { number } from '../format.js';
import { chart, extent, line, roomy, svg } from '../svg.js';

/** Draws a small picture with a dot that moves: {node, move(x, y)}. curve: {x, phi} as lists. */
export function dotted({ curve, title, label, width = 250, height = 170 }) {
  const [low, high] = extent(curve.x);
  const y = roomy(extent(curve.phi), 0.12);
  const picture = chart({
    title, width, height, margin: { left: 44, right: 10, top: 10, bottom: 36 },
    x: { domain: [low, high], label, ticks: 4 }, y: { domain: y, ticks: 4 },
  });
  const mark = svg('g', { class: 'here' },
    svg('line', { class: 'stem', y1: picture.y.range[0], y2: picture.y.range[1] }), svg('circle', { r: 6 }), svg('text', { class: 'strong' }));
  picture.plot.append(line(curve.x, curve.phi, picture.x, picture.y, { class: 'line edge' }), mark);
  const [stem, dot, words] = mark.children;
  const [left, right] = picture.x.range;
  return {
    node: picture.node,
    /** Moves the dot to the value of the row. If the curve does not reach it, the dot is at an end of the curve. */
    move(at, value) {
      const past = at < low || at > high || !Number.isFinite(at);
      const px = Number.isFinite(at) ? Math.min(right, Math.max(left, picture.x(at))) : left;
      const py = Math.min(picture.y.range[0], Math.max(picture.y.range[1], picture.y(Number.isFinite(value) ? value : 0)));
      stem.setAttribute('x1', px);
      stem.setAttribute('x2', px);
      dot.setAttribute('cx', px);
      dot.setAttribute('cy', py);
      words.setAttribute('x', px > (left + right) / 2 ? px - 9 : px + 9);
      words.setAttribute('text-anchor', px > (left + right) / 2 ? 'end' : 'start');
      words.setAttribute('y', Math.max(picture.y.range[1] + 12, py - 8));
      words.textContent = past ? `${number(at, 3)}, out of range` : number(value, 3);
      mark.setAttribute('class', past ? 'here past' : 'here');
    },
  };
}
