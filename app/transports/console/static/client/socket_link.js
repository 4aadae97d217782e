import { ABNORMAL, INVALID_TOKEN, NO_PONG } from "./codes.js";
import { NoCredentials } from "./credentials.js";

const PONG_MS = 10_000;

/**
 * One WebSocket from its opening to its end: handshake, and proof that the other side is alive.
 *
 * It never reconnects; that is decided by whoever holds it. After its end it calls nobody. The same holds for the
 * other transports, `StreamLink` and `PollLink`.
 *
 * @typedef {object} Handlers
 * @property {(hello: object) => void} connected the handshake is done
 * @property {(replica: string) => void} moved another replica serves it now
 * @property {(frame: object) => void} frame any other frame, except `pong`
 * @property {(error: Error) => void} garbled a frame that is not a JSON object
 * @property {(close: {code: number, reason: string, unasked?: boolean, error?: string}) => void} closed it
 *   ended, and not by `close()`; `unasked`: the page had no credentials, so that the server was never asked;
 *   `error`: the code of the answer that refused a request over HTTP
 */
export class SocketLink {
  transport = "websocket";
  /** @type {?object} the server's `connected` frame, once it came */
  hello = null;
  /** @type {string} the channel that the server has begun last: the state of a run follows without its name */
  lastSubscribed = "";

  #env;
  #handlers;
  #socket = null;
  #timer = null; // the one thing it waits for: handshake, silence or pong
  #lastHeard = 0;
  #probing = false;
  #ended = false;

  /**
   * @param {object} env `WebSocket`, `setTimeout`, `clearTimeout`, `now`
   * @param {Handlers} handlers
   */
  constructor(env, handlers) {
    this.#env = env;
    this.#handlers = handlers;
  }

  /**
   * @param {URL} url
   * @param {import("./credentials.js").Credentials} credentials
   * @param {() => {cursor: string}} place where the client stands in its own channel; channels are subscribed later
   * @param {number} withinMs the handshake must be done
   */
  async open(url, credentials, place, withinMs) {
    this.#arm(withinMs, () => this.#end(ABNORMAL, "no answer to the handshake"));
    let known;
    try {
      // The token comes first: the server gives an open socket only seconds to present one.
      known = await credentials.forSocket();
    } catch (error) {
      if (!this.#ended) this.#giveUp(error);
      return;
    }
    if (!this.#ended) this.#dial(url, known, place().cursor);
  }

  /** @param {string} text one encoded frame */
  send(text) {
    this.#socket.send(text);
  }

  /**
   * Asks for a sign of life, now instead of after the next long silence.
   *
   * @param {number} waitMs without one for so long, the connection counts as dead
   */
  probe(waitMs = PONG_MS) {
    if (!this.hello || this.#ended) return;
    this.#probing = true;
    this.send('{"type":"ping"}');
    this.#arm(waitMs, () => this.#end(NO_PONG, "no pong"));
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

  #dial(url, { query, token }, cursor) {
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    // Whoever comes back gets what came meanwhile.
    if (token === undefined && cursor) url.searchParams.set("cursor", cursor);
    const socket = new this.#env.WebSocket(url.href);
    this.#socket = socket;
    if (token !== undefined) {
      socket.onopen = () => this.send(JSON.stringify({ type: "connect", token, cursor: cursor || undefined }));
    }
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => this.#end(event.code, event.reason);
    // `close` follows every error and says more. The handler stays for good because Node's
    // WebSocket implementations throw an error that nobody listens for.
    socket.onerror = () => {};
  }

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
      this.#handlers.garbled(error);
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

  // One timer that looks at the clock, instead of one that every message re-arms.
  #watch() {
    const pingMs = this.hello.ping * 1000;
    if (!(pingMs > 0)) {
      this.#env.clearTimeout(this.#timer);
      return;
    }
    const restMs = this.#lastHeard + pingMs - this.#env.now();
    if (restMs > 0) this.#arm(restMs, () => this.#watch());
    else this.probe();
  }

  #arm(ms, callback) {
    this.#env.clearTimeout(this.#timer);
    this.#timer = this.#env.setTimeout(callback, ms);
  }

  #giveUp(error) {
    this.close();
    const code = error instanceof NoCredentials ? INVALID_TOKEN : ABNORMAL;
    this.#handlers.closed({ code, reason: error.message, unasked: true });
  }

  #end(code, reason) {
    if (this.#ended) return;
    this.close();
    this.#handlers.closed({ code, reason });
  }
}
