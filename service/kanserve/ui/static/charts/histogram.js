// Histogram of a node's values, current against baseline.

import { number, share } from '../format.js';
import { chart, extent, svg, steps } from '../svg.js';

/** Converts counts (below the first bound, per bin, above the last bound) to shares, and adds bounds for the outer two. */
export function ended(bounds, counts) {
  const total = counts.reduce((sum, one) => sum + one, 0);
  const room = bounds.length > 1 ? (bounds.at(-1) - bounds[0]) / Math.max(4, bounds.length - 1) : 1;
  return {
    bounds: [bounds[0] - room, ...bounds, bounds.at(-1) + room],
    shares: counts.map((one) => (total ? one / total : 0)),
    total,
  };
}

/** Draws live and baseline shares. now and before: results of `ended`; before is null without a baseline. */
export function histograms({ now, before, title, label, width, height = 260 }) {
  const [, top] = extent(now.shares, before?.shares ?? []);
  const picture = chart({
    title, width, height, margin: { left: 60 },
    x: { domain: [now.bounds[0], now.bounds.at(-1)], label },
    y: { domain: [0, (top || 1) * 1.08], names: (value) => share(value), ticks: 4 },
  });
  const floor = picture.y.range[0];
  const [first, last] = [picture.x(now.bounds[1]), picture.x(now.bounds.at(-2))];
  picture.plot.append(
    svg('rect', { class: 'beyond', x: picture.x.range[0], y: picture.y.range[1], width: first - picture.x.range[0], height: floor - picture.y.range[1] }),
    svg('rect', { class: 'beyond', x: last, y: picture.y.range[1], width: picture.x.range[1] - last, height: floor - picture.y.range[1] }),
  );
  if (before) picture.plot.append(svg('path', { class: 'before', d: steps(before.bounds, before.shares, picture.x, picture.y) }));
  picture.plot.append(svg('path', { class: 'now', d: steps(now.bounds, now.shares, picture.x, picture.y) }));
  now.shares.forEach((part, at) => {
    const [a, b] = [picture.x(now.bounds[at]), picture.x(now.bounds[at + 1])];
    const where = at === 0 ? `below ${number(now.bounds[1], 3)}` : at === now.shares.length - 1
      ? `above ${number(now.bounds.at(-2), 3)}` : `${number(now.bounds[at], 3)} to ${number(now.bounds[at + 1], 3)}`;
    picture.plot.append(svg('rect', { class: 'hover', x: a, y: picture.y.range[1], width: b - a, height: floor - picture.y.range[1] },
      svg('title', {}, `${where}: ${share(part)} live${before ? `, ${share(before.shares[at])} baseline` : ''}`)));
  });
  return picture.node;
}
