// Start page with all models of the server: identity, verification and use of each version.

import { el, empty, heading, tile } from '../dom.js';
import { count, number } from '../format.js';
import { BASES } from '../names.js';
import { tablePanel } from '../table.js';

const NOTE = 'Drift ratio: the largest PSI of a node, divided by the no-drift threshold. Above 1, a node has drifted.';
const EXPORT = 'kanserve export CHECKPOINT --repository FOLDER --name NAME';

export async function show(root, { api, doing }) {
  doing('The server counts requests and drift per version.');
  const found = await versions(api);
  root.append(heading('Models'));
  if (!found.length) {
    root.append(empty('The repository has no models.', 'Export a checkpoint into it. The server loads the model without a restart.', EXPORT));
    return undefined;
  }
  const columns = [
    { name: 'Model', value: (row) => row.model, text: (row) => link(row, 'map', row.model) },
    { name: 'Version', value: (row) => Number(row.version), text: (row) => `v${row.version}` },
    { name: 'State', value: (row) => row.state.toLowerCase(), text: state },
    { name: 'Library', value: (row) => row.family ?? '' },
    { name: 'Shape', value: (row) => row.shape ?? '' },
    { name: 'Verified against', value: (row) => row.verification_basis ?? '', text: verified },
    { name: 'Requests', value: (row) => row.requests ?? NaN, text: traffic, number: true },
    { name: 'Drift ratio', value: (row) => row.drift ?? NaN, text: drift, number: true },
    { name: 'Open', value: () => '', text: views },
  ];
  if (found.some((row) => row.reason)) columns.push({ name: 'Reason', value: (row) => row.reason ?? '', wraps: true });
  root.append(tiles(found), tablePanel('Versions', columns, found, { caption: `${found.length} versions in the repository`, file: 'models', note: NOTE }));
  return undefined;
}

/** Lists the versions. A token that has only the role read gives names and states. */
async function versions(api) {
  try {
    return (await api.get('v1/kan/overview')).versions;
  } catch (error) {
    if (error.status !== 403) throw error;
    return (await api.post('v2/repository/index', {})).map(({ name, ...row }) => ({ ...row, model: name }));
  }
}

function tiles(found) {
  const ready = found.filter((row) => row.state === 'READY');
  const failed = found.length - ready.length;
  const drifted = ready.filter((row) => row.drift > 1 && row.requests);
  const rate = found.reduce((sum, row) => sum + (row.requests_per_second ?? 0), 0);
  const known = found.some((row) => row.requests !== undefined);
  const requests = found.reduce((sum, row) => sum + (row.requests ?? 0), 0);
  return el('div', { class: 'tiles' },
    tile(count(new Set(found.map((row) => row.model)).size), 'models'),
    tile(`${ready.length} of ${found.length}`, 'versions ready', failed ? 'bad' : 'good'),
    known && tile(count(requests), 'requests since start'),
    known && tile(`${number(rate, 3)}/s`, 'request rate'),
    known && tile(count(drifted.length), 'drifted versions', drifted.length ? 'bad' : ''));
}

function link({ model, version, state: now }, view, text, attributes = {}) {
  if (now !== 'READY') return text;
  return el('a', { href: `ui/${encodeURIComponent(model)}/${view}?version=${encodeURIComponent(version)}`, ...attributes }, text);
}

/** Links to the views of a version. */
function views(row) {
  if (row.state !== 'READY') return '';
  return el('span', { class: 'links' }, [['map', 'Network'], ['explain', 'Explain'], ['card', 'Model card']].map(([view, text]) =>
    link(row, view, text, { 'aria-label': `${text} of ${row.model} v${row.version}` })));
}

function state({ state: now, default: isDefault }) {
  return [el('span', { class: `badge ${now === 'READY' ? 'good' : 'bad'}` }, now.toLowerCase()),
    isDefault && [' ', el('span', { class: 'badge' }, 'default')]];
}

function verified(row) {
  const [words, kind] = BASES[row.verification_basis] ?? ['', ''];
  if (!words) return '';
  const error = Number.isFinite(row.error) ? ` (${number(row.error, 2)})` : '';
  return link(row, 'card', el('span', { class: `mark ${kind}` }, `${words}${error}`), { title: 'Largest relative output error' });
}

function traffic({ state: now, requests, requests_per_second: rate }) {
  if (requests === undefined || (now !== 'READY' && !requests)) return '';
  return `${count(requests)}${rate ? `, ${number(rate, 3)}/s` : ''}`;
}

/** The drift ratio: 1 is the no-drift threshold. */
function drift(row) {
  if (row.drift === undefined || row.state !== 'READY') return '';
  if (row.drift === null) return el('span', { class: 'quiet' }, 'no baseline');
  if (!row.requests) return el('span', { class: 'quiet' }, 'no traffic');
  return link(row, 'drift', number(row.drift, 2), { class: row.drift > 1 && 'moved', title: 'Drift ratio of the node that drifted most' });
}
