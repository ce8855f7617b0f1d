// Conversion of a GetStatistics response into one record per node.

import { width } from './names.js';
import * as names from './names.js';

const OUTPUTS = -1;

/**
 * Returns a record per node: {key, layer, at, name, place, ratio, drift: {psi, threshold, outOfRange,
 * baselineOutOfRange}, moved, mean, std, min, max, zones, nonfinite, origin, bounds, counts, baselineCounts}. Without a
 * baseline, `drift` and `ratio` are null.
 */
export function lines(model, statistics) {
  return statistics.nodes.flatMap((part) => {
    const count = part.mean?.length ?? 0;
    let [bound, cell] = [0, 0];
    return Array.from({ length: count }, (_, at) => {
      const shared = part.bound_counts.length === 1;
      const size = part.bound_counts[shared ? 0 : at];
      const bounds = part.bounds.slice(shared ? 0 : bound, (shared ? 0 : bound) + size);
      const own = (list) => list?.slice(cell, cell + size + 1) ?? null;
      const [counts, baselineCounts] = [own(part.counts), own(part.baseline_counts)];
      bound += size;
      cell += size + 1;
      const drift = part.psi ? { psi: part.psi[at], threshold: part.psi_threshold[at], outOfRange: part.out_of_range[at], baselineOutOfRange: part.baseline_out_of_range[at] } : null;
      return {
        key: `${part.layer}/${at}`, layer: part.layer, at, name: called(model, part.layer, at), place: place(model, part.layer),
        ratio: drift ? drift.psi / Math.max(drift.threshold, 1e-12) : null, drift, moved: drift !== null && drift.psi > drift.threshold,
        mean: part.mean[at], std: part.std[at], min: part.min[at], max: part.max[at], zones: part.zones?.[at] ?? null,
        nonfinite: part.nonfinite?.[at] ?? 0, origin: part.origins[part.origins.length === 1 ? 0 : at], bounds, counts, baselineCounts,
      };
    });
  });
}

function called(model, layer, at) {
  if (layer === OUTPUTS) return names.output(model, at);
  if (layer === 0 && names.ofInputs(model) && at < width(model.input)) return names.feature(model, at);
  return `node ${at}`;
}

function place(model, layer) {
  if (layer === OUTPUTS) return 'outputs';
  return layer === 0 && names.ofInputs(model) ? 'inputs' : `layer ${layer}`;
}
