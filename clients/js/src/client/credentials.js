/** @import { Credential, GetCredential, Who } from "../heliograph.js" */
/** @import { Environment } from "./environment.js" */

// A token is renewed when this part of its lifetime is over.
const USED_UP = 0.8;
// The page has so long to return a credential.
const ASK_MS = 10_000;

/** The page returned no token and no ticket. */
export class NoCredentials extends Error {}

/**
 * The client's identity, asked for anew for each connection.
 *
 * In open mode a name. In jwt mode a token, which goes into the first frame of a socket and the header of an HTTP
 * request, never into a URL; or a single-use ticket, which may stand there.
 */
export class Credentials {
  #env;
  #user;
  #getToken;
  #getTicket;
  #token;
  #freshUntil = 0;

  /**
   * @param {Who} who
   * @param {Pick<Environment, "now" | "setTimeout" | "clearTimeout">} env
   */
  constructor({ user, token, getToken, getTicket }, env) {
    this.#env = env;
    this.#user = user;
    this.#token = token;
    this.#getToken = getToken;
    this.#getTicket = getTicket;
  }

  /** Whether the page can be asked for new ones. */
  get renewable() {
    return this.#getToken !== undefined || this.#getTicket !== undefined;
  }

  /**
   * The token, from the page if it has a function for that.
   *
   * @returns {Promise<string | undefined>}
   */
  async token() {
    if (this.#getToken) {
      this.#token = (await this.#ask(this.#getToken, "getToken")) || undefined;
      if (!this.#token) throw new NoCredentials("no token");
      this.#freshUntil = this.#env.now() + USED_UP * lifetimeMs(this.#token);
    }
    return this.#token;
  }

  /**
   * For a socket: what stands in its URL, and the token of its first frame.
   *
   * @returns {Promise<{query: Record<string, string>, token?: string}>}
   */
  async forSocket() {
    const token = await this.token();
    if (token !== undefined) return { query: {}, token };
    return { query: await this.#query() };
  }

  /**
   * For an HTTP request: what stands in its URL, and its headers.
   *
   * @param {boolean} [first] a connection begins: a new token is asked for; later only when it is nearly used up
   * @returns {Promise<{query: Record<string, string>, headers: Record<string, string>}>}
   */
  async forRequest(first = true) {
    if (this.#getTicket) return { query: await this.#query(), headers: {} };
    const token = first || this.#env.now() >= this.#freshUntil ? await this.token() : this.#token;
    if (token !== undefined) return { query: {}, headers: { Authorization: `Bearer ${token}` } };
    return { query: await this.#query(), headers: {} };
  }

  /**
   * What a function of the page returns, if it does in time.
   *
   * @param {GetCredential} give
   * @param {string} name
   * @returns {Promise<Credential>}
   */
  async #ask(give, name) {
    /** @type {any} */
    let timer;
    /** @type {Promise<never>} */
    const late = new Promise((_, reject) => {
      timer = this.#env.setTimeout(() => reject(new Error(`${name} gave nothing within ${ASK_MS / 1000} s`)), ASK_MS);
    });
    try {
      return await Promise.race([give(), late]);
    } finally {
      this.#env.clearTimeout(timer);
    }
  }

  /** @returns {Promise<Record<string, string>>} */
  async #query() {
    if (this.#getTicket) {
      const ticket = await this.#ask(this.#getTicket, "getTicket");
      if (!ticket) throw new NoCredentials("no ticket");
      return { ticket };
    }
    return this.#user === undefined ? {} : { user: this.#user };
  }

  /**
   * When to renew the token, in milliseconds; null if that is not known or cannot be done.
   *
   * @param {?number} [expiresInS] as the server says, if it does; null: it never expires
   */
  renewInMs(expiresInS) {
    if (!this.#getToken || expiresInS === null) return null;
    const restMs = expiresInS === undefined ? lifetimeMs(this.#token ?? "") : expiresInS * 1000;
    return Number.isFinite(restMs) ? Math.max(0, USED_UP * restMs) : null;
  }
}

/**
 * The lifetime that is left to a JWT by its own `exp`, in milliseconds; infinite if that cannot be read.
 *
 * @param {string} token
 */
function lifetimeMs(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const { exp } = JSON.parse(atob(payload));
    return typeof exp === "number" ? exp * 1000 - Date.now() : Infinity;
  } catch {
    return Infinity;
  }
}
