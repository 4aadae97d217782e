import { element } from "../dom.js";
import { clock } from "../format.js";

const KEPT = 500;
// Nearer to the end than this counts as being there.
const END_PX = 48;
const HIDDEN_FLUSH_MS = 250;

/**
 * Messages, newest at the end.
 *
 * Entries are made and added once a frame, and only those that will be kept: a burst of thousands
 * costs no more than the last few hundred.
 */
export class Feed {
  /** @type {(shown: number, forgotten: number) => void} called after entries were added */
  onAdded = () => {};

  /** @type {Array<() => HTMLElement>} what the next frame adds */
  #queue = [];
  #scheduled = false;
  #atEnd = true;
  #unseen = 0;
  #forgotten = 0;
  #log;
  #jump;

  /**
   * @param {HTMLElement} log what scrolls
   * @param {HTMLButtonElement} jump to the newest
   */
  constructor(log, jump) {
    this.#log = log;
    this.#jump = jump;
    log.addEventListener("scroll", () => {
      this.#atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < END_PX;
      if (this.#atEnd) this.#unseen = 0;
      this.#showJump();
    });
    // The keyboard of a phone, a growing text field, a turned device, another view that was in front: the end stays
    // in view.
    new ResizeObserver(() => {
      if (this.#atEnd) this.#scroll();
    }).observe(log);
    jump.addEventListener("click", () => this.toEnd());
  }

  /** @param {() => HTMLElement} make called when the entry is to be shown, if it still is by then */
  add(make) {
    this.#queue.push(make);
    if (this.#queue.length > KEPT) {
      this.#queue.shift();
      this.#forgotten += 1;
    }
    if (this.#scheduled) return;
    this.#scheduled = true;
    // A hidden page gets no animation frames.
    if (document.hidden) setTimeout(() => this.#flush(), HIDDEN_FLUSH_MS);
    else requestAnimationFrame(() => this.#flush());
  }

  /**
   * A remark between the messages.
   *
   * @param {"plain" | "error"} kind
   * @param {...(Node | string)} words
   */
  addNote(kind, ...words) {
    const at = new Date();
    this.add(() => element("p", { class: "note", "data-kind": kind }, time(at), " ", ...words));
  }

  /** Shows the newest, and follows it from now on. */
  toEnd() {
    this.#atEnd = true;
    this.#scroll();
  }

  /** An entry has grown. */
  settle() {
    if (this.#atEnd) this.#scroll();
  }

  #flush() {
    this.#scheduled = false;
    const added = this.#queue.map((make) => make());
    this.#queue = [];
    this.#log.append(...added);
    while (this.#log.childElementCount > KEPT) {
      this.#log.firstElementChild.remove();
      this.#forgotten += 1;
    }
    if (this.#atEnd) {
      this.#scroll();
    } else {
      this.#unseen += added.length;
      this.#showJump();
    }
    this.onAdded(this.#log.childElementCount, this.#forgotten);
  }

  #scroll() {
    this.#log.scrollTop = this.#log.scrollHeight;
  }

  #showJump() {
    this.#jump.hidden = this.#atEnd;
    this.#jump.textContent = this.#unseen ? `↓ ${this.#unseen} new` : "↓ Newest";
  }
}

/** What the figure beside a message is. */
export const LATENCY = "From sending to arrival, by the clocks of both machines";

export function time(date) {
  return element("time", { datetime: Number.isNaN(date.getTime()) ? null : date.toISOString() }, clock(date));
}

export const part = (...children) => element("span", {}, ...children);

export const head = (who, date) => element("header", {}, who, time(date));

export function body(data) {
  if (typeof data === "string") return element("p", { class: "data", dir: "auto" }, data);
  return element("pre", { class: "data mono", dir: "ltr" }, JSON.stringify(data, null, 2));
}
