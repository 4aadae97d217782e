/** Time that passes only when `pass` says so: the clock and the timers of an `Environment`. */
export class ManualTime {
  #now = 0;
  #last = 0;
  /** @type {Map<number, {callback: () => void, at: number}>} */
  #timers = new Map();

  now = () => this.#now;

  /** @type {(callback: () => void, ms: number) => number} */
  setTimeout = (callback, ms) => {
    this.#last += 1;
    this.#timers.set(this.#last, { callback, at: this.#now + ms });
    return this.#last;
  };

  /** @type {(timer: number) => void} */
  clearTimeout = (timer) => {
    this.#timers.delete(timer);
  };

  random = () => 0.5;

  /** How many timers are set. */
  get pending() {
    return this.#timers.size;
  }

  /** @param {number} ms */
  pass(ms) {
    const end = this.#now + ms;
    for (;;) {
      const [due] = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at);
      if (!due) break;
      this.#timers.delete(due[0]);
      this.#now = due[1].at;
      due[1].callback();
    }
    this.#now = end;
  }
}

/** Lets promises settle. */
export const settled = () => new Promise((resolve) => setImmediate(resolve));
