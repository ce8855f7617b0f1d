// Flow diagram of an explanation: the edges that carried most of the difference per layer, width by value.

import { shortened } from '../format.js';
import { svg } from '../svg.js';
import { signed } from './waterfall.js';

const GAP = 30;

/**
 * Draws the paths. columns: the nodes [{key, name, value?}] of each stage, from inputs to the output; edges:
 * [{stage, from, to, value, name}], by the keys of nodes in columns[stage] and columns[stage + 1]. height: the least; onedge(edge) is a
 * callback for an edge that the user selects with the pointer or the keyboard.
 */
export function flow({ columns, edges, title, width, height: least = 0, onedge }) {
  const tall = Math.max(...columns.map((nodes) => nodes.length), 3);
  const height = Math.max(tall * GAP + 30, least);
  const side = width < 560 ? 99 : 150;
  const place = new Map();
  columns.forEach((nodes, stage) => {
    const x = side + (stage / Math.max(1, columns.length - 1)) * (width - 2 * side);
    nodes.forEach((one, at) => {
      place.set(`${stage}/${one.key}`, { x, y: 24 + ((at + 0.5) * (height - 30)) / nodes.length });
    });
  });
  const largest = Math.max(...edges.map((edge) => Math.abs(edge.value)).filter(Number.isFinite), 1e-300);
  const lines = [...edges].sort((a, b) => Math.abs(a.value) - Math.abs(b.value)).map((edge) => {
    const [a, b] = [place.get(`${edge.stage}/${edge.from}`), place.get(`${edge.stage + 1}/${edge.to}`)];
    const middle = (a.x + b.x) / 2;
    const share = Math.abs(edge.value) / largest;
    const chosen = () => onedge?.(edge);
    return svg('path', {
      class: `flow ${edge.value >= 0 ? 'more' : 'less'}`, fill: 'none', tabindex: onedge ? 0 : null, role: onedge ? 'link' : null,
      'aria-label': `${edge.name}: ${signed(edge.value)}`,
      d: `M${a.x + 5} ${a.y}C${middle} ${a.y} ${middle} ${b.y} ${b.x - 5} ${b.y}`,
      'stroke-width': (1 + 11 * share).toFixed(2), 'stroke-opacity': (0.35 + 0.5 * share).toFixed(2),
      onclick: chosen, onkeydown: (event) => { if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); chosen(); } },
    }, svg('title', {}, `${edge.name}: ${signed(edge.value)}`));
  });
  const last = columns.length - 1;
  const dots = columns.map((nodes, stage) => nodes.map((one) => {
    const { x, y } = place.get(`${stage}/${one.key}`);
    const words = stage === 0 ? { x: x - 9, 'text-anchor': 'end' } : stage === last ? { x: x + 9 } : { x, 'text-anchor': 'middle' };
    const most = width < 560 ? 12 : 20;
    return [
      svg('circle', { class: 'node', cx: x, cy: y, r: 5 }),
      svg('text', { ...words, y: stage === 0 || stage === last ? y + 4 : y - 9 }, shortened(one.name, most)),
      one.value && (stage === 0 || stage === last)
        && svg('text', { ...words, y: y + 17, class: 'label small' }, one.value),
    ];
  }));
  const heads = columns.map((nodes, stage) => {
    const x = side + (stage / Math.max(1, last)) * (width - 2 * side);
    const text = stage === 0 ? 'inputs' : stage === last ? 'output' : `layer ${stage}`;
    return svg('text', { class: 'label', x, y: 12, 'text-anchor': 'middle' }, text);
  });
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, width, height, role: onedge ? 'group' : 'img', 'aria-label': title, class: 'chart path' },
    svg('title', {}, title), heads, lines, dots);
}
