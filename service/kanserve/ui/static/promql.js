// Prometheus queries for the drift and operations pages, and the list to copy them from.

import { button, el } from './dom.js';

function quoted(text) {
  return JSON.stringify(String(text));
}

/** Queries for the drift of a model. An empty version selects all versions. */
export function ofDrift(model, version) {
  const own = `model=${quoted(model)}${version ? `, version=${quoted(version)}` : ''}`;
  return [
    ['Drift ratio: largest PSI of a node per layer, divided by the no-drift threshold',
      `max by (layer) (kanserve_drift_psi_ratio{${own}})`],
    ['Share of out-of-range values, minus the share in the baseline',
      `max by (layer) (kanserve_out_of_range_ratio{${own}} - kanserve_baseline_out_of_range_ratio{${own}})`],
    ['Rows analyzed per second', `sum(rate(kanserve_statistics_sampled_rows_total{${own}}[5m]))`],
  ];
}

/** Queries for the operation of the server. */
export function ofOperations() {
  return [
    ['Requests per second', 'sum by (model, version) (rate(nv_inference_request_success[5m]))'],
    ['Request duration, 99th percentile',
      'histogram_quantile(0.99, sum by (le, model, version) (rate(kanserve_request_duration_seconds_bucket[5m])))'],
    ['Share of the request duration in the queue',
      'sum by (model) (rate(nv_inference_queue_duration_us[5m])) / sum by (model) (rate(nv_inference_request_duration_us[5m]))'],
    ['Failures per second', 'sum by (model, reason) (rate(nv_inference_request_failure[5m]))'],
  ];
}

/** Lists the queries, each with a button that copies it. */
export function queries(list, announce) {
  return el('details', { class: 'panel' }, el('summary', {}, 'Prometheus queries'), list.map(([name, text]) => {
    const copy = button('Copy', async () => {
      try {
        await navigator.clipboard.writeText(text);
        announce('Query copied.');
        copy.textContent = 'Copied';
      } catch { // browsers allow this only on loopback and over TLS
        getSelection().selectAllChildren(code);
        announce('Query selected. Copy it with the keyboard.');
      }
    }, { 'aria-label': `Copy: ${name}` });
    const code = el('code', { class: 'query' }, text);
    return el('div', {}, el('p', { class: 'row' }, name, copy), code);
  }));
}
