// Histogram of a node's values, current against baseline.

import { number, share } from '../format.js';
import { chart, extent, svg, steps } from '../svg.js';

/** Of counts below the first bound, in each cell and above the last: shares, and bounds with ends for the outer two. */
export function ended(bounds, counts) {
  const total = counts.reduce((sum, one) => sum + one, 0);
  const room = bounds.length > 1 ? (bounds.at(-1) - bounds[0]) / Math.max(4, bounds.length - 1) : 1;
  return {
    bounds: [bounds[0] - room, ...bounds, bounds.at(-1) + room],
    shares: counts.map((one) => (total ? one / total : 0)),
    total,
  };
}

/**
 * The picture. now and before: as of `ended`, before null where there is none. core: the ends of the grid, if it is
 * known. label: what the values are.
 */
export function histograms({ now, before, title, label, width, height = 260 }) {
  const [, top] = extent(now.shares, before?.shares ?? []);
  const found = chart({
    title, width, height, margin: { left: 70 },
    x: { domain: [now.bounds[0], now.bounds.at(-1)], label },
    y: { domain: [0, (top || 1) * 1.08], label: 'share of values', names: (value) => share(value), ticks: 4 },
  });
  const floor = found.y.range[0];
  const [first, last] = [found.x(now.bounds[1]), found.x(now.bounds.at(-2))];
  found.plot.append(
    svg('rect', { class: 'beyond', x: found.x.range[0], y: found.y.range[1], width: first - found.x.range[0], height: floor - found.y.range[1] }),
    svg('rect', { class: 'beyond', x: last, y: found.y.range[1], width: found.x.range[1] - last, height: floor - found.y.range[1] }),
  );
  if (before) found.plot.append(svg('path', { class: 'before', d: steps(before.bounds, before.shares, found.x, found.y) }));
  found.plot.append(svg('path', { class: 'now', d: steps(now.bounds, now.shares, found.x, found.y) }));
  now.shares.forEach((part, at) => {
    const [a, b] = [found.x(now.bounds[at]), found.x(now.bounds[at + 1])];
    const where = at === 0 ? `below ${number(now.bounds[1], 3)}` : at === now.shares.length - 1
      ? `above ${number(now.bounds.at(-2), 3)}` : `${number(now.bounds[at], 3)} to ${number(now.bounds[at + 1], 3)}`;
    found.plot.append(svg('rect', { class: 'hover', x: a, y: found.y.range[1], width: b - a, height: floor - found.y.range[1] },
      svg('title', {}, `${where}: ${share(part)} now${before ? `, ${share(before.shares[at])} then` : ''}`)));
  });
  return found.node;
}
