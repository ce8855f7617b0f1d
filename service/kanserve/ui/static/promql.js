// Prometheus queries for the drift and operations pages, and the list to copy them from.

import { button, el } from './dom.js';

function quoted(text) {
  return JSON.stringify(String(text));
}

/** Expressions for a model's drift; version '': of all its versions. */
export function ofDrift(model, version) {
  const own = `model=${quoted(model)}${version ? `, version=${quoted(version)}` : ''}`;
  return [
    ['Largest PSI of a node per layer, relative to the no-drift threshold',
      `max by (layer) (kanserve_drift_psi_ratio{${own}})`],
    ['Share of out-of-range values, minus the share in the baseline',
      `max by (layer) (kanserve_out_of_range_ratio{${own}} - kanserve_baseline_out_of_range_ratio{${own}})`],
    ['Rows analysed per second', `sum(rate(kanserve_statistics_sampled_rows_total{${own}}[5m]))`],
  ];
}

/** Expressions for how the server does. */
export function ofOperations() {
  return [
    ['Requests a second', 'sum by (model, version) (rate(nv_inference_request_success[5m]))'],
    ['99th percentile of a request',
      'histogram_quantile(0.99, sum by (le, model, version) (rate(kanserve_request_duration_seconds_bucket[5m])))'],
    ['Share of a request that is waiting',
      'sum by (model) (rate(nv_inference_queue_duration_us[5m])) / sum by (model) (rate(nv_inference_request_duration_us[5m]))'],
    ['Failures a second', 'sum by (model, reason) (rate(nv_inference_request_failure[5m]))'],
  ];
}

/** The expressions, each to be copied. */
export function queries(list, announce) {
  return el('details', {}, el('summary', {}, 'In Prometheus\u2019 terms'), list.map(([what, text]) => {
    const copy = button('Copy', async () => {
      try {
        await navigator.clipboard.writeText(text);
        announce('The expression is copied.');
        copy.textContent = 'Copied';
      } catch { // only pages of this machine, or over TLS, may
        getSelection().selectAllChildren(code);
        announce('The expression is selected, to be copied with the keyboard.');
      }
    });
    const code = el('code', { class: 'query' }, text);
    return el('div', {}, el('p', {}, what), code, copy);
  }));
}
