import { ABNORMAL, EXPIRED, INVALID_TOKEN } from "./codes.js";
import { NoCredentials } from "./credentials.js";

/** @import { Hello } from "../heliograph.js" */
/** @import { Credentials } from "./credentials.js" */
/** @import { Environment } from "./environment.js" */
/** @import { Frame, LinkHandlers, Place } from "./link.js" */
/** @import { Said } from "./receipts.js" */

/** @typedef {Record<string, string | string[]>} Query what stands in a URL; what is empty is left out */

// The close code with which a socket would have been refused, by the HTTP status.
/** @type {Record<number, number>} */
const CODES = { 400: 3501, 401: 3500, 403: 3507 };

// The server must answer a receipt within so long.
const RECEIVED_MS = 10_000;

/**
 * A request was refused or a stream was ended, with the close code that says so on a socket. `error`: the
 * server's own code; `unasked`: the page had no credentials, so the server was never asked.
 */
export class Refused extends Error {
  /**
   * @param {number} code
   * @param {string} message
   * @param {{error?: string, unasked?: boolean}} [more]
   */
  constructor(code, message, { error, unasked = false } = {}) {
    super(message);
    this.code = code;
    this.error = error;
    this.unasked = unasked;
  }
}

/**
 * What the transports over HTTP share: requests with credentials, one deadline, and an end. They only receive.
 */
export class HttpLink {
  /** @type {?Hello} the server's `connected` frame, or the same made of its first answer */
  hello = null;
  /** @type {Set<string>} what it is subscribed to; fixed, as they stand in its URL */
  channels = new Set();
  /** @type {number} a request must be answered within so many milliseconds */
  withinMs = 0;
  /** @type {string} the channel of the last `subscribed`: the state of a run follows without its name */
  lastSubscribed = "";
  /** @type {string} where receipts are said, as seen from its own endpoint */
  receivedPath = "";

  /** @type {?{url: URL, credentials: Credentials}} what it was opened with */
  #opened = null;
  #env;
  #handlers;
  /** @type {any} */
  #timer = null;
  #abort = new AbortController();
  #ended = false;

  /**
   * @param {Environment} env
   * @param {LinkHandlers} handlers
   */
  constructor(env, handlers) {
    this.#env = env;
    this.#handlers = handlers;
  }

  get ended() {
    return this.#ended;
  }

  /**
   * @param {URL} url
   * @param {Credentials} credentials
   * @param {() => Place} place
   * @param {number} withinMs the first answer must be there
   */
  async open(url, credentials, place, withinMs) {
    this.withinMs = withinMs;
    this.#opened = { url, credentials };
    try {
      await this.run(url, credentials, place);
    } catch (error) {
      if (this.#ended) return;
      this.close();
      const { message } = /** @type {Error} */ (error);
      const { code, unasked, error: said } = error instanceof Refused ? error : new Refused(ABNORMAL, message);
      this.#handlers.closed({ code, reason: message, unasked, error: said });
    }
  }

  /**
   * Serves until it is closed; throws Refused, or another error, when it ends by itself.
   *
   * @abstract
   * @param {URL} _url
   * @param {Credentials} _credentials
   * @param {() => Place} _place
   * @returns {Promise<void>}
   */
  run(_url, _credentials, _place) {
    throw new Error("each transport has a run() of its own");
  }

  /**
   * Says what the page has taken, in a request of its own, which may outlive the link and the page.
   *
   * @param {string} cursor
   * @param {string} [device]
   * @returns {Promise<Said>}
   */
  async received(cursor, device) {
    if (!this.#opened) return "later";
    const { url, credentials } = this.#opened;
    const abort = new AbortController();
    const timer = this.#env.setTimeout(() => abort.abort(), RECEIVED_MS);
    try {
      const { query, headers } = await credentials.forRequest(false);
      const address = new URL(this.receivedPath, url);
      address.search = new URLSearchParams(query).toString();
      const { ok, status } = await this.#env.fetch(address.href, {
        method: "POST",
        headers: { ...headers, "Content-Type": "application/json" },
        body: JSON.stringify({ cursor, device }),
        keepalive: true,
        signal: abort.signal,
      });
      if (ok) return "noted";
      return status === 401 || status === 429 || status >= 500 ? "later" : "refused";
    } catch {
      return "later"; // no answer, or no credentials
    } finally {
      this.#env.clearTimeout(timer);
    }
  }

  /** Nothing can be sent on it: a link that is silent for too long ends by itself. */
  probe() {}

  /** Ends it from this side; no handler is called any more. */
  close() {
    if (this.#ended) return;
    this.#ended = true;
    this.#env.clearTimeout(this.#timer);
    this.#abort.abort();
  }

  /**
   * Ends the link with this reason unless it is called again in time.
   *
   * @param {number} ms
   * @param {string} reason
   */
  expectWithin(ms, reason) {
    this.#env.clearTimeout(this.#timer);
    this.#timer = this.#env.setTimeout(() => {
      if (this.#ended) return;
      this.close();
      this.#handlers.closed({ code: ABNORMAL, reason });
    }, ms);
  }

  /**
   * @param {URL} url
   * @param {Query} query
   * @param {Credentials} credentials
   * @param {boolean} first a connection begins
   * @returns {Promise<Response>} one that is OK; throws Refused
   */
  async request(url, query, credentials, first) {
    let known;
    try {
      known = await credentials.forRequest(first);
    } catch (error) {
      const { message } = /** @type {Error} */ (error);
      throw new Refused(error instanceof NoCredentials ? INVALID_TOKEN : ABNORMAL, message, { unasked: true });
    }
    this.expectWithin(this.withinMs, "no answer");
    const address = new URL(url);
    for (const [name, values] of Object.entries({ ...known.query, ...query })) {
      for (const value of [values].flat()) if (value !== "") address.searchParams.append(name, value);
    }
    const response = await this.#env.fetch(address.href, {
      headers: known.headers,
      cache: "no-store",
      signal: this.#abort.signal,
    });
    if (response.ok) return response;
    const refused = await refusal(response);
    // The credentials were valid when the connection began, so they have expired: reconnect with new ones.
    if (refused.code === INVALID_TOKEN && this.hello && credentials.renewable) refused.code = EXPIRED;
    throw refused;
  }

  /**
   * Takes the channels and the cursor of this moment.
   *
   * @param {() => Place} place
   * @returns {Query}
   */
  begin(place) {
    const { channels = [], cursor, replay, device } = place();
    this.channels = new Set(channels);
    return {
      channels: channels.filter((name) => !name.includes(",")).join(","),
      channel: channels.filter((name) => name.includes(",")),
      cursor,
      replay: replay ? "true" : "",
      device: device ?? "",
    };
  }

  /** @param {Hello} hello */
  welcome(hello) {
    this.hello = hello;
    this.#handlers.connected(hello);
  }

  /**
   * Another replica may answer each request.
   *
   * @param {string} replica
   */
  serveBy(replica) {
    if (!this.hello || replica === this.hello.replica) return;
    this.hello.replica = replica;
    this.#handlers.moved(replica);
  }

  /** @param {?Frame} frame as on a socket */
  deliver(frame) {
    if (frame === null || typeof frame !== "object") this.#handlers.garbled(new TypeError("not an object"));
    else this.#handlers.frame(frame);
  }

  /** @param {Error} error */
  garbled(error) {
    this.#handlers.garbled(error);
  }
}

/**
 * Only an answer of the server itself can be final: any other may be a proxy's, and concern this transport alone.
 *
 * @param {Response} response
 * @returns {Promise<Refused>}
 */
async function refusal(response) {
  let error;
  try {
    ({ error } = await response.json());
  } catch {
    // No JSON: not from the server.
  }
  const known = typeof error?.code === "string";
  const code = (known && CODES[response.status]) || ABNORMAL;
  return new Refused(code, error?.message ?? `HTTP ${response.status}`, { error: known ? error.code : undefined });
}
