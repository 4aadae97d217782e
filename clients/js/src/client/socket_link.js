import { ABNORMAL, INVALID_TOKEN, NO_PONG } from "./codes.js";
import { NoCredentials } from "./credentials.js";

/** @import { Hello, Transport } from "../heliograph.js" */
/** @import { Credentials } from "./credentials.js" */
/** @import { Environment } from "./environment.js" */
/** @import { LinkHandlers, Place } from "./link.js" */

// After so much of the server's ping interval in silence, the client sends a ping: it has to notice within seconds that
// a replica hangs.
const SILENT = 1 / 4;
// If nothing arrives for so long after a ping, the connection is in doubt: another one is opened beside it.
const DOUBT_MS = 2_000;
// If nothing arrives for so long after a ping, the connection is dead.
const PONG_MS = 6_000;

/** A WebSocket from its opening to its end: handshake, and proof that the other side is alive. */
export class SocketLink {
  /** @type {Transport} */
  transport = "websocket";
  /** @type {?Hello} the server's `connected` frame, once it came */
  hello = null;
  /** @type {string} the channel of the last `subscribed`: the state of a run follows without its name */
  lastSubscribed = "";

  #env;
  #handlers;
  /** @type {any} */
  #socket = null;
  /** @type {any} */
  #timer = null; // until the handshake fails, a ping is due, or no pong came
  #lastHeard = 0;
  #probing = false;
  #ended = false;

  /**
   * @param {Environment} env
   * @param {LinkHandlers} handlers
   */
  constructor(env, handlers) {
    this.#env = env;
    this.#handlers = handlers;
  }

  /**
   * @param {URL} url
   * @param {Credentials} credentials
   * @param {() => Place} place where the client stands in its own channel; channels are subscribed later
   * @param {number} withinMs the handshake must be done
   */
  async open(url, credentials, place, withinMs) {
    let known;
    try {
      // The token comes first: the server gives an open socket only seconds to present one.
      known = await credentials.forSocket();
    } catch (error) {
      if (!this.#ended) this.#giveUp(/** @type {Error} */ (error));
      return;
    }
    if (this.#ended) return;
    this.#arm(withinMs, () => this.#end(ABNORMAL, "no answer to the handshake"));
    try {
      this.#dial(url, known, place());
    } catch (error) {
      // The page may open no such socket: from HTTPS to one without TLS, or against its own policy.
      this.#end(ABNORMAL, /** @type {Error} */ (error).message);
    }
  }

  /** @param {string} text one encoded frame */
  send(text) {
    this.#socket.send(text);
  }

  /**
   * Sends a ping now, instead of after the next long silence.
   *
   * @param {number} waitMs if nothing arrives for so long, the connection is dead
   */
  probe(waitMs = PONG_MS) {
    if (!this.hello || this.#ended) return;
    this.#probing = true;
    this.send('{"type":"ping"}');
    this.#arm(Math.min(DOUBT_MS, waitMs / 2), () => {
      this.#arm(waitMs - Math.min(DOUBT_MS, waitMs / 2), () => this.#end(NO_PONG, "no pong"));
      this.#handlers.doubted();
    });
  }

  /** Ends it from this side; no handler is called any more. */
  close() {
    if (this.#ended) return;
    this.#ended = true;
    this.#env.clearTimeout(this.#timer);
    if (!this.#socket) return;
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close(1000);
  }

  /**
   * @param {URL} url
   * @param {{query: Record<string, string>, token?: string}} credentials
   * @param {Place} place
   */
  #dial(url, { query, token }, { cursor, replay, device }) {
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    // A client that reconnects gets what was published meanwhile.
    const where = { ...(cursor && { cursor }), ...(replay && { replay }), ...(device && { device }) };
    // Without a token the URL says who this is; or nothing does, and a cookie may tell the server's backend.
    const isInUrl = token === undefined && saysWho(url);
    if (isInUrl) {
      for (const [name, value] of Object.entries(where)) url.searchParams.set(name, String(value));
    }
    const socket = new this.#env.WebSocket(url.href);
    this.#socket = socket;
    if (!isInUrl) {
      socket.onopen = () => this.send(JSON.stringify({ type: "connect", token, ...where }));
    }
    socket.onmessage = (/** @type {MessageEvent} */ event) => this.#receive(event.data);
    socket.onclose = (/** @type {CloseEvent} */ event) => this.#end(event.code, event.reason);
    // `close` follows every error and says more. The handler stays for good because Node's
    // WebSocket implementations throw an error that nobody listens for.
    socket.onerror = () => {};
  }

  /** @param {string} data */
  #receive(data) {
    this.#lastHeard = this.#env.now();
    if (this.#probing) {
      this.#probing = false;
      this.#watch();
    }
    let frame;
    try {
      frame = JSON.parse(data);
    } catch (error) {
      this.#handlers.garbled(/** @type {Error} */ (error));
      return;
    }
    if (frame?.type === "connected" && !this.hello) {
      this.hello = frame;
      this.#watch();
      this.#handlers.connected(frame);
    } else if (frame === null || typeof frame !== "object") {
      this.#handlers.garbled(new TypeError("not an object"));
    } else if (frame.type !== "pong") {
      this.#handlers.frame(frame);
    }
  }

  // One timer that looks at the clock, instead of one that every message sets again.
  #watch() {
    const silentMs = SILENT * (this.hello?.ping ?? 0) * 1000;
    if (!(silentMs > 0)) {
      this.#env.clearTimeout(this.#timer);
      return;
    }
    const restMs = this.#lastHeard + silentMs - this.#env.now();
    if (restMs > 0) this.#arm(restMs, () => this.#watch());
    else this.probe();
  }

  /**
   * @param {number} ms
   * @param {() => void} callback
   */
  #arm(ms, callback) {
    this.#env.clearTimeout(this.#timer);
    this.#timer = this.#env.setTimeout(callback, ms);
  }

  /** @param {Error} error */
  #giveUp(error) {
    this.close();
    const code = error instanceof NoCredentials ? INVALID_TOKEN : ABNORMAL;
    this.#handlers.closed({ code, reason: error.message, unasked: true });
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #end(code, reason) {
    if (this.#ended) return;
    this.close();
    this.#handlers.closed({ code, reason });
  }
}

/** @param {URL} url */
function saysWho({ pathname, searchParams }) {
  return pathname.includes("/users/") || searchParams.has("user") || searchParams.has("ticket");
}
