// All models of the server.

import { el, table } from '../dom.js';

export async function show(root, { api }) {
  const found = await api.post('v2/repository/index', {});
  root.append(el('h1', {}, 'Models'));
  if (!found.length) {
    root.append(el('p', {}, 'The repository has no models. ', el('code', {}, 'kanserve export CHECKPOINT --repository FOLDER'), ' writes one.'));
    return undefined;
  }
  const link = ({ name, version, state }) => (state === 'READY'
    ? el('a', { href: `ui/${encodeURIComponent(name)}/map?version=${encodeURIComponent(version)}` }, name) : name);
  root.append(table([
    { name: 'Model', value: (row) => row.name, text: link },
    { name: 'Version', value: (row) => Number(row.version), number: true },
    { name: 'State', value: (row) => row.state.toLowerCase() },
    { name: 'Why', value: (row) => row.reason ?? '' },
  ], found, { caption: `${found.length} versions in the repository`, file: 'models' }));
  return undefined;
}
