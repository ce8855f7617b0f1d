// SVG chart toolkit: scales, axes, marks, and buttons that save a chart.

import { download, fill, saver } from './dom.js';
import { digits, number } from './format.js';

const SVG = 'http://www.w3.org/2000/svg';

/** Creates svg('path', {d, class, ...}, children). */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** A linear scale from [a, b] to pixels [p, q]; `back` is its inverse. If a equals b, the domain gets some room. */
export function linear([a, b], [p, q]) {
  let [low, high] = [Number(a), Number(b)];
  if (!(Number.isFinite(low) && Number.isFinite(high))) [low, high] = [0, 1];
  if (low === high) {
    const room = Math.abs(low) * 0.05 || 1;
    [low, high] = [low - room, high + room];
  }
  const scale = (value) => p + ((value - low) / (high - low)) * (q - p);
  scale.domain = [low, high];
  scale.range = [p, q];
  scale.back = (pixel) => low + ((pixel - p) / (q - p)) * (high - low);
  return scale;
}

/** Round values in a domain, about `most` of them. */
export function ticks([low, high], most = 6) {
  const raw = (high - low) / Math.max(1, most);
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((one) => one * power >= raw) ?? 10);
  const result = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at += 1) result.push(Number((at * step).toPrecision(12)));
  return result;
}

/** The smallest and the largest finite value; [NaN, NaN] without one. */
export function extent(...lists) {
  let low = Infinity;
  let high = -Infinity;
  for (const list of lists) {
    for (let at = 0; at < list.length; at += 1) {
      const value = list[at];
      if (value < low && value > -Infinity) low = value;
      if (value > high && value < Infinity) high = value;
    }
  }
  return low <= high ? [low, high] : [NaN, NaN];
}

/** Widens an extent by a part of it on either side. */
export function roomy([low, high], part = 0.05) {
  const room = (high - low) * part;
  return [low - room, high + room];
}

/** The path through points. A value that is not finite leaves a gap. */
export function path(xs, ys, x, y) {
  let result = '';
  let pen = 'M';
  for (let at = 0; at < xs.length; at += 1) {
    if (!Number.isFinite(ys[at]) || !Number.isFinite(xs[at])) { pen = 'M'; continue; }
    result += `${pen}${x(xs[at]).toFixed(2)} ${y(ys[at]).toFixed(2)}`;
    pen = 'L';
  }
  return result;
}

/** The path of steps: heights[i] between bounds[i] and bounds[i + 1]. */
export function steps(bounds, heights, x, y) {
  let result = `M${x(bounds[0]).toFixed(2)} ${y(0).toFixed(2)}`;
  heights.forEach((height, at) => {
    result += `V${y(height).toFixed(2)}H${x(bounds[at + 1]).toFixed(2)}`;
  });
  return `${result}V${y(0).toFixed(2)}`;
}

export function line(xs, ys, x, y, attributes = {}) {
  return svg('path', { class: 'line', fill: 'none', ...attributes, d: path(xs, ys, x, y) });
}

/**
 * Draws axes: {node, plot, x, y}; marks belong into plot. options: {title (for screen readers), width, height,
 * margin?: {left, right, top, bottom}, x: {domain, label, ticks?: count, at?: values, names?: (value) => text}, y: the same}.
 */
export function chart(options) {
  const { width, height, title } = options;
  const margin = { left: 56, right: 14, top: 12, bottom: 40, ...options.margin };
  const x = linear(options.x.domain, [margin.left, width - margin.right]);
  const y = linear(options.y.domain, [height - margin.bottom, margin.top]);
  const plot = svg('g', {});
  const named = (axis) => axis.names ?? ((value) => number(value, digits(...axis.domain, 3)));
  const floor = height - margin.bottom;
  const node = svg('svg', { viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': title, class: 'chart' },
    svg('title', {}, title),
    (options.x.at ?? ticks(x.domain, options.x.ticks ?? Math.max(2, Math.round(width / 90)))).map((value) => [
      svg('line', { class: 'grid', x1: x(value), x2: x(value), y1: margin.top, y2: floor }),
      svg('text', { x: x(value), y: floor + 15, 'text-anchor': 'middle' }, named(options.x)(value)),
    ]),
    ticks(y.domain, options.y.ticks ?? Math.max(2, Math.round(height / 50))).map((value) => [
      svg('line', { class: 'grid', x1: margin.left, x2: width - margin.right, y1: y(value), y2: y(value) }),
      svg('text', { x: margin.left - 6, y: y(value) + 4, 'text-anchor': 'end' }, named(options.y)(value)),
    ]),
    svg('line', { class: 'axis', x1: margin.left, x2: width - margin.right, y1: floor, y2: floor }),
    svg('line', { class: 'axis', x1: margin.left, x2: margin.left, y1: margin.top, y2: floor }),
    plot,
    options.x.label && svg('text', { class: 'label', x: (x.range[0] + x.range[1]) / 2, y: height - 6, 'text-anchor': 'middle' }, options.x.label),
    options.y.label && svg('text', {
      class: 'label', 'text-anchor': 'middle', transform: `translate(13 ${(y.range[0] + y.range[1]) / 2}) rotate(-90)`,
    }, options.y.label));
  return { node, plot, x, y };
}

const KEPT = ['fill', 'stroke', 'stroke-width', 'paint-order', 'stroke-dasharray', 'stroke-opacity', 'fill-opacity', 'opacity', 'font-size', 'font-family', 'font-weight', 'text-anchor'];

/** Writes a picture as the text of an SVG file, with the colors of this page. */
export function standalone(node) {
  const copy = node.cloneNode(true);
  const from = [node, ...node.querySelectorAll('*')];
  const to = [copy, ...copy.querySelectorAll('*')];
  from.forEach((one, at) => {
    const style = getComputedStyle(one);
    for (const name of KEPT) {
      const value = style.getPropertyValue(name);
      if (value) to[at].setAttribute(name, value);
    }
    to[at].removeAttribute('class');
    to[at].removeAttribute('tabindex');
  });
  copy.setAttribute('xmlns', SVG);
  const box = node.viewBox.baseVal;
  copy.setAttribute('width', box.width);
  copy.setAttribute('height', box.height);
  const paper = svg('rect', { x: box.x, y: box.y, width: box.width, height: box.height, fill: getComputedStyle(document.documentElement).getPropertyValue('--paper').trim() });
  copy.insertBefore(paper, copy.firstChild);
  return new XMLSerializer().serializeToString(copy);
}

/** Resolves to a picture as PNG, `scale` times as large. */
export async function png(node, scale = 2) {
  const box = node.viewBox.baseVal;
  const address = URL.createObjectURL(new Blob([standalone(node)], { type: 'image/svg+xml' }));
  try {
    const image = new Image(box.width * scale, box.height * scale);
    image.src = address;
    await image.decode();
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [box.width * scale, box.height * scale];
    canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve) => { canvas.toBlob(resolve, 'image/png'); });
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** Buttons that save a picture; `node` may be a function that returns it. */
export function savers(node, file) {
  const now = () => (typeof node === 'function' ? node() : node);
  return [
    saver('SVG', () => download(`${file}.svg`, standalone(now()), 'image/svg+xml')),
    saver('PNG', async () => download(`${file}.png`, await png(now()))),
  ];
}
