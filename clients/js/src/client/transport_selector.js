// A transport that has worked before is not given up for one failure: a replica may just have been restarted.
const MAX_FAILURES = 3;
const FIRST_UPGRADE_MS = 5_000;
const MAX_UPGRADE_MS = 120_000;

/**
 * Chooses the transport to try, from the best to the worst.
 *
 * A transport that cannot be established gives way to the next one. After the last, the first is tried again.
 *
 * @template {string} T
 */
export class TransportSelector {
  #transports;
  #random;
  #index = 0;
  #failures = 0;
  /** @type {Set<T>} */
  #worked = new Set();
  #upgrades = 0;

  /**
   * @param {T[]} transports best first; at least one
   * @param {() => number} random in [0, 1)
   */
  constructor(transports, random) {
    this.#transports = transports;
    this.#random = random;
  }

  /** The transport to try now. */
  get current() {
    return this.#transports[this.#index];
  }

  /** @param {T} transport */
  has(transport) {
    return this.#transports.includes(transport);
  }

  /** Whether there is a better transport than the current one. */
  get canUpgrade() {
    return this.#index > 0;
  }

  /**
   * A connection was established.
   *
   * @param {T} transport
   */
  connected(transport) {
    const index = this.#transports.indexOf(transport);
    if (index !== this.#index) this.#upgrades = 0;
    this.#index = index;
    this.#failures = 0;
    this.#worked.add(transport);
  }

  /**
   * A connection could not be established.
   *
   * @param {T} transport
   * @returns {boolean} whether to try the (new) current transport at once; otherwise wait first
   */
  failed(transport) {
    if (transport !== this.current) return false;
    this.#failures += 1;
    if (this.#worked.has(transport) && this.#failures < MAX_FAILURES) return false;
    this.#failures = 0;
    this.#worked.delete(transport);
    this.#index = (this.#index + 1) % this.#transports.length;
    return this.#index !== 0;
  }

  /**
   * Only where `canUpgrade`: the better transports take turns.
   *
   * @returns {T} the better transport to try beside the current one
   */
  upgrade() {
    this.#upgrades += 1;
    return this.#transports[(this.#upgrades - 1) % this.#index];
  }

  /** How long to wait before the next `upgrade`, in milliseconds. */
  get upgradeInMs() {
    const ceilingMs = Math.min(MAX_UPGRADE_MS, FIRST_UPGRADE_MS * 2 ** this.#upgrades);
    return (0.5 + this.#random() / 2) * ceilingMs;
  }
}
