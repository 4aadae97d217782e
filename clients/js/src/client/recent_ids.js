/** The last ids seen, so that a message on two connections is shown once. */
export class RecentIds {
  // A Set iterates in the order of insertion: its first value is the oldest.
  /** @type {Set<string>} */
  #ids = new Set();
  #limit;

  /** @param {number} limit how many are remembered */
  constructor(limit = 1000) {
    this.#limit = limit;
  }

  /**
   * @param {string} id
   * @returns {boolean} whether it is new
   */
  add(id) {
    if (this.#ids.has(id)) return false;
    this.#ids.add(id);
    if (this.#ids.size > this.#limit) {
      const [oldest] = this.#ids;
      this.#ids.delete(oldest);
    }
    return true;
  }
}
