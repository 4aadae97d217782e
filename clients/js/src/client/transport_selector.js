// What has worked before is not given up for one failure: a replica may just have been restarted.
const PATIENCE = 3;
const CLIMB_FIRST_MS = 5_000;
const CLIMB_CAP_MS = 120_000;

/**
 * The transports from best to worst, and which of them is to be tried.
 *
 * A transport that cannot be established gives way to the next. After the last, it begins with the first again.
 */
export class Ladder {
  #rungs;
  #random;
  #rung = 0;
  #failures = 0;
  #worked = new Set();
  #climbs = 0;

  /**
   * @param {string[]} rungs
   * @param {() => number} random in [0, 1)
   */
  constructor(rungs, random) {
    this.#rungs = rungs;
    this.#random = random;
  }

  /** What to try now. */
  get rung() {
    return this.#rungs[this.#rung];
  }

  has(transport) {
    return this.#rungs.includes(transport);
  }

  /** There is something better than what is in use. */
  get canClimb() {
    return this.#rung > 0;
  }

  /** A connection is there. */
  held(transport) {
    const rung = this.#rungs.indexOf(transport);
    if (rung !== this.#rung) this.#climbs = 0;
    this.#rung = rung;
    this.#failures = 0;
    this.#worked.add(transport);
  }

  /**
   * No connection came of it.
   *
   * @returns {boolean} whether to try the next at once; else it is time to wait
   */
  failed(transport) {
    if (transport !== this.rung) return false;
    this.#failures += 1;
    if (this.#worked.has(transport) && this.#failures < PATIENCE) return false;
    this.#failures = 0;
    this.#worked.delete(transport);
    this.#rung = (this.#rung + 1) % this.#rungs.length;
    return this.#rung !== 0;
  }

  /** Those above take turns. */
  nextClimb() {
    this.#climbs += 1;
    return this.#rungs[(this.#climbs - 1) % this.#rung];
  }

  /** How long to stay before the next attempt to get higher. */
  get climbInMs() {
    const ceilingMs = Math.min(CLIMB_CAP_MS, CLIMB_FIRST_MS * 2 ** this.#climbs);
    return (0.5 + this.#random() / 2) * ceilingMs;
  }
}
