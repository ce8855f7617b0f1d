// Model card page: identity, provenance and verification of a version, from the report that the server makes.

import { button, csv, download, el, facts, table } from '../dom.js';
import { count, number } from '../format.js';

export async function show(root, ctx) {
  const { api, kan, model } = ctx;
  const edges = model.layers.reduce((sum, layer) => sum + layer.active_edges, 0);
  ctx.doing(`The server makes the report of ${model.model_name}: what its ${count(edges)} edges matter, the curves of the strongest, `
    + 'the picture of the network. It is kept, so that the next viewer has it at once.');
  const card = await api.get(`${kan}/report`);
  const file = `${model.model_name}-${model.model_version}`;
  const save = button('Save all of it as one file', async () => {
    save.disabled = true;
    try {
      download(`${file}.html`, await api.text(`${kan}/report`, { accept: 'text/html' }), 'text/html');
      ctx.announce('The report is saved.');
    } catch (error) {
      said.textContent = error.message;
    } finally {
      save.disabled = false;
    }
  });
  const said = el('p', { class: 'alarm', role: 'alert' });
  root.append(
    el('h1', {}, card.title), el('p', { class: 'story' }, card.lead), ...verdict(model),
    el('p', { class: 'row' }, save, el('span', { class: 'quiet' }, 'As ', el('code', {}, `kanserve report ${model.model_name}`), ' writes it.')), said,
    ...card.parts.map((part) => el('section', {}, el('h2', {}, part.heading), part.remark && el('p', { class: 'quiet' }, part.remark), body(part, file))),
    el('p', { class: 'quiet' }, card.footer));
  return undefined;
}

/** How far the graph is to be trusted, in one line. */
function verdict({ verification }) {
  const proved = verification?.basis && verification.basis !== 'reading';
  return [el('p', { class: `verdict ${proved ? 'good' : 'fair'}` }, `${capital(verification?.claim || 'Nothing is known of its verification')}.`)];
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function body(part, file) {
  if (part.kind === 'facts') return facts(part.lines.map(([name, text]) => [name, part.heading === 'Formula' ? el('code', { class: 'query' }, text) : text]));
  if (part.kind === 'grid') {
    return table(part.head.map((name, at) => ({ name, value: (line) => line[at], number: at > 0 && at < part.head.length - 1 })),
      part.lines, { caption: part.heading, file: `${file}-${slug(part.heading)}` });
  }
  if (part.kind === 'bars') return bars(part, file);
  return el('div', { class: part.pictures.length > 1 ? 'card-pictures' : 'card-picture' }, part.pictures.map((one, at) => picture(one, `${file}-${slug(part.heading)}-${at + 1}`)));
}

function slug(text) {
  return text.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-');
}

function bars(part, file) {
  const largest = Math.max(...part.lines.map(([, value]) => value), 1e-300);
  return el('div', {},
    el('table', {}, el('caption', {}, part.heading), el('tbody', {}, part.lines.map(([name, value]) => el('tr', {},
      el('th', { scope: 'row' }, name), el('td', { class: 'number' }, number(value, 4)),
      el('td', {}, el('meter', { min: 0, max: largest, value, 'aria-label': `${name}: ${number(value, 4)}` })))))),
    el('p', { class: 'row' }, button('Save as CSV', () => download(`${file}-${slug(part.heading)}.csv`, csv([['name', 'value'], ...part.lines]), 'text/csv'))));
}

/** A picture of the server's, on white as in the file. */
function picture({ title, svg }, file) {
  const image = el('img', { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`, alt: title });
  return el('figure', {}, image, el('figcaption', { class: 'row' },
    button('Save as SVG', () => download(`${file}.svg`, svg, 'image/svg+xml'), { 'aria-label': `Save as SVG: ${title}` }),
    button('Save as PNG', async () => download(`${file}.png`, await raster(image)), { 'aria-label': `Save as PNG: ${title}` })));
}

function raster(image, scale = 2) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth * scale, image.naturalHeight * scale];
  canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => { canvas.toBlob(resolve, 'image/png'); });
}
