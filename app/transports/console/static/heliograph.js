/**
 * Heliograph's client: one logical connection that survives replicas, networks and sleep.
 *
 *     import { Heliograph } from "/static/heliograph.js";
 *
 *     const heliograph = new Heliograph({ user: "alice" });
 *     heliograph.on("message", ({ from, data }) => console.log(from, data));
 *     heliograph.connect();
 *     const { delivery } = await heliograph.send("bob", "hello");
 */
import { Backoff } from "./client/backoff.js";
import { Emitter } from "./client/emitter.js";
import { HeliographError } from "./client/error.js";
import { Link } from "./client/link.js";
import { RecentIds } from "./client/recent_ids.js";

export { HeliographError };

const SEND_TIMEOUT_MS = 10_000;
// A connection that lasted so long was a success; the next loss starts again with short delays.
const STABLE_MS = 5_000;
// How long the old connection is still listened to when a new one has taken over: what was on its
// way through the old replica when the new one took the user in must not be cut off.
const OVERLAP_MS = 1_000;
// After a hint that the network has changed, an answer is expected sooner than in quiet times.
const HINT_PROBE_MS = 3_000;

/** Close codes 3500–3999 mean that coming back would end the same way. */
const mayReconnect = (code) => code < 3500 || code > 3999;

/**
 * @typedef {object} State
 * @property {"connecting" | "connected" | "reconnecting" | "closed"} state
 * @property {number} [retryInMs] when reconnecting: how long until the next attempt; 0 during one
 * @property {number} [code] why it closed; on `reconnecting` and `closed`
 * @property {string} [reason] the same in words; may be empty
 * @property {string} [user] on `connected`
 * @property {string} [session] on `connected`
 * @property {string} [replica] on `connected`: who serves this client
 *
 * @typedef {object} Message
 * @property {string} channel
 * @property {*} data
 * @property {string} [from] absent when a program outside the cluster published it
 * @property {string} message_id
 * @property {string} sent_at ISO 8601
 * @property {string} [origin] the replica on which it was sent; absent as `from` may be
 * @property {string} deliveredBy the replica whose connection brought it
 *
 * @typedef {object} Ack
 * @property {string} message_id
 * @property {"local" | "remote" | "stored" | "offline"} delivery
 * @property {string} sentOn the replica that took it
 * @property {number} rttMs from handing it to the socket to the answer
 *
 * @typedef {string | (() => string | Promise<string>)} Token a function is asked before each
 *   connection, so that it can give a fresh one
 *
 * @typedef {object} Options
 * @property {string} [url] the server's WebSocket door; default: `/ws` on the page's own origin
 * @property {string} [user] who to be, where the server runs in open mode
 * @property {Token} [token] who to be, where it runs in jwt mode
 * @property {typeof WebSocket} [WebSocket] this and what follows: for tests and for Node
 * @property {typeof setTimeout} [setTimeout]
 * @property {typeof clearTimeout} [clearTimeout]
 * @property {() => number} [random] in [0, 1)
 * @property {() => number} [now] milliseconds of a clock that does not go back
 * @property {?EventTarget} [host] where `online`, `offline` and `visibilitychange` are heard
 */

/**
 * Events: `state` ({@link State}), `connected` (the server's frame), `message` ({@link Message}),
 * `error` ({@link HeliographError}, for what belongs to no call).
 */
export class Heliograph {
  #env;
  #url;
  #credentials;
  #events = new Emitter();
  #backoff;
  #seen = new RecentIds();
  /** @type {undefined | string} where this user's own channel stands, as far as it was heard */
  #cursor = undefined;

  /** @type {State} */
  #state = { state: "closed" };
  /** @type {?Link} the connection in use */
  #link = null;
  /** @type {?Link} the one being opened: the first, a replacement, or a successor beside `#link` */
  #opening = null;
  /** @type {Set<Link>} replaced, and still listened to for a moment */
  #leaving = new Set();
  #openTimer = null; // until the next `#open()`
  #stableTimer = null;

  /** @type {Map<string, {text: string, link: ?Link, sentAt: number, timer: *, resolve: Function, reject: Function}>} */
  #requests = new Map();
  #lastId = 0;

  /** @param {Options} options */
  constructor(options = {}) {
    const { url = "/ws", user, token } = options;
    this.#url = url;
    this.#credentials = { user, token };
    this.#env = {
      WebSocket: options.WebSocket ?? globalThis.WebSocket,
      // Wrapped: the browser's timers refuse to be called as methods of another object.
      setTimeout: options.setTimeout ?? ((fn, ms) => setTimeout(fn, ms)),
      clearTimeout: options.clearTimeout ?? ((timer) => clearTimeout(timer)),
      now: options.now ?? (() => performance.now()),
      host: options.host ?? globalThis.window ?? null,
    };
    this.#backoff = new Backoff(options.random ?? Math.random);
  }

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /**
   * @param {"state" | "connected" | "message" | "error"} event
   * @param {(value: any) => void} listener
   * @returns {() => void} takes the listener off again
   */
  on(event, listener) {
    return this.#events.on(event, listener);
  }

  /**
   * Connects, or cuts the wait for the next attempt short. What comes of it is told by `state`.
   *
   * @param {{user?: string, token?: Token}} [credentials] to be somebody else from now on
   */
  connect(credentials) {
    if (credentials) {
      this.close();
      this.#credentials = credentials;
      this.#cursor = undefined;
    }
    if (this.#state.state === "closed") {
      this.#backoff.reset();
      this.#listen(true);
      this.#open();
      this.#setState({ state: "connecting" });
    } else {
      this.#hurry();
    }
  }

  /** Leaves and stays away. What was not answered yet is rejected. */
  close() {
    if (this.#state.state !== "closed") this.#stop({ code: 1000, reason: "" });
  }

  /**
   * Sends to all connections of a user. While there is no connection it waits for one, as long as
   * `timeout` allows; what was written to a connection that then broke is never sent again, because
   * nobody knows whether it arrived.
   *
   * @param {string} to the user
   * @param {*} data anything that JSON can carry
   * @param {{timeout?: number}} [options] milliseconds until `timeout`
   * @returns {Promise<Ack>} rejects with a {@link HeliographError}
   */
  send(to, data, { timeout = SEND_TIMEOUT_MS } = {}) {
    return this.#request({ type: "send", to, data }, timeout);
  }

  // --- requests: frames with an id, and the answers to them

  #request(frame, timeoutMs) {
    return new Promise((resolve, reject) => {
      if (this.#state.state === "closed") throw new HeliographError("closed", "Not connected");
      this.#lastId += 1;
      const id = this.#lastId.toString(36);
      const text = JSON.stringify({ ...frame, id });
      const timer = this.#env.setTimeout(
        () => this.#fail(id, new HeliographError("timeout", `No answer within ${timeoutMs / 1000} s`)),
        timeoutMs,
      );
      const request = { text, link: null, sentAt: 0, timer, resolve, reject };
      this.#requests.set(id, request);
      if (this.#link) this.#transmit(request);
    });
  }

  #transmit(request) {
    request.link = this.#link;
    request.sentAt = this.#env.now();
    request.link.send(request.text);
  }

  #answer(frame) {
    const request = this.#take(frame.id);
    request?.resolve({
      ...frame,
      sentOn: request.link.hello.replica,
      rttMs: this.#env.now() - request.sentAt,
    });
  }

  #fail(id, error) {
    const request = this.#take(id);
    request?.reject(error);
    return request !== undefined;
  }

  #take(id) {
    const request = this.#requests.get(id);
    if (request) {
      this.#requests.delete(id);
      this.#env.clearTimeout(request.timer);
    }
    return request;
  }

  /** Rejects what was written to this link; with null, what still waited for one. */
  #failAllOf(link, { code, reason }) {
    const why = reason ? `${code}: ${reason}` : `${code}`;
    for (const [id, request] of this.#requests) {
      if (request.link === link) {
        this.#fail(id, new HeliographError("closed", `The connection closed before the answer came (${why})`));
      }
    }
  }

  // --- the connection's life

  #open() {
    this.#cancelOpen();
    const { user, token } = this.#credentials;
    const url = new URL(this.#url, globalThis.location?.href);
    url.protocol = url.protocol.replace("http", "ws");
    if (token === undefined && user !== undefined) url.searchParams.set("user", user);
    // Whoever comes back gets what came meanwhile.
    if (token === undefined && this.#cursor) url.searchParams.set("cursor", this.#cursor);

    const link = new Link(this.#env, {
      connected: (hello) => this.#onConnected(link, hello),
      frame: (frame) => this.#onFrame(link, frame),
      garbled: (error) => this.#events.emit("error", new HeliographError("bad_frame", error.message)),
      closed: (close) => this.#onClosed(link, close),
    });
    this.#opening = link;
    link.open(url.href, token, this.#cursor);
  }

  #openIn(ms) {
    this.#cancelOpen();
    this.#openTimer = this.#env.setTimeout(() => {
      this.#open();
      if (!this.#link) this.#setState({ ...this.#state, retryInMs: 0 });
    }, ms);
  }

  #cancelOpen() {
    this.#env.clearTimeout(this.#openTimer);
    this.#openTimer = null;
  }

  #onConnected(link, hello) {
    const { user, session, replica } = hello;
    this.#cursor ??= hello.cursor || undefined;
    if (this.#link) this.#leave(this.#link);
    this.#opening = null;
    this.#link = link;
    this.#env.clearTimeout(this.#stableTimer);
    this.#stableTimer = this.#env.setTimeout(() => this.#backoff.reset(), STABLE_MS);
    this.#setState({ state: "connected", user, session, replica });
    this.#events.emit("connected", hello);
    for (const request of this.#requests.values()) {
      // A listener may have hung up by now.
      if (!request.link && this.#link) this.#transmit(request);
    }
  }

  /** Make before break: the old link goes when nothing more is due on it. */
  #leave(link) {
    this.#leaving.add(link);
    const look = () => {
      if (!this.#leaving.has(link)) return;
      if ([...this.#requests.values()].some((request) => request.link === link)) {
        this.#env.setTimeout(look, OVERLAP_MS);
      } else {
        this.#leaving.delete(link);
        link.close();
      }
    };
    this.#env.setTimeout(look, OVERLAP_MS);
  }

  #onFrame(link, frame) {
    switch (frame.type) {
      case "subscribed":
        if (frame.channel.startsWith("#")) this.#cursor = frame.cursor;
        break;
      case "message":
        if (frame.cursor && frame.channel.startsWith("#")) this.#cursor = frame.cursor;
        if (frame.message_id === undefined || this.#seen.add(frame.message_id)) {
          this.#events.emit("message", { ...frame, deliveredBy: link.hello.replica });
        }
        break;
      case "ack":
        this.#answer(frame);
        break;
      case "error": {
        const error = new HeliographError(frame.code, frame.message);
        if (!this.#fail(frame.id, error)) this.#events.emit("error", error);
        break;
      }
      case "reconnect":
        if (link === this.#link && !this.#opening) this.#openIn(frame.in_ms);
        break;
      // Anything else comes from a newer server and is no concern of this client.
    }
  }

  #onClosed(link, close) {
    this.#failAllOf(link, close);
    if (this.#leaving.delete(link)) return;

    if (link === this.#opening) {
      this.#opening = null;
      if (!this.#link) this.#retryOrStop(close);
      // A successor failed and the old connection still serves: try again beside it, unless the
      // server has said that this is pointless (the limit of connections, say); then it is served
      // to the end and followed by an ordinary reconnect.
      else if (mayReconnect(close.code)) this.#openIn(this.#backoff.next());
      return;
    }

    this.#link = null;
    this.#env.clearTimeout(this.#stableTimer);
    if (this.#opening && mayReconnect(close.code)) {
      this.#setState({ state: "reconnecting", retryInMs: 0, ...close });
    } else {
      this.#retryOrStop(close);
    }
  }

  #retryOrStop(close) {
    if (!mayReconnect(close.code)) {
      this.#stop(close);
      return;
    }
    const retryInMs = this.#backoff.next();
    this.#openIn(retryInMs);
    this.#setState({ state: "reconnecting", retryInMs, ...close });
  }

  #stop(close) {
    this.#listen(false);
    this.#cancelOpen();
    this.#env.clearTimeout(this.#stableTimer);
    const links = [this.#link, this.#opening, ...this.#leaving].filter(Boolean);
    this.#link = this.#opening = null;
    this.#leaving.clear();
    for (const link of links) {
      link.close();
      this.#failAllOf(link, close);
    }
    this.#failAllOf(null, close);
    this.#setState({ state: "closed", ...close });
  }

  // Called last in every transition: a listener may call `connect` or `close` at once.
  #setState(state) {
    this.#state = state;
    this.#events.emit("state", state);
  }

  // --- hints from the outside

  #listen(on) {
    const { host } = this.#env;
    const change = on ? "addEventListener" : "removeEventListener";
    host?.[change]("online", this.#onOnline);
    host?.[change]("offline", this.#onOffline);
    host?.[change]("visibilitychange", this.#onVisibility);
  }

  #onOnline = () => this.#hurry();

  // No reason to hang up: a server on this machine or in this house is reachable all the same.
  #onOffline = () => this.#link?.probe(HINT_PROBE_MS);

  #onVisibility = () => {
    if (!this.#env.host.document?.hidden) this.#hurry();
  };

  /** Attempts at once what waits for its time, and finds out whether the connection is alive. */
  #hurry() {
    if (this.#link) this.#link.probe(HINT_PROBE_MS);
    else if (!this.#opening) {
      this.#open();
      this.#setState({ ...this.#state, retryInMs: 0 });
    }
  }
}
