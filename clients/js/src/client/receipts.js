/** @import { Environment } from "./environment.js" */

// At most one frame or request in so long, however many messages come.
const INTERVAL_MS = 1_000;

/**
 * What became of a receipt: the server has noted it; it never will; or it is to be said again.
 *
 * @typedef {"noted" | "refused" | "later"} Said
 */

/**
 * Gathers the newest position of each channel that the page has taken, and says it at most once a second, until the
 * server has noted it.
 */
export class ReceiptSender {
  #env;
  #say;
  /** @type {Map<string, string>} the cursor of each channel */
  #due = new Map();
  #isSaying = false;
  #life = 0; // which one of its lives, that `stop` ends
  /** @type {any} */
  #timer = null;

  /**
   * @param {Pick<Environment, "setTimeout" | "clearTimeout">} env
   * @param {(due: Map<string, string>) => Promise<Said>} say gets the cursors by channel
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
    if (this.#timer === null) return;
    this.#disarm();
    this.#sayAll();
  }

  /** Forgets what is due. */
  stop() {
    this.#disarm();
    this.#due.clear();
    this.#isSaying = false;
    this.#life += 1;
  }

  #arm() {
    this.#timer ??= this.#env.setTimeout(() => {
      this.#timer = null;
      if (this.#isSaying) this.#arm();
      else this.#sayAll();
    }, INTERVAL_MS);
  }

  #disarm() {
    this.#env.clearTimeout(this.#timer);
    this.#timer = null;
  }

  async #sayAll() {
    const life = this.#life;
    const due = this.#due;
    this.#due = new Map();
    this.#isSaying = true;
    const again = await this.#notNoted(due);
    if (life !== this.#life) return;
    this.#isSaying = false;
    // What was taken meanwhile is newer.
    for (const [channel, cursor] of again) if (!this.#due.has(channel)) this.#due.set(channel, cursor);
    if (this.#due.size) this.#arm();
  }

  /**
   * @param {Map<string, string>} due
   * @returns {Promise<Map<string, string>>} what is to be said again
   */
  async #notNoted(due) {
    const said = await this.#say(due);
    if (said === "later") return due;
    const again = new Map();
    // All is refused because of one channel, whose epoch may have ended: the others are said each by itself.
    if (said === "refused" && due.size > 1) {
      for (const [channel, cursor] of due) {
        if ((await this.#say(new Map([[channel, cursor]]))) === "later") again.set(channel, cursor);
      }
    }
    return again;
  }
}
