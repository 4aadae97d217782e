import { Emitter } from "./client/emitter.js";

const TIMEOUT_MS = 10_000;
// The server believes the cookie of an operator only with it: pages of others cannot send it.
const HEADERS = { "X-Heliograph-Console": "1", "Content-Type": "application/json" };
const RETRY_MS = 5_000;

/**
 * What the server refused, or did not answer.
 *
 * @property {number} status of the HTTP answer; 0: there was none
 */
export class ApiProblem extends Error {
  constructor(message, status = 0) {
    super(message);
    this.name = "ApiProblem";
    this.status = status;
  }
}

/**
 * The operator's session with the cluster. No script sees the secret of it: the browser keeps it in a cookie.
 *
 * Events: `change` (somebody has logged in or out, or it is known now how one can log in).
 *
 * @typedef {object} Operator
 * @property {string} name the user of the token; empty if the key was given
 * @property {"key" | "token" | "open"} way
 */
export class OperatorSession {
  /** @type {?Operator} */
  operator = null;
  /** @type {?Array<"key" | "token" | "open">} how one can log in; null: not known yet */
  ways = null;

  #events = new Emitter();
  #timer = null;

  /** @returns {() => void} removes the listener */
  on(event, listener) {
    return this.#events.on(event, listener);
  }

  /** Finds out who one is. Where anybody is an operator, this page becomes one. */
  async start() {
    try {
      const answer = await this.#request("api/session");
      if (!answer.operator && answer.ways.includes("open")) await this.logIn({});
      else this.#take(answer);
    } catch {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.start(), RETRY_MS);
    }
  }

  /**
   * @param {{key?: string, token?: string}} given
   * @throws {ApiProblem} says why not
   */
  async logIn(given) {
    this.#take(await this.#request("api/login", given));
  }

  /** @throws {ApiProblem} not now */
  async logOut() {
    this.#take(await this.#request("api/logout", {}));
  }

  /**
   * Calls a method of the server API; docs/http-api.md describes them.
   *
   * @param {string} method
   * @param {object} params
   * @returns {Promise<any>} its result
   * @throws {ApiProblem} it was refused, or could not be carried out
   */
  async call(method, params = {}) {
    const answer = await this.#request(`api/${method}`, params);
    if (answer.error) throw new ApiProblem(answer.error.message, 200);
    return answer.result;
  }

  async #request(path, body) {
    let response;
    try {
      response = await fetch(path, {
        method: body === undefined ? "GET" : "POST",
        headers: HEADERS,
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
    } catch (error) {
      throw new ApiProblem(error.name === "TimeoutError" ? "The cluster does not answer in time" : "The cluster cannot be reached");
    }
    let answer;
    try {
      answer = await response.json();
    } catch {
      throw new ApiProblem(`HTTP ${response.status}`, response.status);
    }
    if (response.ok) return answer;
    if (response.status === 401 && this.operator) this.#take({ operator: null, ways: this.ways });
    throw new ApiProblem(answer?.error?.message ?? `HTTP ${response.status}`, response.status);
  }

  #take({ operator, ways }) {
    clearTimeout(this.#timer);
    this.operator = operator;
    this.ways = ways;
    // At its end the server says so by itself; until then the page need not show what it cannot do.
    const ms = operator ? Math.min(operator.expires_in * 1000 + 1000, 0x7fffffff) : 0;
    if (ms) this.#timer = setTimeout(() => this.start(), ms);
    this.#events.emit("change");
  }
}
