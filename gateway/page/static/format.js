/** Amounts as people read them. */

const BYTE_UNITS = ["B", "kB", "MB", "GB", "TB"];

function short(number) {
  return Number(number.toPrecision(3)).toString();
}

export function formatBytes(number) {
  let unit = 0;
  while (number >= 1000 && unit < BYTE_UNITS.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${short(number)} ${BYTE_UNITS[unit]}`;
}

export function formatSeconds(seconds) {
  if (seconds >= 1) return `${short(seconds)} s`;
  if (seconds >= 1e-3) return `${short(seconds * 1e3)} ms`;
  return `${Math.round(seconds * 1e6)} µs`;
}

export function formatShare(share) {
  return `${Math.round(share * 100)}%`;
}

export function formatCount(number) {
  return number >= 10_000 ? `${short(number / 1000)}k` : `${Math.round(number)}`;
}

/** A dash for what is not known. */
export function orDash(value, format) {
  return value === null || value === undefined ? "–" : format(value);
}
