import { HeliographError } from "./error.js";

/** Frames with an id that wait for their answers. */
export class Requests {
  #env;
  /**
   * By id.
   *
   * @type {Map<string, {text: string, link: ?object, sentAt: number, timer: *, resolve: Function, reject: Function}>}
   */
  #pending = new Map();
  #lastId = 0;

  /** @param {object} env `setTimeout`, `clearTimeout`, `now` */
  constructor(env) {
    this.#env = env;
  }

  /** An id that no other frame of this client has. */
  nextId() {
    this.#lastId += 1;
    return this.#lastId.toString(36);
  }

  /**
   * @param {object} frame
   * @param {number} timeoutMs
   * @returns {Promise<object>} the answer; rejects with a HeliographError
   */
  add(frame, timeoutMs) {
    return new Promise((resolve, reject) => {
      const id = this.nextId();
      const timer = this.#env.setTimeout(
        () => this.fail(id, new HeliographError("timeout", `No answer within ${timeoutMs / 1000} s`)),
        timeoutMs,
      );
      const text = JSON.stringify({ ...frame, id });
      this.#pending.set(id, { text, link: null, sentAt: 0, timer, resolve, reject });
    });
  }

  /** Some have not been written to any connection yet. */
  get waiting() {
    return [...this.#pending.values()].some(({ link }) => !link);
  }

  /** Some wait for their answer on this connection. */
  isOn(link) {
    return [...this.#pending.values()].some((request) => request.link === link);
  }

  /** Writes what waits, as long as `inUse` says that the connection still is. */
  transmit(link, inUse) {
    for (const request of this.#pending.values()) {
      if (request.link || !inUse()) continue;
      request.link = link;
      request.sentAt = this.#env.now();
      link.send(request.text);
    }
  }

  answer(frame) {
    const request = this.#take(frame.id);
    request?.resolve({
      ...frame,
      sentOn: request.link.hello.replica,
      rttMs: this.#env.now() - request.sentAt,
    });
  }

  /** @returns {boolean} whether anybody waited for it */
  fail(id, error) {
    const request = this.#take(id);
    request?.reject(error);
    return request !== undefined;
  }

  /** Rejects what was written to this connection; with null, what still waits for one. */
  failAllOf(link, error) {
    for (const [id, request] of this.#pending) if (request.link === link) this.fail(id, error);
  }

  #take(id) {
    const request = this.#pending.get(id);
    if (request) {
      this.#pending.delete(id);
      this.#env.clearTimeout(request.timer);
    }
    return request;
  }
}
