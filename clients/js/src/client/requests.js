import { HeliographError } from "./error.js";

/** @import { Environment } from "./environment.js" */
/** @import { Frame, Link, SendingLink } from "./link.js" */

/**
 * @typedef {object} Request
 * @property {string} text the encoded frame
 * @property {?Link} link the link on which it waits for its answer; null: it waits to be written
 * @property {number} sentAt
 * @property {boolean} repeatable it may be written again
 * @property {boolean} tried it was written at least once
 * @property {?HeliographError} error why the server has not carried it out so far
 * @property {any} timer until it is rejected with `timeout`
 * @property {any} answerTimer until it is written again
 * @property {(answer: Frame) => void} resolve
 * @property {(error: HeliographError) => void} reject
 */

/** How long a caller waits for an answer, unless it says otherwise. */
export const REQUEST_TIMEOUT_MS = 10_000;
// A repeatable request without an answer is written again after so long.
const ANSWER_MS = 5_000;
// After `unavailable`: the first pause, at most; it doubles from one failure to the next.
const PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 4_000;

/**
 * Frames with an id that wait for their answers.
 *
 * Some are repeatable: those that only read, and those with an idempotency key, which the server carries out once
 * however often it gets them. They outlive a connection that breaks, an answer that does not arrive, and
 * `unavailable`, until their timeout. All others are written once.
 */
export class Requests {
  #env;
  #onDue;
  /**
   * By id, in the order in which they were made.
   *
   * @type {Map<string, Request>}
   */
  #pending = new Map();
  #lastId = 0;
  #failures = 0; // `unavailable` in a row
  /** @type {any} */
  #pause = null;

  /**
   * @param {Pick<Environment, "setTimeout" | "clearTimeout" | "now" | "random">} env
   * @param {() => void} onDue called when requests are to be written again
   */
  constructor(env, onDue) {
    this.#env = env;
    this.#onDue = onDue;
  }

  /** An id that no other frame of this client has. */
  nextId() {
    this.#lastId += 1;
    return this.#lastId.toString(36);
  }

  /**
   * @param {Frame} frame
   * @param {number} timeoutMs
   * @param {boolean} repeatable it may be written again
   * @returns {Promise<Frame>} the answer; rejects with a HeliographError
   */
  add(frame, timeoutMs, repeatable) {
    return new Promise((resolve, reject) => {
      const id = this.nextId();
      const text = JSON.stringify({ ...frame, id }); // throws for what JSON cannot carry
      const timer = this.#env.setTimeout(() => this.#expire(id, timeoutMs), timeoutMs);
      const request = { text, link: null, sentAt: 0, repeatable, tried: false, error: null, timer, answerTimer: null };
      this.#pending.set(id, { ...request, resolve, reject });
    });
  }

  /** Whether requests are to be written to a connection now. */
  get waiting() {
    return [...this.#pending.values()].some((request) => this.#isDue(request));
  }

  /**
   * Whether requests wait for their answers on this connection.
   *
   * @param {Link} link
   */
  isOn(link) {
    return [...this.#pending.values()].some((request) => request.link === link);
  }

  /**
   * Writes what waits, as long as the connection is in use.
   *
   * @param {SendingLink} link
   * @param {() => boolean} inUse
   */
  transmit(link, inUse) {
    for (const request of this.#pending.values()) {
      if (!this.#isDue(request) || !inUse()) continue;
      request.link = link;
      request.sentAt = this.#env.now();
      request.tried = true;
      link.send(request.text);
      if (request.repeatable) request.answerTimer = this.#env.setTimeout(() => this.#writeAgain(request), ANSWER_MS);
    }
  }

  /**
   * @param {Frame} frame
   * @param {Link} link the connection that brought it
   */
  answer(frame, link) {
    const request = this.#take(frame.id);
    if (!request) return;
    this.#failures = 0;
    request.resolve({ ...frame, sentOn: link.hello?.replica, rttMs: this.#env.now() - request.sentAt });
  }

  /**
   * @param {string} id
   * @param {HeliographError} error
   * @returns {boolean} whether a request waited for it
   */
  fail(id, error) {
    const request = this.#pending.get(id);
    if (request?.repeatable && error.code === "unavailable") {
      request.error = error;
      this.#release(request);
      this.#pauseAll();
      return true;
    }
    this.#take(id)?.reject(error);
    return request !== undefined;
  }

  /**
   * The connection has ended: its requests are written again to the next one, or rejected.
   *
   * @param {Link} link
   * @param {HeliographError} error
   */
  lose(link, error) {
    for (const [id, request] of this.#pending) {
      if (request.link !== link) continue;
      if (request.repeatable) this.#release(request);
      else this.#take(id)?.reject(error);
    }
  }

  /**
   * The server has closed the connection because a frame is too large: rejects the largest of those that wait on it.
   * Written again, it would only close the next one.
   *
   * @param {Link} link
   * @param {HeliographError} error
   */
  failLargest(link, error) {
    const encoder = new TextEncoder();
    let largest = { id: "", size: 0 };
    for (const [id, request] of this.#pending) {
      const size = request.link === link ? encoder.encode(request.text).length : 0;
      if (size > largest.size) largest = { id, size };
    }
    this.#take(largest.id)?.reject(error);
  }

  /**
   * Rejects the requests that were never written to any connection.
   *
   * @param {HeliographError} error
   */
  failUntried(error) {
    for (const [id, { tried }] of this.#pending) if (!tried) this.#take(id)?.reject(error);
  }

  /** @param {HeliographError} error */
  failAll(error) {
    for (const id of [...this.#pending.keys()]) this.#take(id)?.reject(error);
    this.#endPause();
  }

  /**
   * During a pause all repeatable requests wait, so that their order is kept.
   *
   * @param {Request} request
   */
  #isDue({ link, repeatable }) {
    return !link && !(repeatable && this.#pause !== null);
  }

  /** @param {Request} request */
  #release(request) {
    request.link = null;
    this.#env.clearTimeout(request.answerTimer);
  }

  /** @param {Request} request */
  #writeAgain(request) {
    this.#release(request);
    this.#onDue();
  }

  #pauseAll() {
    if (this.#pause !== null) return;
    const ceilingMs = Math.min(LONGEST_PAUSE_MS, PAUSE_MS * 2 ** this.#failures);
    this.#failures += 1;
    // Random, so that the clients of a server that comes back do not all write at once.
    this.#pause = this.#env.setTimeout(() => {
      this.#endPause();
      this.#onDue();
    }, (0.5 + this.#env.random() / 2) * ceilingMs);
  }

  #endPause() {
    this.#env.clearTimeout(this.#pause);
    this.#pause = null;
  }

  /**
   * @param {string} id
   * @param {number} timeoutMs
   */
  #expire(id, timeoutMs) {
    const request = this.#take(id);
    if (!request) return;
    const { error, tried, reject } = request;
    const words = tried ? "; it may have arrived all the same" : "";
    reject(error ?? new HeliographError("timeout", `No answer within ${timeoutMs / 1000} s${words}`));
  }

  /** @param {string} id */
  #take(id) {
    const request = this.#pending.get(id);
    if (request) {
      this.#pending.delete(id);
      this.#env.clearTimeout(request.timer);
      this.#env.clearTimeout(request.answerTimer);
    }
    return request;
  }
}
