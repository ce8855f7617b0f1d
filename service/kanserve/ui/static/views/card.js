// Model card page: identity, provenance and verification of a version, from the report that the server makes.

import { button, csv, download, el, facts, heading, panel, saver } from '../dom.js';
import { count, number } from '../format.js';
import { tablePanel } from '../table.js';

export async function show(root, ctx) {
  const { api, kan, model } = ctx;
  const edges = model.layers.reduce((sum, layer) => sum + layer.active_edges, 0);
  ctx.doing(`The server writes the report of ${model.model_name}: importance of its ${count(edges)} edges, curves of the strongest, `
    + 'network view. It keeps the report for the next request.');
  const card = await api.get(`${kan}/report`);
  const file = `${model.model_name}-${model.model_version}`;
  const trouble = el('p', { class: 'alarm', role: 'alert' });
  const save = button('Save as HTML', async () => {
    save.disabled = true;
    try {
      download(`${file}.html`, await api.text(`${kan}/report`, { accept: 'text/html' }), 'text/html');
      ctx.announce('Report saved.');
    } catch (error) {
      trouble.textContent = error.message;
    } finally {
      save.disabled = false;
    }
  }, { class: 'primary' });
  root.append(
    heading(card.title, card.lead), verdict(model),
    el('p', { class: 'row' }, save, el('span', { class: 'quiet' }, 'The same file as that of ', el('code', {}, `kanserve report ${model.model_name}`))), trouble,
    el('div', { class: 'masonry' }, card.parts.filter((part) => !wide(part)).map((part) => partPanel(part, file))),
    ...card.parts.filter(wide).map((part) => partPanel(part, file)),
    el('p', { class: 'quiet' }, card.footer));
  return undefined;
}

/** Shows the claim of the verification in one line. */
function verdict({ verification }) {
  const compared = ['expected-outputs', 'module'].includes(verification?.basis);
  const claim = verification?.claim || 'not verified';
  return el('p', { class: `verdict ${compared ? 'good' : 'fair'}` }, `${claim.charAt(0).toUpperCase()}${claim.slice(1)}.`);
}

/** Whether a part has the whole width: pictures of many edges. */
function wide(part) {
  return part.kind === 'pictures' && part.pictures.length > 1;
}

/** Frames a part of the report. */
function partPanel(part, file) {
  const name = `${file}-${slug(part.heading)}`;
  if (part.kind === 'facts') {
    const lines = part.lines.map(([label, text]) => [label, part.heading === 'Formula' ? el('code', { class: 'query' }, text) : text]);
    return panel(part.heading, { note: part.remark }, facts(lines));
  }
  if (part.kind === 'grid') {
    const columns = part.head.map((head, at) => ({ name: head, value: (line) => line[at], number: at > 0 && part.lines.every((line) => numeric(line[at])) }));
    return tablePanel(part.heading, columns, part.lines, { caption: part.heading, file: name, note: part.remark });
  }
  if (part.kind === 'bars') return bars(part, name);
  const many = part.pictures.length > 1;
  return panel(part.heading, { note: part.remark },
    el('div', { class: many ? 'card-pictures' : 'card-picture' }, part.pictures.map((each, at) => picture(each, `${name}-${at + 1}`))));
}

/** Whether a cell has a number, or stands for a number that is missing. */
function numeric(text) {
  return text === '-' || (text !== '' && Number.isFinite(Number(text)));
}

function slug(text) {
  return text.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-');
}

function bars(part, file) {
  const largest = Math.max(...part.lines.map(([, value]) => value), 1e-300);
  const rows = part.lines.map(([name, value]) => el('tr', {},
    el('th', { scope: 'row' }, name), el('td', { class: 'number' }, number(value, 4)),
    el('td', {}, el('meter', { min: 0, max: largest, value, 'aria-label': `${name}: ${number(value, 4)}` }))));
  const save = saver('CSV', () => download(`${file}.csv`, csv([['name', 'value'], ...part.lines]), 'text/csv'));
  return panel(part.heading, { note: part.remark, tools: save },
    el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': part.heading },
      el('table', {}, el('caption', { class: 'hidden' }, part.heading), el('tbody', {}, rows))));
}

/** Shows a picture of the server, on white as in the file. */
function picture({ title, svg }, file) {
  const image = el('img', { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`, alt: title });
  const save = (kind, onclick) => button(kind, onclick, { 'aria-label': `Save as ${kind}: ${title}`, title: `Save as ${kind}` });
  return el('figure', {}, image, el('figcaption', { class: 'tools' },
    save('SVG', () => download(`${file}.svg`, svg, 'image/svg+xml')),
    save('PNG', async () => download(`${file}.png`, await raster(image)))));
}

function raster(image, scale = 2) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth * scale, image.naturalHeight * scale];
  canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => { canvas.toBlob(resolve, 'image/png'); });
}
