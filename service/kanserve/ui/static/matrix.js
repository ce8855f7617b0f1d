// Zoomable matrix of a large layer on a canvas: one point per edge, and curves at high zoom.

import { button, download, el, saver } from './dom.js';
import { small } from './diagram.js';
import { shortened } from './format.js';
import { CLASSES, brief, chosen, curves } from './network.js';

const NAMED = 13; // pixels of a cell from which nodes have names
const CURVED = 40; // pixels of a cell from which it shows its curve
const LARGEST = 96; // pixels of a cell
const MOST = 600; // curves of one request
const STILL = 120; // milliseconds without a move until the request
const POINTS = 25;
const [LEFT, TOP] = [92, 74]; // room for names
const SHADES = 256;
const RULE = 'matrix-note';

/** card: an `EdgeCard` for the edge under the pointer. Creates {node, controls, saver, show(layer, filter), close()}. Sources are columns, destinations are rows. */
export function matrix(ctx, card) {
  const view = new Matrix(ctx, card);
  return { node: view.node, controls: view.controls, saver: view.saver, show: (...what) => view.show(...what), close: () => view.close() };
}

class Matrix {
  constructor(ctx, card) {
    Object.assign(this, { ctx, card });
    this.canvas = el('canvas', {
      class: 'matrix', tabindex: '0', role: 'application', 'aria-describedby': RULE,
      onpointerdown: (event) => this.#down(event), onpointermove: (event) => this.#move(event), onpointerup: (event) => this.#up(event),
      onpointerleave: () => { this.pointed = null; this.#later(); }, onkeydown: (event) => this.#key(event),
    });
    this.canvas.addEventListener('wheel', (event) => this.#wheel(event), { passive: false });
    this.note = el('p', { class: 'quiet', id: RULE }, 'Drag to move, scroll to zoom, click an edge to open it. Keys: arrows, plus, minus, Enter.');
    this.node = el('div', {}, this.canvas, this.note);
    this.controls = el('span', { class: 'row' }, button('Zoom in', () => this.#zoom(1.5)), button('Zoom out', () => this.#zoom(1 / 1.5)), button('Fit', () => { this.#resize(); this.#fit(); this.#later(); }));
    this.saver = saver('PNG', () => this.canvas.toBlob((blob) => download(`${ctx.model.model_name}-layer${this.layer.at}.png`, blob)));
    this.paths = new Map();
    this.sized = new ResizeObserver(() => { if (Math.max(280, this.node.clientWidth) !== this.width) this.#resize(); });
    this.sized.observe(this.node);
    this.recolor = () => { this.#paint(); this.#later(); };
    document.addEventListener('kanserve:theme', this.recolor);
    this.pointed = null;
    this.drag = null;
  }

  close() {
    this.sized.disconnect();
    document.removeEventListener('kanserve:theme', this.recolor);
    this.requesting?.abort();
    clearTimeout(this.timer);
    cancelAnimationFrame(this.frame);
  }

  show(layer, filter) {
    const same = this.layer === layer;
    Object.assign(this, { layer, filter });
    this.canvas.setAttribute('aria-label', `Layer ${layer.at}: ${layer.sources} sources across, ${layer.destinations} destinations down`);
    this.#paint();
    if (!same) {
      this.paths = new Map();
      this.cursor = 0;
      this.card.show(layer, this.cursor);
      this.#resize();
      this.#fit();
    }
    this.#later();
  }

  /** Draws all edges that the filters accept as points of an image. */
  #paint() {
    const { layer } = this;
    if (!layer) return;
    const style = getComputedStyle(document.documentElement);
    const paper = rgb(style.getPropertyValue('--paper'));
    const palette = new Uint32Array(CLASSES.length * SHADES);
    CLASSES.forEach((name, kind) => {
      const shade = name === 'none' ? paper : rgb(style.getPropertyValue(`--${name}`));
      for (let at = 0; at < SHADES; at += 1) {
        const part = 0.06 + 0.94 * Math.sqrt(at / (SHADES - 1));
        palette[kind * SHADES + at] = packed(paper.map((one, axis) => one + (shade[axis] - one) * part));
      }
    });
    const data = new ImageData(layer.sources, layer.destinations);
    const points = new Uint32Array(data.data.buffer);
    points.fill(packed(paper));
    const edges = chosen(layer, this.filter);
    for (let at = 0; at < edges.length; at += 1) { // up to a million: the loop allocates nothing
      const edge = edges[at];
      const source = Math.floor(edge / layer.destinations);
      points[(edge - source * layer.destinations) * layer.sources + source] = palette[layer.kinds[edge] * SHADES + Math.round(layer.darkness(edge) * (SHADES - 1))];
    }
    this.image ??= document.createElement('canvas');
    [this.image.width, this.image.height] = [layer.sources, layer.destinations];
    this.image.getContext('2d', { alpha: false }).putImageData(data, 0, 0);
    this.colors = Object.fromEntries(['ink', 'paper', 'quiet', 'rule', 'alarm', 'focus'].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }

  /** Follows the width of the page, and on zoom the height of the cells. */
  #resize(fit = true) {
    const width = Math.max(280, this.node.clientWidth);
    if (!this.layer) return;
    const { sources, destinations } = this.layer;
    const most = Math.round(Math.min(Math.max(260, innerHeight * 0.62), 640));
    const cell = fit ? Math.min(LARGEST, (width - LEFT) / sources) : this.cell;
    const height = Math.min(most, Math.ceil(TOP + Math.max(2 * CURVED, destinations * cell)) + 1);
    if (this.width === width && this.height === height) return;
    Object.assign(this, { width, height });
    const scale = Math.min(devicePixelRatio || 1, 2);
    [this.canvas.width, this.canvas.height] = [width * scale, height * scale];
    this.canvas.getContext('2d').setTransform(scale, 0, 0, scale, 0, 0);
    if (fit) this.#fit();
    this.#later();
  }

  #fit() {
    const { sources, destinations } = this.layer;
    this.cell = Math.min(LARGEST, (this.width - LEFT) / sources, (this.height - TOP) / destinations);
    this.least = this.cell;
    this.at = [0, 0];
  }

  #keep() {
    const { sources, destinations } = this.layer;
    const most = [sources - (this.width - LEFT) / this.cell, destinations - (this.height - TOP) / this.cell];
    this.at = this.at.map((one, axis) => Math.max(0, Math.min(one, Math.max(0, most[axis]))));
  }

  #zoom(by, around = [(this.width + LEFT) / 2, (this.height + TOP) / 2]) {
    const before = this.#under(around);
    this.cell = Math.min(LARGEST, Math.max(this.least, this.cell * by));
    this.#resize(false);
    this.at = [before[0] - (around[0] - LEFT) / this.cell, before[1] - (around[1] - TOP) / this.cell];
    this.#later();
  }

  /** The source and destination at a place of the canvas, with fractions. */
  #under([x, y]) {
    return [this.at[0] + (x - LEFT) / this.cell, this.at[1] + (y - TOP) / this.cell];
  }

  #edge(place) {
    const [source, destination] = this.#under(place).map(Math.floor);
    const { layer } = this;
    if (place[0] < LEFT || place[1] < TOP || source < 0 || destination < 0 || source >= layer.sources || destination >= layer.destinations) return null;
    return source * layer.destinations + destination;
  }

  #later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.#draw();
    });
  }

  #draw() {
    this.#keep();
    const paint = this.canvas.getContext('2d');
    const { cell, layer, colors } = this;
    const [columns, rows] = [Math.min(layer.sources - this.at[0], (this.width - LEFT) / cell), Math.min(layer.destinations - this.at[1], (this.height - TOP) / cell)];
    paint.fillStyle = colors.paper;
    paint.fillRect(0, 0, this.width, this.height);
    paint.imageSmoothingEnabled = cell < 1;
    const tiny = cell >= CURVED ? 5 : 0; // a cell with its curve shows its shade as a strip
    if (!tiny) paint.drawImage(this.image, this.at[0], this.at[1], columns, rows, LEFT, TOP, columns * cell, rows * cell);
    paint.strokeStyle = colors.rule;
    paint.strokeRect(LEFT - 0.5, TOP - 0.5, columns * cell + 1, rows * cell + 1);
    const view = { first: this.at.map(Math.floor), last: [Math.ceil(this.at[0] + columns), Math.ceil(this.at[1] + rows)] };
    if (tiny) this.#cells(paint, view);
    if (cell >= NAMED) this.#names(paint, view);
    else this.#captions(paint, columns * cell, rows * cell);
    this.#glow(paint, view);
    for (const [edge, color] of [[this.cursor, document.activeElement === this.canvas ? colors.focus : null], [this.pointed, colors.ink]]) {
      if (edge === null || edge === undefined || !color) continue;
      paint.strokeStyle = color;
      paint.lineWidth = 2;
      paint.strokeRect(...this.#corner(edge), Math.max(3, cell), Math.max(3, cell));
      paint.lineWidth = 1;
    }
    if (tiny) this.#request(view);
  }

  #corner(edge) {
    return [LEFT + (this.layer.source(edge) - this.at[0]) * this.cell, TOP + (this.layer.destination(edge) - this.at[1]) * this.cell];
  }

  #cells(paint, { first, last }) {
    const { layer, cell, colors } = this;
    paint.save();
    paint.beginPath();
    paint.rect(LEFT, TOP, this.width, this.height);
    paint.clip();
    for (let source = first[0]; source < last[0]; source += 1) {
      for (let destination = first[1]; destination < last[1]; destination += 1) {
        const edge = source * layer.destinations + destination;
        const [x, y] = this.#corner(edge);
        paint.strokeStyle = colors.rule;
        paint.strokeRect(x + 0.5, y + 0.5, cell - 1, cell - 1);
        paint.drawImage(this.image, source, destination, 1, 1, x + 2, y + cell - 7, cell - 4, 5);
        const curve = this.paths.get(edge);
        if (!curve || !layer.kinds[edge]) continue;
        paint.strokeStyle = colors.ink;
        paint.save();
        paint.translate(x + cell * 0.1, y + cell * 0.08);
        paint.scale(cell / 100, cell / 100);
        paint.lineWidth = 160 / cell;
        paint.stroke(curve);
        paint.restore();
      }
    }
    paint.restore();
  }

  /** Names the axes while the cells are too small for names of nodes. */
  #captions(paint, width, height) {
    paint.fillStyle = this.colors.quiet;
    paint.font = '12px system-ui, sans-serif';
    paint.textAlign = 'center';
    paint.textBaseline = 'middle';
    paint.fillText(`${this.layer.sources} sources`, LEFT + width / 2, TOP - 16);
    paint.save();
    paint.translate(LEFT - 16, Math.min(TOP + height / 2, this.height - 52));
    paint.rotate(-Math.PI / 2);
    paint.fillText(`${this.layer.destinations} destinations`, 0, 0);
    paint.restore();
  }

  #names(paint, { first, last }) {
    const { layer, cell, colors } = this;
    paint.fillStyle = colors.ink;
    paint.font = '11px system-ui, sans-serif';
    paint.textBaseline = 'middle';
    paint.textAlign = 'right';
    for (let one = first[1]; one < last[1]; one += 1) {
      const y = TOP + (one + 0.5 - this.at[1]) * cell;
      if (y > TOP) paint.fillText(shortened(brief(layer.destinationName(one)), 14), LEFT - 6, y);
    }
    paint.textAlign = 'left';
    for (let one = first[0]; one < last[0]; one += 1) {
      const x = LEFT + (one + 0.5 - this.at[0]) * cell;
      if (x < LEFT) continue;
      paint.save();
      paint.translate(x, TOP - 6);
      paint.rotate(-Math.PI / 3);
      paint.fillText(shortened(brief(layer.sourceName(one)), 12), 0, 0);
      paint.restore();
    }
  }

  /** Draws a red mark over each source whose live values are out of grid. */
  #glow(paint, { first, last }) {
    paint.fillStyle = this.colors.alarm;
    for (let one = first[0]; one < last[0]; one += 1) {
      if (!this.layer.glows(this.layer.nodeOf(one))) continue;
      paint.fillRect(Math.max(LEFT, LEFT + (one - this.at[0]) * this.cell), TOP - 5, Math.max(1, this.cell), 4);
    }
  }

  /** Requests the curves of visible cells when nothing moves. */
  #request({ first, last }) {
    clearTimeout(this.timer);
    const { layer } = this;
    const within = (from, to) => Array.from({ length: to - from }, (_, at) => from + at);
    const [sources, destinations] = [0, 1].map((axis) => within(first[axis], last[axis]));
    if (sources.length * destinations.length > MOST) return;
    const missing = sources.filter((source) => destinations.some((destination) => !this.paths.has(source * layer.destinations + destination)));
    if (!missing.length) return;
    this.timer = setTimeout(async () => {
      this.requesting?.abort();
      this.requesting = new AbortController();
      try {
        const result = await curves(layer, this.ctx, missing, destinations, POINTS, this.requesting.signal);
        if (layer !== this.layer) return;
        for (const source of missing) for (const destination of destinations) this.paths.set(source * layer.destinations + destination, null);
        for (const [edge, curve] of result) this.paths.set(edge, new Path2D(small(curve, 0, 0, 80)));
        this.#later();
      } catch (error) {
        if (error.name !== 'AbortError') this.card.say(`The curves are not available: ${error.message}`);
      }
    }, STILL);
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * (this.width / box.width), (event.clientY - box.top) * (this.height / box.height)];
  }

  #down(event) {
    this.drag = { from: this.#place(event), at: [...this.at], moved: false };
    this.canvas.setPointerCapture(event.pointerId);
  }

  #move(event) {
    const place = this.#place(event);
    if (this.drag) {
      const by = place.map((one, axis) => one - this.drag.from[axis]);
      this.drag.moved ||= Math.hypot(...by) > 4;
      this.at = this.drag.at.map((one, axis) => one - by[axis] / this.cell);
    }
    this.pointed = this.#edge(place);
    if (this.pointed !== null) this.card.show(this.layer, this.pointed);
    this.#later();
  }

  #up(event) {
    const { drag } = this;
    this.drag = null;
    const edge = this.#edge(this.#place(event));
    if (drag && !drag.moved && edge !== null) this.#open(edge);
  }

  #open(edge) {
    this.ctx.go(this.ctx.link('edge', this.layer.at, this.layer.source(edge), this.layer.destination(edge)).slice('ui/'.length));
  }

  #wheel(event) {
    if (event.deltaY > 0 && this.cell <= this.least) return; // the smallest zoom: the page scrolls
    event.preventDefault();
    this.#zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), this.#place(event));
  }

  #key(event) {
    const { layer } = this;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (steps[event.key]) {
      const [by, down] = steps[event.key];
      const source = Math.min(Math.max(layer.source(this.cursor) + by, 0), layer.sources - 1);
      const destination = Math.min(Math.max(layer.destination(this.cursor) + down, 0), layer.destinations - 1);
      this.cursor = source * layer.destinations + destination;
      [source, destination].forEach((one, axis) => {
        const seen = (([this.width - LEFT, this.height - TOP])[axis]) / this.cell;
        this.at[axis] = Math.min(Math.max(this.at[axis], one + 1 - seen), one);
      });
      this.card.show(layer, this.cursor);
    } else if (event.key === '+' || event.key === '=') this.#zoom(1.5, this.#corner(this.cursor));
    else if (event.key === '-') this.#zoom(1 / 1.5, this.#corner(this.cursor));
    else if (event.key === 'Enter') this.#open(this.cursor);
    else return;
    event.preventDefault();
    this.#later();
  }
}

function rgb(text) {
  const result = parseInt(text.trim().slice(1), 16);
  return [result >> 16, (result >> 8) & 255, result & 255];
}

/** The color as bytes of an image: red first, opaque. */
function packed([red, green, blue]) {
  return (255 << 24) | (Math.round(blue) << 16) | (Math.round(green) << 8) | Math.round(red);
}
