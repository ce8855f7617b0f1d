// Start page with all models of the server: identity, verification and use of each version.

import { el, table } from '../dom.js';
import { count, number } from '../format.js';

// The references of a verification: a short name, and whether the reference is the trained model.
const AGAINST = { reading: ['file', 'fair'], 'expected-outputs': ['trained model', 'good'], module: ['torch module', 'good'] };

export async function show(root, { api, doing }) {
  doing('The server counts the traffic and the drift of every version.');
  const found = await versions(api);
  root.append(el('h1', {}, 'Models'));
  if (!found.length) {
    root.append(el('p', {}, 'The repository has no models. ', el('code', {}, 'kanserve export CHECKPOINT --repository FOLDER'), ' writes one.'));
    return undefined;
  }
  root.append(table([
    { name: 'Model', value: (row) => row.model, text: (row) => link(row, 'map', row.model) },
    { name: 'Version', value: (row) => Number(row.version), number: true },
    { name: 'State', value: (row) => row.state.toLowerCase(), text: state },
    { name: 'Family', value: (row) => row.family ?? '' },
    { name: 'Shape', value: (row) => row.shape ?? '' },
    { name: 'Verified against', value: (row) => row.verification_basis ?? '', text: verified },
    { name: 'Requests', value: (row) => row.requests ?? NaN, text: traffic, number: true },
    { name: 'Drift', value: (row) => row.drift ?? NaN, text: drift, number: true },
    { name: 'Why', value: (row) => row.reason ?? '' },
  ], found, { caption: `${found.length} versions in the repository`, file: 'models' }));
  return undefined;
}

/** The versions. A token that has only the role read gives names and states. */
async function versions(api) {
  try {
    return (await api.get('v1/kan/overview')).versions;
  } catch (error) {
    if (error.status !== 403) throw error;
    return (await api.post('v2/repository/index', {})).map(({ name, ...one }) => ({ ...one, model: name }));
  }
}

function link({ model, version, state: now }, view, text, attributes = {}) {
  if (now !== 'READY') return text;
  return el('a', { href: `ui/${encodeURIComponent(model)}/${view}?version=${encodeURIComponent(version)}`, ...attributes }, text);
}

function state({ state: now, default: answers }) {
  return el('span', { class: now !== 'READY' && 'moved' }, now.toLowerCase() + (answers ? ', default' : ''));
}

function verified(row) {
  const [words, kind] = AGAINST[row.verification_basis] ?? ['', ''];
  if (!words) return '';
  const error = Number.isFinite(row.error) ? ` (${number(row.error, 2)})` : '';
  return link(row, 'card', el('span', { class: `mark ${kind}` }, `${words}${error}`), { title: 'Largest relative error of the outputs' });
}

function traffic({ state: now, requests, requests_per_second: rate }) {
  if (requests === undefined || (now !== 'READY' && !requests)) return '';
  return `${count(requests)}${rate ? `, ${number(rate, 3)}/s` : ''}`;
}

/** A drift of 1 is the no-drift threshold. */
function drift(row) {
  if (row.drift === undefined || row.state !== 'READY') return '';
  if (row.drift === null) return el('span', { class: 'quiet' }, 'no baseline');
  if (!row.requests) return el('span', { class: 'quiet' }, 'no traffic');
  return link(row, 'drift', `${number(row.drift, 2)}\u00a0\u00d7`, { class: row.drift > 1 && 'moved', title: 'Times what chance alone gives' });
}
