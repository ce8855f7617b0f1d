// Router and frame of the web UI: page address to view, bar with model and version, token form, theme.

import { Api } from './api.js';
import { button, el, tell } from './dom.js';
import { Skeleton } from './skeleton.js';

const PATIENCE = 150; // milliseconds for which the previous view stays, so that no skeleton flickers

// Of a model: what the address says -> what it is called, and its module in views/. The first is shown where it says
// nothing. `listed`: it has a place in the bar; others are led to.
const VIEWS = {
  map: { module: 'map', title: 'Map', listed: true },
  edge: { module: 'edge', title: 'Edge' },
  explain: { module: 'explain', title: 'Explain', listed: true },
  drift: { module: 'drift', title: 'Drift', listed: true },
  card: { module: 'card', title: 'Card', listed: true },
};
// Of the server: /ui/ops and the like. A model of that name is at /ui/NAME/map.
const OF_SERVER = {
  ops: { module: 'ops', title: 'Operations' },
};
const $ = (id) => document.getElementById(id);

/** Segments behind /ui/ of this address, decoded. */
function segments() {
  const before = new URL('ui/', document.baseURI).pathname;
  const path = location.pathname.startsWith(before) ? location.pathname.slice(before.length) : '';
  return path.split('/').filter(Boolean).map(decode);
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a lone % in a typed address
  }
}

/** Which view an address means: {name, version, view, path, params}; view is null for the list of models. */
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
    this.api = new Api((why) => askToken(why));
    this.models = new Map(); // name -> versions that are ready, the highest last
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
    theme();
    await this.show(false);
  }

  /** The address of a view of the model that is shown, or of another, to be given to `go` or, behind ui/, to a link. */
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
    const to = new URL(link.getAttribute('href'), document.baseURI).href; // of a link in a picture `href` is no text
    if (link.hasAttribute('target') || link.hasAttribute('download') || !to.startsWith(before) || to.includes('/static/')) return;
    event.preventDefault();
    this.go(to.slice(before.length));
  }

  /** What the address says. `moved`: the viewer came from another view, so the focus goes to the new one. */
  async show(moved = true) {
    const turn = ++this.turn;
    const root = el('div', { class: 'view' });
    const wanted = route();
    const leave = this.leave;
    this.leave = null;
    try {
      await leave?.();
    } catch (error) {
      console.error(error);
    }
    $('banner').hidden = true;
    $('main').setAttribute('aria-busy', 'true');
    const waiting = new Skeleton(wanted.module, root);
    const place = () => { if (turn === this.turn && !root.isConnected) $('main').replaceChildren(waiting.node, root); };
    const soon = setTimeout(place, turn === 1 ? 0 : PATIENCE);
    try {
      await this.#list();
      this.#bar(wanted);
      if (!wanted.module) throw new Error(`this page has no view ${wanted.view}`);
      if (wanted.name) waiting.say(`The server describes ${wanted.name}: layers, edges, verification.`);
      const [model, { show }] = await Promise.all([
        wanted.name ? this.model(wanted.name, wanted.version) : null, import(`./views/${wanted.module}.js`)]);
      if (turn !== this.turn) return;
      document.title = title(wanted);
      place();
      const cleanup = await show(root, { ...this.#context(wanted, model), doing: (text) => waiting.say(text) });
      if (turn === this.turn) this.leave = cleanup ?? null;
      else cleanup?.();
    } catch (error) {
      if (turn !== this.turn || error?.name === 'AbortError') return;
      document.title = title(wanted);
      place();
      tell(root, error);
    } finally {
      clearTimeout(soon);
      waiting.end();
      if (turn === this.turn) {
        $('main').removeAttribute('aria-busy');
        if (moved) $('main').focus();
      }
    }
  }

  /** DescribeModel's answer, kept while the page is open; `again` forgets it. */
  async model(name, version = '') {
    const key = JSON.stringify([name, version]);
    if (!this.described.has(key)) {
      const found = await this.api.get(kan(name, version), { packed: true });
      this.described.set(key, found);
      setTimeout(() => this.described.delete(key), 60_000);
    }
    return this.described.get(key);
  }

  async #list() {
    const found = await this.api.post('v2/repository/index', {});
    this.models = new Map();
    for (const { name, version, state } of found) {
      if (!this.models.has(name)) this.models.set(name, []);
      if (state === 'READY') this.models.get(name).push(version);
    }
    for (const versions of this.models.values()) versions.sort((a, b) => Number(a) - Number(b));
  }

  #bar({ name, version, view }) {
    const known = this.models.get(name) ?? [];
    $('choose').hidden = !name;
    $('model').replaceChildren(...[...new Set([...this.models.keys(), name])].filter(Boolean)
      .map((one) => el('option', { value: one, selected: one === name }, one)));
    $('version').replaceChildren(el('option', { value: '', selected: !version }, 'that answers'),
      ...[...new Set([...known, version])].filter(Boolean)
        .map((one) => el('option', { value: one, selected: one === version }, one)));
    const links = name ? Object.entries(VIEWS).filter(([, one]) => one.listed)
      .map(([each, one]) => [each, one.title, this.address(each, name, version)]) : [];
    links.push(...Object.entries(OF_SERVER).map(([each, one]) => [each, one.title, each]));
    $('views').replaceChildren(...links.map(([each, text, address]) =>
      el('a', { href: `ui/${address}`, 'aria-current': each === view && 'page' }, text)));
  }

  #context({ name, version, path, params }, model) {
    return {
      api: this.api, name, version, path, params, model, models: this.models,
      kan: kan(name, version),
      go: (address) => this.go(address),
      /** ctx.link('edge', 0, 1, 2): the href of a view of this model and version. */
      link: (view, ...rest) => `ui/${this.address(view, name, version, rest)}`,
      announce: (text) => { $('said').textContent = text; },
      /** What the page shows is no longer so: says it, and offers to show what is. */
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

function banner(text, again) {
  $('banner').replaceChildren(el('span', {}, text), button('Show what is now', again));
  $('banner').hidden = false;
}

/** Resolves to what the viewer gives, '' where they do not. */
function askToken(why) {
  const dialog = $('token');
  const before = document.activeElement;
  $('token-why').textContent = why;
  $('token-value').value = '';
  dialog.returnValue = '';
  dialog.showModal();
  $('token-value').focus();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      before?.focus?.();
      const given = dialog.returnValue === 'ok' ? $('token-value').value.trim() : '';
      $('token-value').value = '';
      resolve(given);
    }, { once: true });
  });
}

const THEME = 'kanserve-theme';

/** As the viewer's system has it, until they choose. */
function theme() {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const chosen = () => localStorage.getItem(THEME);
  const apply = () => {
    const now = chosen() ?? (dark.matches ? 'dark' : 'light');
    document.documentElement.dataset.theme = now;
    $('theme').textContent = now === 'dark' ? 'Light' : 'Dark';
    $('theme').setAttribute('aria-label', `Change to ${now === 'dark' ? 'light' : 'dark'} colours`);
    document.dispatchEvent(new CustomEvent('kanserve:theme')); // canvases are drawn anew
  };
  dark.addEventListener('change', apply);
  $('theme').addEventListener('click', () => {
    localStorage.setItem(THEME, document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark');
    apply();
  });
  apply();
}

new App().start();
