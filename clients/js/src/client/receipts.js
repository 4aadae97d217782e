/** @import { Environment } from "./environment.js" */

// One frame in so long, however many messages come.
const INTERVAL_MS = 1_000;

/** Gathers the newest position of each channel that the page has taken, and says it at most once a second. */
export class ReceiptSender {
  #env;
  #say;
  /** @type {Map<string, string>} the cursor of each channel */
  #due = new Map();
  /** @type {any} */
  #timer = null;

  /**
   * @param {Pick<Environment, "setTimeout" | "clearTimeout">} env
   * @param {(due: Map<string, string>) => boolean} say gets the cursors by channel; returns whether it could say them.
   *   Otherwise they are said later
   */
  constructor(env, say) {
    this.#env = env;
    this.#say = say;
  }

  /**
   * @param {string} channel
   * @param {string} cursor of a message that the page has taken
   */
  taken(channel, cursor) {
    this.#due.set(channel, cursor);
    this.#arm();
  }

  /** Says what is due now: the page may end, or the client. */
  flush() {
    if (this.#timer !== null && this.#say(this.#due)) this.stop();
  }

  /** Forgets what is due. */
  stop() {
    this.#env.clearTimeout(this.#timer);
    this.#timer = null;
    this.#due.clear();
  }

  #arm() {
    this.#timer ??= this.#env.setTimeout(() => this.#onDue(), INTERVAL_MS);
  }

  #onDue() {
    this.#timer = null;
    if (this.#say(this.#due)) this.#due.clear();
    else this.#arm();
  }
}
