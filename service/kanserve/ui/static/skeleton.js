// The skeleton that a view shows until its data arrives: a text about the work of the server, and the final layout in gray.

import { el } from './dom.js';

const TICK = 1000; // milliseconds
const SOON = 2; // seconds after which the skeleton shows the elapsed time

/** A gray box in the place of later content. kind: title, line, tile, tiles, picture, chart, row or table. */
export function bone(kind) {
  if (kind === 'tiles') return el('div', { class: 'tiles' }, repeated('tile', 6));
  return el('div', { class: `bone of-${kind}`, 'aria-hidden': 'true' });
}

function bones(...kinds) {
  return kinds.map(bone);
}

function repeated(kind, count) {
  return Array.from({ length: count }, () => bone(kind));
}

const board = (kind, count) => el('div', { class: `board ${kind}` }, repeated('chart', count));

// The parts of each view, in their order.
const LAYOUTS = {
  home: () => bones('title', 'tiles', 'table'),
  map: () => [...bones('title', 'tile'), el('div', { class: 'map-page' }, bones('picture', 'table'))],
  edge: () => [...bones('title', 'row'), el('div', { class: 'edge-page' }, bone('picture'), el('div', { class: 'stack' }, bones('chart', 'tile')))],
  explain: () => [bone('title'), el('div', { class: 'explain-page' },
    el('div', { class: 'panel stack' }, bones('line', 'row', 'row', 'row', 'row', 'row')),
    el('div', { class: 'results' }, bones('tile', 'chart', 'picture')))],
  drift: () => [...bones('title', 'tile', 'tiles'), board('four', 4), bone('table')],
  compare: () => [...bones('title', 'row', 'tile'), board('three', 3), bone('table')],
  card: () => [...bones('title', 'line', 'tile', 'row'), board('', 4), bone('picture')],
  ops: () => [...bones('title', 'tiles'), board('three', 6), bone('table')],
};

/** A text about the work of the server, and the elapsed time after SOON seconds. */
export class Doing {
  constructor(text) {
    this.text = el('span', {}, text);
    this.time = el('span', { 'aria-hidden': 'true' });
    this.node = el('p', { class: 'doing', role: 'status' }, this.text, ' ', this.time);
    this.begun = performance.now();
    this.timer = setInterval(() => {
      const seconds = Math.floor((performance.now() - this.begun) / 1000);
      if (seconds >= SOON) this.time.textContent = `${seconds}\u00a0s`;
    }, TICK);
  }

  say(text) {
    this.text.textContent = text;
  }

  end() {
    clearInterval(this.timer);
    this.node.remove();
  }
}

/** The skeleton of a view, for `module` of views/. It ends when `root`, the view's element, has content. */
export class Skeleton {
  constructor(module, root) {
    this.doing = new Doing('The server lists its models.');
    this.node = el('div', { class: 'skeleton' }, this.doing.node, (LAYOUTS[module] ?? LAYOUTS.home)());
    this.filled = new MutationObserver(() => { if (root.childElementCount) this.end(); });
    this.filled.observe(root, { childList: true });
  }

  say(text) {
    this.doing.say(text);
  }

  end() {
    this.filled.disconnect();
    this.doing.end();
    this.node.remove();
  }
}
