const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});

/** @param {Date} date */
export const clock = (date) => (Number.isNaN(date.getTime()) ? "–" : CLOCK.format(date));

/**
 * A latency or a round trip. Two machines' clocks differ, so that a latency may come out negative;
 * all that can be said then is that it was short.
 *
 * @param {number} ms
 */
export function milliseconds(ms) {
  if (Number.isNaN(ms)) return "–";
  if (ms < 1) return "<1 ms";
  if (ms < 10) return `${ms.toFixed(1).replace(".0", "")} ms`;
  if (ms < 10_000) return `${Math.round(ms)} ms`;
  return duration(ms);
}

/**
 * The same for a scale, in as few characters as possible: `0`, `250 ms`, `1.5 s`, `20 s`, `2.5 min`.
 *
 * @param {number} ms
 */
export function span(ms) {
  if (ms === 0) return "0";
  if (ms < 1000) return `${short(ms)} ms`;
  return ms < 100_000 ? `${short(ms / 1000)} s` : `${short(ms / 60_000)} min`;
}

const short = (value) => (value < 10 ? Number(value.toFixed(1)) : Math.round(value));

/**
 * The two largest units: `14 s`, `3 m 20 s`, `2 h 5 m`, `4 d 1 h`.
 *
 * @param {number} ms
 */
export function duration(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  const [m, h, d] = [Math.floor(s / 60), Math.floor(s / 3600), Math.floor(s / 86_400)];
  if (d) return `${d} d ${h % 24} h`;
  if (h) return `${h} h ${m % 60} m`;
  if (m) return `${m} m ${s % 60} s`;
  return `${s} s`;
}

/**
 * @param {number} count
 * @param {string} noun in the singular; an `s` makes it plural
 */
export const counted = (count, noun) => `${count.toLocaleString()} ${noun}${count === 1 ? "" : "s"}`;

/**
 * An amount of memory: `0 B`, `1.5 KiB`, `20 MiB`.
 *
 * @param {number} count
 */
export function bytes(count) {
  let [value, unit] = [count, 0];
  while (value >= 1024 && unit < UNITS.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${short(value).toLocaleString()} ${UNITS[unit]}`;
}

const UNITS = ["B", "KiB", "MiB", "GiB"];

const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** A date with its time. @param {Date} date */
export const moment = (date) => (Number.isNaN(date.getTime()) ? "–" : MOMENT.format(date));
