// Comparison of the row of the explain page with a kept row: inputs and edges that explain the difference of an output.

import { flow } from './charts/path.js';
import { signed, waterfall } from './charts/waterfall.js';
import { el, room } from './dom.js';
import { paths, story } from './explanation.js';
import { number } from './format.js';
import * as names from './names.js';
import { table } from './table.js';

/** Resolves to both explanations: the kept row by the usual reference, and the row with the kept one as its reference. */
export async function compareRows({ api, kan, model }, { row, against, reference, output }, path_top_k, signal) {
  const [now, kept] = [row, against].map((each) => [names.shaped(each, model.input.shape)]);
  const post = (body) => api.post(`${kan}/explain`, { outputs: [output], ...body }, { signal });
  const [apart, before] = await Promise.all([post({ rows: now, reference_rows: kept, path_top_k }), post({ rows: kept, reference })]);
  return { apart, before };
}

/** The content of the panel. response: that of the explain page, with `compared` of `compareRows`; place: the panel's node. */
export function comparison({ model, link, name }, { explained, compared: { apart, before }, state }, place) {
  const told = story(model, { explained: apart, state });
  const [kept, now] = [apart.base[0], apart.predictions[0][0]];
  const [one, two] = told.all.filter((input) => input.value !== 0);
  const words = one ? `${one.name} explains ${signed(one.value)} of the difference${two ? `, and ${two.name} ${signed(two.value)}` : ''}.` : 'No input explains a difference. Change the row.';
  const steps = told.others.length ? [...told.first, { name: `${told.others.length} other inputs`, value: told.rest, rest: true }] : told.first;
  const title = `From ${number(kept)} of the kept row to ${number(now)} of this row`;
  const path = paths(model, apart, state);
  const width = room(place, 700);
  return [
    el('p', { class: 'story' }, `${told.name} is ${number(now)} for this row, and ${number(kept)} for the kept row: ${signed(now - kept)}. ${words}`),
    waterfall({ base: kept, prediction: now, steps, width, title, names: { base: 'kept row', prediction: 'this row' } }),
    ...(path.edges.length ? [el('h3', {}, 'Edges that explain the difference'), flow({ ...path, width, title: 'Edges that explain the difference of the rows' })] : []),
    table([
      { name: 'Input', value: (input) => input.name },
      { name: 'Part of difference', value: (input) => input.value, text: (input) => signed(input.value), number: true },
      { name: 'Kept row', value: (input) => state.against[input.at], text: (input) => number(state.against[input.at], 5), number: true },
      { name: 'This row', value: (input) => state.row[input.at], text: (input) => number(state.row[input.at], 5), number: true },
      { name: 'Contribution, kept', value: (input) => before.contributions[0][input.at][0], text: (input) => signed(before.contributions[0][input.at][0]), number: true },
      { name: 'Contribution, this', value: (input) => explained.contributions[0][input.at][0], text: (input) => signed(explained.contributions[0][input.at][0]), number: true },
    ], told.all, { caption: 'Inputs of both rows', file: `${name}-rows` }),
    ...(path.edges.length ? [table([
      { name: 'Edge', value: (edge) => edge.name, text: (edge) => el('a', { href: link('edge', edge.layer, edge.source, edge.destination) }, edge.name) },
      { name: 'Part of difference', value: (edge) => edge.value, text: (edge) => signed(edge.value), number: true },
      { name: 'Layer', value: (edge) => edge.layer, number: true },
    ], path.edges, { caption: 'Edges of the difference', file: `${name}-row-edges` })] : []),
  ];
}
