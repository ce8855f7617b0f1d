// Router of the web UI: page address to view, and the bar with model, version and views.

import { Api } from './api.js';
import { el, showError } from './dom.js';
import { banner, followTheme, offerHint, requestToken } from './frame.js';
import { Skeleton } from './skeleton.js';

const PATIENCE = 150; // milliseconds for which the previous view stays, so that no skeleton flickers

// Views of a model: segment of the address -> title, and module in views/. The first is the default.
// `listed`: the bar links to it.
const VIEWS = {
  map: { module: 'map', title: 'Network', listed: true },
  edge: { module: 'edge', title: 'Edge' },
  explain: { module: 'explain', title: 'Explain', listed: true },
  drift: { module: 'drift', title: 'Drift', listed: true },
  compare: { module: 'compare', title: 'Compare', listed: true },
  card: { module: 'card', title: 'Model card', listed: true },
};
// Views of the server, such as /ui/ops. A model of that name is at /ui/NAME/map.
const OF_SERVER = {
  ops: { module: 'ops', title: 'Operations' },
};
const $ = (id) => document.getElementById(id);

/** The decoded segments of the address after /ui/. */
function segments() {
  const before = new URL('ui/', document.baseURI).pathname;
  const path = location.pathname.startsWith(before) ? location.pathname.slice(before.length) : '';
  return path.split('/').filter(Boolean).map(decode);
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a single % in a typed address
  }
}

/** The view of the address: {name, version, view, path, params}. `home` is the list of models. */
function route() {
  const params = new URLSearchParams(location.search);
  const [name = '', view = Object.keys(VIEWS)[0] ?? '', ...path] = segments();
  if (!name) return { name: '', version: '', view: 'home', module: 'home', path: [], params };
  if (segments().length === 1 && Object.hasOwn(OF_SERVER, name)) {
    return { name: '', version: '', view: name, ...OF_SERVER[name], path: [], params };
  }
  const known = Object.hasOwn(VIEWS, view) ? VIEWS[view] : null;
  return { name, version: params.get('version') ?? '', view, ...known, path, params };
}

class App {
  constructor() {
    this.api = new Api((why) => requestToken(why));
    this.models = new Map(); // name -> versions that are ready, the highest last
    this.defaults = new Map(); // name -> default version, once a model was described
    this.described = new Map();
    this.leave = null;
    this.turn = 0;
  }

  async start() {
    document.addEventListener('click', (event) => this.#clicked(event));
    document.addEventListener('kanserve:again', () => this.again());
    addEventListener('popstate', () => this.show());
    $('skip').addEventListener('click', (event) => { event.preventDefault(); $('main').focus(); });
    $('model').addEventListener('change', () => this.go(this.address(route().view, $('model').value)));
    $('version').addEventListener('change', () => {
      this.go(this.address(route().view, route().name, $('version').value, route().path));
    });
    followTheme();
    offerHint();
    await this.show(false);
  }

  /** The address of a view of a model, for `go`; links have `ui/` before it. */
  address(view, name = route().name, version = '', path = []) {
    if (!name) return '';
    if (Object.hasOwn(OF_SERVER, view)) return view;
    const parts = [name, view === Object.keys(VIEWS)[0] && !Object.hasOwn(OF_SERVER, name) && !path.length ? '' : view, ...path];
    const query = version ? `?version=${encodeURIComponent(version)}` : '';
    return parts.filter((part) => part !== '').map(encodeURIComponent).join('/') + query;
  }

  go(address) {
    history.pushState(null, '', new URL(`ui/${address}`, document.baseURI));
    return this.show();
  }

  again() {
    this.described.clear();
    return this.show(false);
  }

  #clicked(event) {
    const link = event.target.closest?.('a[href]');
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const before = new URL('ui/', document.baseURI).href;
    const to = new URL(link.getAttribute('href'), document.baseURI).href; // the `href` of an SVG link is not a string
    if (link.hasAttribute('target') || link.hasAttribute('download') || !to.startsWith(before) || to.includes('/static/')) return;
    event.preventDefault();
    this.go(to.slice(before.length));
  }

  /** Shows the view of the address. `moved`: the user comes from another view, so the focus moves to the new one. */
  async show(moved = true) {
    const turn = ++this.turn;
    const root = el('div', { class: 'view' });
    const target = route();
    const leave = this.leave;
    this.leave = null;
    try {
      await leave?.();
    } catch (error) {
      console.error(error);
    }
    $('banner').hidden = true;
    $('main').setAttribute('aria-busy', 'true');
    const waiting = new Skeleton(target.module, root);
    const place = () => { if (turn === this.turn && !root.isConnected) $('main').replaceChildren(waiting.node, root); };
    const soon = setTimeout(place, turn === 1 ? 0 : PATIENCE);
    try {
      await this.#list();
      this.#bar(target);
      if (!target.module) throw new Error(`unknown view: ${target.view}`);
      if (target.name) waiting.say(`The server describes ${target.name}: layers, edges, verification.`);
      const [model, { show }] = await Promise.all([
        target.name ? this.model(target.name, target.version) : null, import(`./views/${target.module}.js`)]);
      if (turn !== this.turn) return;
      if (model) this.#versions(target, model);
      document.title = title(target);
      place();
      const cleanup = await show(root, { ...this.#context(target, model), doing: (text) => waiting.say(text) });
      if (turn === this.turn) this.leave = cleanup ?? null;
      else cleanup?.();
    } catch (error) {
      if (turn !== this.turn || error?.name === 'AbortError') return;
      document.title = title(target);
      place();
      showError(root, error);
    } finally {
      clearTimeout(soon);
      waiting.end();
      if (turn === this.turn) {
        $('main').removeAttribute('aria-busy');
        if (moved) $('main').focus();
      }
    }
  }

  /** The response of DescribeModel, kept for a minute; `again` drops it. */
  async model(name, version = '') {
    const key = JSON.stringify([name, version]);
    if (!this.described.has(key)) {
      const response = await this.api.get(kan(name, version), { packed: true });
      this.described.set(key, response);
      setTimeout(() => this.described.delete(key), 60_000);
    }
    return this.described.get(key);
  }

  async #list() {
    const index = await this.api.post('v2/repository/index', {});
    this.models = new Map();
    for (const { name, version, state } of index) {
      if (!this.models.has(name)) this.models.set(name, []);
      if (state === 'READY') this.models.get(name).push(version);
    }
    for (const versions of this.models.values()) versions.sort((a, b) => Number(a) - Number(b));
  }

  #bar(target) {
    const { name, version, view } = target;
    $('choose').hidden = !name;
    $('model').replaceChildren(...[...new Set([...this.models.keys(), name])].filter(Boolean)
      .map((each) => el('option', { value: each, selected: each === name }, each)));
    this.#versions(target, null);
    const own = name ? Object.entries(VIEWS).filter(([, each]) => each.listed) : [];
    const links = [['home', 'Models', ''],
      ...own.map(([each, { title: text }]) => [each, text, this.address(each, name, version)]),
      ...Object.entries(OF_SERVER).map(([each, { title: text }]) => [each, text, each])];
    $('views').replaceChildren(...links.map(([each, text, address]) =>
      el('a', { href: `ui/${address}`, 'aria-current': each === view && 'page' }, text)));
    const current = $('views').querySelector('[aria-current]');
    if (current) $('views').scrollLeft = current.offsetLeft - $('views').offsetLeft - 40; // the bar of a phone scrolls
  }

  /** Fills the choice of versions. The description of a model without a version names the default version. */
  #versions({ name, version }, model) {
    if (model && !version) this.defaults.set(name, model.model_version);
    const usual = this.defaults.get(name);
    const known = [...new Set([...this.models.get(name) ?? [], version])].filter(Boolean);
    $('version').replaceChildren(el('option', { value: '', selected: !version }, usual ? `Default (v${usual})` : 'Default version'),
      ...known.map((each) => el('option', { value: each, selected: each === version }, `v${each}`)));
  }

  #context({ name, version, path, params }, model) {
    return {
      api: this.api, name, version, path, params, model, models: this.models,
      kan: kan(name, version),
      kanOf: (other) => kan(name, other),
      go: (address) => this.go(address),
      /** Returns the href of a view of this model and version: ctx.link('edge', 0, 1, 2). */
      link: (view, ...rest) => `ui/${this.address(view, name, version, rest)}`,
      announce: (text) => { $('said').textContent = text; },
      /** Reads the list of models again. Resolves to the versions of this model that are ready. */
      versions: async () => {
        await this.#list();
        if (route().name === name) this.#versions(route(), null);
        return this.models.get(name) ?? [];
      },
      /** Reports that the view is out of date, and offers the current state. */
      changed: (text) => banner(text, () => this.again()),
    };
  }
}

function kan(name, version) {
  return `v1/kan/models/${encodeURIComponent(name)}${version ? `/versions/${encodeURIComponent(version)}` : ''}`;
}

function title({ name, title: view, path }) {
  return [view ? `${view}${path.length ? ` ${path.join('/')}` : ''}` : '', name, 'kanserve'].filter(Boolean).join(' \u2013 ');
}

new App().start();
