// Text format of numbers, counts, percentages, durations and times.

/** Formats a number with `digits` significant digits, without trailing zeros; NaN and the infinities by name. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return '';
  const result = Number(value);
  if (Number.isNaN(result)) return 'NaN';
  if (!Number.isFinite(result)) return result > 0 ? 'infinity' : '-infinity';
  if (result === 0) return '0';
  const size = Math.abs(result);
  if (size < 1e-4 || size >= 10 ** Math.max(6, digits)) return result.toExponential(Math.min(2, digits - 1));
  return String(Number(result.toPrecision(digits)));
}

/** The count of significant digits that distinguish values from `low` to `high` as `least` digits distinguish those from 0. */
export function digits(low, high, least = 4) {
  const more = Math.log10(Math.max(Math.abs(low), Math.abs(high)) / (high - low));
  return least + (Number.isFinite(more) ? Math.min(12, Math.max(0, Math.ceil(more))) : 0);
}

/** Formats an integer, with spaces between thousands. */
export function count(value) {
  return String(Math.round(Number(value))).replace(/\B(?=(\d{3})+$)/g, '\u202f');
}

/** Formats 0.1234 as "12.3%". */
export function share(value) {
  if (!Number.isFinite(value)) return 'unknown';
  const percent = 100 * value;
  if (percent > 0 && percent < 0.05) return '< 0.1%';
  return `${Number(percent.toFixed(1))}%`;
}

/** Formats seconds as µs, ms, s, min, h or days. */
export function seconds(value) {
  if (!Number.isFinite(value)) return 'unknown';
  if (value === 0) return '0\u00a0s';
  if (value < 1e-3) return `${number(value * 1e6, 3)}\u00a0\u00b5s`;
  if (value < 1) return `${number(value * 1e3, 3)}\u00a0ms`;
  if (value < 120) return `${number(value, 3)}\u00a0s`;
  if (value < 7200) return `${Math.round(value / 60)}\u00a0min`;
  if (value < 172800) return `${number(value / 3600, 3)}\u00a0h`;
  return `${number(value / 86400, 3)}\u00a0days`;
}

/** Formats seconds since the epoch as a local date and time. */
export function moment(value) {
  return new Date(value * 1000).toLocaleString();
}

export function shortened(text, most) {
  return text.length <= most ? text : `${text.slice(0, most - 1)}\u2026`;
}
