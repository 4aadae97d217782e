// Colours and cursor movements of a terminal.
const ESCAPES = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-Z\\-_])/g;
const CONTROLS = /[\u0000-\u0008\u000a-\u001f\u007f]/g;

/**
 * Lines of a log, as many as fit, and which of them a filter lets through.
 *
 * @typedef {object} Line
 * @property {string} text
 * @property {number} [number] its place in the log
 * @property {Date} [at]
 * @property {"stdout" | "stderr" | "mark"} [stream] a mark is a remark of the console
 */
export class LineBuffer {
  /** How many lines have been dropped at the beginning. */
  dropped = 0;
  /** The longest line, in columns of a terminal. */
  widest = 0;

  /** @type {Line[]} */
  #lines = [];
  /** @type {?number[]} places in `#lines`, counted with those that were dropped; null: all are shown */
  #matches = null;
  #filter = "";
  #limit;
  #gone = 0; // shown lines that were dropped since `takeGone`

  /** @param {number} limit lines that are kept at least; a tenth more are, before the oldest go together */
  constructor(limit = 100_000) {
    this.#limit = limit;
  }

  /** How many lines there are, and have been. */
  get total() {
    return this.dropped + this.#lines.length;
  }

  /** How many lines the filter lets through. */
  get shown() {
    return this.#matches?.length ?? this.#lines.length;
  }

  /** @returns {Line | undefined} the newest */
  get last() {
    return this.#lines.at(-1);
  }

  get filter() {
    return this.#filter;
  }

  /** @returns {Line} the i-th of those that are shown */
  line(i) {
    return this.#lines[this.#matches ? this.#matches[i] - this.dropped : i];
  }

  /** @param {Line} line */
  add(line) {
    line.text = readable(line.text);
    if (2 * line.text.length > this.widest) this.widest = Math.max(this.widest, columns(line.text));
    if (this.#matches && this.#lets(line)) this.#matches.push(this.total);
    this.#lines.push(line);
    if (this.#lines.length >= this.#limit + this.#limit / 10) this.#drop(this.#lines.length - this.#limit);
  }

  clear() {
    this.#lines = [];
    if (this.#matches) this.#matches = [];
    this.dropped = 0;
    this.widest = 0;
    this.#gone = 0;
  }

  /** @param {string} text lines that hold it are shown, in upper or lower case; empty: all */
  setFilter(text) {
    this.#filter = text.toLowerCase();
    this.#gone = 0;
    this.#matches = null;
    if (!this.#filter) return;
    this.#matches = [];
    this.#lines.forEach((line, i) => {
      if (this.#lets(line)) this.#matches.push(this.dropped + i);
    });
  }

  /** How many of the shown lines were dropped since the last call: the visible ones have moved up by as many. */
  takeGone() {
    const gone = this.#gone;
    this.#gone = 0;
    return gone;
  }

  #lets(line) {
    return line.stream === "mark" || line.text.toLowerCase().includes(this.#filter);
  }

  #drop(count) {
    this.#lines = this.#lines.slice(count);
    this.dropped += count;
    if (!this.#matches) {
      this.#gone += count;
      return;
    }
    const kept = this.#matches.findIndex((place) => place >= this.dropped);
    const gone = kept < 0 ? this.#matches.length : kept;
    this.#matches = this.#matches.slice(gone);
    this.#gone += gone;
  }
}

/** One readable line: without a terminal's colours, other control characters as symbols. */
const readable = (text) => text.replace(ESCAPES, "").replace(CONTROLS, symbol);

const symbol = (control) => (control === "\u007f" ? "␡" : String.fromCharCode(0x2400 + control.charCodeAt(0)));

/** How wide a text is, roughly: what lies beyond the alphabets (Korean, Chinese, …) takes two columns. */
function columns(text) {
  let wide = 0;
  for (let i = 0; i < text.length; i += 1) if (text.charCodeAt(i) >= 0x1100) wide += 1;
  return text.length + wide;
}
