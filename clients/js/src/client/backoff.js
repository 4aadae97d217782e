/**
 * Exponential back-off with full jitter: each delay is drawn from 0 to a ceiling that doubles.
 *
 * Full jitter, because the clients of a replica that died all start at the same moment; a fixed
 * part in the delay would bring them back as one wave.
 */
export class Backoff {
  #attempt = 0;
  #random;
  #baseMs;
  #capMs;

  /**
   * @param {() => number} random in [0, 1), as Math.random
   * @param {number} baseMs the first ceiling
   * @param {number} capMs the last ceiling
   */
  constructor(random, baseMs = 300, capMs = 20_000) {
    this.#random = random;
    this.#baseMs = baseMs;
    this.#capMs = capMs;
  }

  /** @returns {number} how many milliseconds to wait before the next attempt */
  next() {
    const ceilingMs = Math.min(this.#capMs, this.#baseMs * 2 ** this.#attempt);
    this.#attempt += 1;
    return this.#random() * ceilingMs;
  }

  reset() {
    this.#attempt = 0;
  }
}
