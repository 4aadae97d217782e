/**
 * Heliograph's client: one logical connection that survives replicas, networks and sleep.
 *
 *     import { Heliograph } from "/static/heliograph.js";
 *
 *     const heliograph = new Heliograph({ user: "alice" });
 *     heliograph.on("message", ({ from, data }) => console.log(from, data));
 *     heliograph.subscribe("news", ({ data }) => console.log("news:", data));
 *     heliograph.connect();
 *     const { delivery } = await heliograph.send("bob", "hello");
 */
import { Backoff } from "./client/backoff.js";
import { Bookmark } from "./client/bookmark.js";
import { Channel } from "./client/channel.js";
import { EXPIRED, INVALID_TOKEN, mayReconnect } from "./client/codes.js";
import { Credentials } from "./client/credentials.js";
import { Emitter } from "./client/emitter.js";
import { HeliographError } from "./client/error.js";
import { TransportSelector } from "./client/transport_selector.js";
import { PollLink } from "./client/poll_link.js";
import { formatCursor, positionOf } from "./client/position.js";
import { RecentIds } from "./client/recent_ids.js";
import { Requests } from "./client/requests.js";
import { Roster } from "./client/roster.js";
import { SocketLink } from "./client/socket_link.js";
import { StreamLink } from "./client/stream_link.js";
import { Subscription } from "./client/subscription.js";

export { HeliographError };

// From best to worst, with the endpoint of each, as seen from the WebSocket's.
const TRANSPORTS = {
  websocket: { Link: SocketLink, path: null },
  sse: { Link: StreamLink, path: "sse" },
  poll: { Link: PollLink, path: "api/poll" },
};
const REQUEST_TIMEOUT_MS = 10_000;
// What may be written again outlives a Redis or a replica that hangs, if it is not for long.
const REPEATABLE_TIMEOUT_MS = 30_000;
const HANDSHAKE_MS = 5_000;
// A connection that lasted so long was a success; the next loss starts again with short delays.
const STABLE_MS = 5_000;
// How long the old connection is still listened to when a new one has taken over: what was on its
// way through the old replica when the new one took the user in must not be cut off.
const OVERLAP_MS = 1_000;
// After a hint that the network has changed, an answer is expected sooner than in quiet times.
const HINT_PROBE_MS = 3_000;
// What may be wrong with a channel, so that all would be well without it.
const CHANNEL_ERRORS = new Set(["not_allowed", "bad_request", "channel_limit"]);
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const RENEW_AGAIN_MS = 5_000;
// Until a page is asked for another token in place of one that the server did not take.
const OTHER_TOKEN_MS = 1_000;
const KEY_BYTES = 12;

/**
 * @typedef {"websocket" | "sse" | "poll"} Transport
 *
 * @typedef {object} State
 * @property {"connecting" | "connected" | "reconnecting" | "closed"} state
 * @property {number} [retryInMs] when reconnecting: how long until the next attempt; 0 during one
 * @property {number} [code] why it closed; on `reconnecting` and `closed`
 * @property {string} [reason] the same in words; may be empty
 * @property {string} [user] on `connected`
 * @property {string} [session] on `connected`, by WebSocket and SSE
 * @property {string} [replica] on `connected`: who serves this client
 * @property {Transport} [transport] on `connected`
 *
 * @typedef {object} Message
 * @property {string} channel
 * @property {*} data
 * @property {string} [from] absent when a program outside the cluster published it
 * @property {string} message_id
 * @property {string} sent_at ISO 8601
 * @property {string} [cursor] absent from what is not kept
 * @property {string} [origin] the replica on which it was sent; absent as `from` may be
 * @property {string} deliveredBy the replica whose connection brought it
 *
 * @typedef {object} Ack
 * @property {string} message_id
 * @property {"local" | "remote" | "stored" | "offline"} [delivery] of a message to a user
 * @property {string} [cursor] of a publication that is kept: its place in the channel
 * @property {string} sentOn the replica that took it
 * @property {number} rttMs from handing it to the socket to the answer
 *
 * @typedef {object} Who how to say who one is: one of these
 * @property {string} [user] where the server runs in open mode
 * @property {string} [token] in jwt mode: a token that is never renewed
 * @property {() => string | Promise<string>} [getToken] in jwt mode: asked for a token before each connection, and
 *   again before the token expires. If it gives nothing, the client closes for good; if it throws, it tries again
 * @property {() => string | Promise<string>} [getTicket] in jwt mode, for a page that is given no token: asked for
 *   a single-use ticket before each connection and each poll
 *
 * @typedef {Who & object} Options
 * @property {string} [url] the server's WebSocket endpoint; default: `/ws` on the page's own origin
 * @property {boolean} [replay] a first connection begins with what is kept for the user, not only with what comes
 * @property {boolean | string} [resume] a page goes on where the last one of this tab was, in all channels; a string
 *   is a name that keeps several clients of a page apart
 * @property {Transport[]} [transports] those that may be used, best first; default: all
 * @property {typeof WebSocket} [WebSocket] this and what follows: for tests and for Node
 * @property {typeof fetch} [fetch]
 * @property {typeof setTimeout} [setTimeout]
 * @property {typeof clearTimeout} [clearTimeout]
 * @property {() => number} [random] in [0, 1)
 * @property {() => number} [now] milliseconds of a clock that does not go back
 * @property {?EventTarget} [host] where `online`, `offline`, `visibilitychange` and `pagehide` are heard
 * @property {?Storage} [storage] where `resume` keeps its places; default: `sessionStorage`
 */

/**
 * Events: `state` ({@link State}), `connected` (the server's frame), `message` ({@link Message} to this user),
 * `lost` (`{channel}`: messages to this user are missing before those that follow), `error` ({@link HeliographError}, for what
 * belongs to no call and no subscription).
 */
export class Heliograph {
  #env;
  #url;
  #credentials;
  #events = new Emitter();
  #backoff;
  #selector;
  #requests;
  #seen = new RecentIds();
  #replay;
  /** @type {?Bookmark} */
  #bookmark;
  #keyPrefix = randomHex(KEY_BYTES);
  #lastKey = 0;

  /** @type {?Channel} this user's own channel, once that is known */
  #own = null;
  #isUnplaced = false; // it was connected, and nobody could say where its own channel stood: what came then may be lost
  /** @type {Map<string, Channel>} what is subscribed to, or shall be */
  #channels = new Map();
  #syncing = false;

  /** @type {State} */
  #state = { state: "closed" };
  // Links: SocketLink, StreamLink or PollLink.
  #link = null; // the connection in use
  #opening = null; // the one being opened: the first, a replacement, or a successor beside `#link`
  #leaving = new Set(); // replaced, and still listened to for a moment
  /** @type {Map<SocketLink, Roster>} of each socket that is connected */
  #rosters = new Map();
  #openTimer = null; // until the next `#open()`
  #upgradeTimer = null; // until a better transport is tried
  #stableTimer = null;
  #renewTimer = null;
  #askedForOther = false; // for another token, since the last connection

  /** @param {Options} options */
  constructor(options = {}) {
    this.#url = options.url ?? "/ws";
    this.#env = {
      WebSocket: options.WebSocket ?? globalThis.WebSocket,
      // Wrapped: the browser's functions refuse to be called as methods of another object.
      fetch: options.fetch ?? ((...request) => fetch(...request)),
      setTimeout: options.setTimeout ?? ((fn, ms) => setTimeout(fn, ms)),
      clearTimeout: options.clearTimeout ?? ((timer) => clearTimeout(timer)),
      now: options.now ?? (() => performance.now()),
      random: options.random ?? Math.random,
      host: options.host ?? globalThis.window ?? null,
    };
    const { random } = this.#env;
    this.#credentials = new Credentials(options, this.#env);
    this.#backoff = new Backoff(random);
    this.#selector = new TransportSelector(options.transports ?? Object.keys(TRANSPORTS), random);
    this.#requests = new Requests(this.#env, () => this.#transmit());
    this.#replay = options.replay ?? false;
    this.#bookmark = bookmarkOf(options, this.#env);
    this.#recall(options.user);
  }

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /**
   * @param {"state" | "connected" | "message" | "lost" | "error"} event
   * @param {(value: any) => void} listener
   * @returns {() => void} takes the listener off again
   */
  on(event, listener) {
    return this.#events.on(event, listener);
  }

  /**
   * Connects, or cuts the wait for the next attempt short. What comes of it is told by `state`.
   *
   * @param {Who} [who] to be somebody else from now on
   */
  connect(who) {
    if (who) {
      this.close();
      this.#credentials = new Credentials(who, this.#env);
      this.#recall(who.user);
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

  /** Leaves and stays away. What was not answered yet is rejected; subscriptions go on with the next `connect`. */
  close() {
    if (this.#state.state !== "closed") this.#stop({ code: 1000, reason: "" });
  }

  /**
   * Listens to a channel, from now on and over all reconnects, until `unsubscribe`. May be called before `connect`.
   *
   * @param {string} channel
   * @param {(event: object) => void} [handler] of each message; of a run: of its state and its progress
   * @param {object} [how] counts for the first subscription to a channel
   * @param {boolean} [how.replay] it begins with what is kept of the channel; default: with what comes
   * @param {boolean} [how.resume] its place is kept over page loads; default: as the client's `resume` says
   * @returns {Subscription}
   */
  subscribe(channel, handler, { replay = false, resume = true } = {}) {
    const subscription = new Subscription(channel, handler, (over) => this.#release(over));
    let followed = this.#channels.get(channel);
    if (!followed) {
      const position = (resume && this.#bookmark?.placeIn(channel)) || null;
      followed = new Channel(channel, { position, replay, resume });
      this.#channels.set(channel, followed);
    }
    followed.refused = false; // whoever asks again wants to know anew
    this.#rosters.get(this.#link)?.renew(channel);
    followed.subscriptions.add(subscription);
    // Who comes second is on the channel already, and hears how a run stands without asking anew.
    if (followed.run || this.#isOn(followed)) {
      queueMicrotask(() => {
        if (!followed.subscriptions.has(subscription)) return;
        subscription.hear("subscribed", { channel, recovered: true, lost: false, anew: false });
        if (!followed.run) return;
        subscription.hear("initial_state", { type: "initial_state", ...followed.run, logs: [...followed.run.logs] });
      });
    }
    this.#sync();
    return subscription;
  }

  /**
   * Sends to all connections of a user. While there is no connection it waits for one, as long as `timeout` allows.
   *
   * It carries a key by which the server knows it again, and is sent anew where a connection breaks, an answer does
   * not come or Redis is away (`unavailable`), until `timeout`; it is delivered once all the same. What is ephemeral
   * has no such key and is sent once.
   *
   * Sending needs the WebSocket. Over another transport it is tried at once to get one; if that
   * fails, the call is rejected with `no_socket`.
   *
   * @param {string} to the user
   * @param {*} data anything that JSON can carry
   * @param {object} [options]
   * @param {number} [options.timeout] milliseconds; default: 30,000, or 10,000 for what is sent once
   * @param {boolean} [options.ephemeral] it is not kept
   * @param {string} [options.idempotencyKey] a key of one's own, to call again with after `timeout`; good for 300 s
   * @returns {Promise<Ack>} rejects with a {@link HeliographError}
   */
  send(to, data, options = {}) {
    return this.#say({ type: "send", to, data }, options);
  }

  /**
   * Publishes on a channel; otherwise as `send`.
   *
   * @param {string} channel
   * @param {*} data
   * @param {{timeout?: number, ephemeral?: boolean, idempotencyKey?: string}} [options]
   * @returns {Promise<Ack>}
   */
  publish(channel, data, options = {}) {
    return this.#say({ type: "publish", channel, data }, options);
  }

  /**
   * Hands an event to the workers behind the cluster. It is sent once: if the connection breaks before the answer,
   * nobody knows whether it arrived.
   *
   * @param {string} event
   * @param {*} data
   * @param {{timeout?: number}} [options]
   * @returns {Promise<Ack>}
   */
  emit(event, data, { timeout } = {}) {
    return this.#request({ type: "emit", event, data }, { timeout });
  }

  /**
   * Who is on a channel, with how many connections; otherwise as `send`.
   *
   * @param {string} channel
   * @param {{timeout?: number}} [options]
   * @returns {Promise<{users: Record<string, number>}>}
   */
  presence(channel, { timeout } = {}) {
    return this.#request({ type: "presence", channel }, { timeout, repeatable: true });
  }

  /**
   * What is kept of a channel, oldest first; otherwise as `send`.
   *
   * @param {string} channel
   * @param {{limit?: number, cursor?: string, timeout?: number}} [options] what stands after `cursor`
   * @returns {Promise<{publications: Message[], cursor: string}>}
   */
  history(channel, { limit, cursor, timeout } = {}) {
    return this.#request({ type: "history", channel, limit, cursor }, { timeout, repeatable: true });
  }

  /**
   * How a run stands, by an HTTP request of its own: works where no connection does.
   *
   * @param {string} runId
   * @returns {Promise<?{run_id: string, state: ?string, progress: number, logs: string[]}>} null: no such run;
   *   rejects with a {@link HeliographError}
   */
  async getRun(runId) {
    const { query, headers } = await this.#credentials.forRequest(false);
    const url = new URL(`api/runs/${encodeURIComponent(runId)}`, this.#address("http"));
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    const abort = new AbortController();
    const timer = this.#env.setTimeout(() => abort.abort(), REQUEST_TIMEOUT_MS);
    let response;
    let answer;
    try {
      response = await this.#env.fetch(url.href, { headers, cache: "no-store", signal: abort.signal });
      answer = await response.json().catch((error) => {
        if (abort.signal.aborted) throw error;
        return {}; // no JSON: not from the server
      });
    } catch (error) {
      if (abort.signal.aborted) throw new HeliographError("timeout", `No answer within ${REQUEST_TIMEOUT_MS / 1000} s`);
      throw new HeliographError("http", `The run cannot be asked for: ${error.message}`);
    } finally {
      this.#env.clearTimeout(timer);
    }
    if (response.status === 404) return null;
    if (!response.ok) {
      throw new HeliographError(answer.error?.code ?? "http", answer.error?.message ?? `HTTP ${response.status}`);
    }
    return answer;
  }

  // --- requests: frames with an id, and the answers to them

  #say(frame, { timeout, ephemeral, idempotencyKey }) {
    if (ephemeral) return this.#request({ ...frame, ephemeral }, { timeout });
    const idempotency_key = idempotencyKey ?? `${this.#keyPrefix}-${(this.#lastKey += 1)}`;
    return this.#request({ ...frame, idempotency_key }, { timeout: timeout ?? REPEATABLE_TIMEOUT_MS, repeatable: true });
  }

  async #request(frame, { timeout = REQUEST_TIMEOUT_MS, repeatable = false } = {}) {
    if (this.#state.state === "closed") throw new HeliographError("closed", "Not connected");
    const answer = this.#requests.add(frame, timeout, repeatable);
    this.#transmit();
    return answer;
  }

  /** Writes what waits; where nothing can be written, tries to get a socket. */
  #transmit() {
    if (!this.#requests.waiting || !this.#link) return;
    const link = this.#link;
    if (link.send) this.#requests.transmit(link, () => link === this.#link);
    else if (!this.#selector.has("websocket")) this.#refuseWaiting();
    else if (!this.#opening) this.#open("websocket");
  }

  #refuseWaiting() {
    const { transport } = this.#link;
    const words = `The server is reached by ${transport === "sse" ? "server-sent events" : "polling"} only`;
    this.#requests.failUntried(new HeliographError("no_socket", `${words}; sending needs a WebSocket`));
  }

  // --- subscriptions

  #release(subscription) {
    const channel = this.#channels.get(subscription.channel);
    if (channel?.subscriptions.delete(subscription)) this.#sync();
  }

  /** The connection in use brings what comes on the channel. */
  #isOn({ name, position }) {
    const link = this.#link;
    if (!link) return false;
    return this.#rosters.get(link)?.hears(name) ?? (link.channels.has(name) && position !== null);
  }

  /** What nobody listens to any more is left, unless somebody has come back in the same turn. */
  #dropUnheard() {
    for (const channel of this.#channels.values()) {
      if (channel.subscriptions.size) continue;
      this.#channels.delete(channel.name);
      this.#bookmark?.forget(channel.name);
    }
  }

  /** Brings the connection in line with what is wanted, once for all that this turn asks for. */
  #sync() {
    if (this.#syncing) return;
    this.#syncing = true;
    queueMicrotask(() => {
      this.#syncing = false;
      this.#dropUnheard();
      const link = this.#link;
      if (!link) return;
      if (link.send) this.#rosters.get(link).sync(this.#channels);
      else if (!this.#opening && !sameNames(link.channels, this.#givenChannels())) this.#open(link.transport);
    });
  }

  // --- the connection's life

  #open(transport = this.#selector.current) {
    this.#cancelOpen();
    const { Link } = TRANSPORTS[transport];
    const link = new Link(this.#env, {
      connected: (hello) => this.#onConnected(link, hello),
      moved: (replica) => {
        if (link === this.#link) this.#setState({ ...this.#state, replica });
      },
      frame: (frame) => this.#onFrame(link, frame),
      garbled: (error) => this.#events.emit("error", new HeliographError("bad_frame", error.message)),
      doubted: () => {
        if (link === this.#link && !this.#opening) this.#open(link.transport);
      },
      closed: (close) => this.#onClosed(link, close),
    });
    this.#opening = link;
    link.open(this.#endpoint(transport), this.#credentials, () => this.#place(link), HANDSHAKE_MS);
  }

  #address(scheme) {
    const url = new URL(this.#url, globalThis.location?.href);
    url.protocol = scheme + (/^(https|wss):$/.test(url.protocol) ? "s" : "");
    return url;
  }

  #endpoint(transport) {
    const { path } = TRANSPORTS[transport];
    return path === null ? this.#address("ws") : new URL(path, this.#address("http"));
  }

  /** Where a new connection goes on: a socket in the user's own channel, and later, one by one, in the others. */
  #place(link) {
    const own = formatCursor(this.#own ? [this.#own] : []);
    const replay = this.#replay && !own;
    if (link.send) return { cursor: own, replay };
    const channels = this.#givenChannels();
    const cursors = [own, ...channels.map(({ resumeCursor }) => resumeCursor)];
    return { channels: channels.map(({ name }) => name), cursor: cursors.filter(Boolean).join("&"), replay };
  }

  // --- places: how far each channel was heard, over page loads if `resume` says so

  /** What is known of earlier pages; nothing, where it is somebody else's. */
  #recall(user) {
    if (user !== undefined) this.#bookmark?.belongTo(user);
    const known = this.#bookmark?.user;
    const own = known && personal(known);
    this.#own = own ? new Channel(own, { position: this.#bookmark.placeIn(own), resume: true }) : null;
    this.#isUnplaced = false;
    for (const channel of this.#channels.values()) {
      channel.forget();
      if (channel.resumes) channel.position = this.#bookmark?.placeIn(channel.name) ?? null;
    }
  }

  #writePlaces = () => this.#bookmark?.write(this.#placed());

  /** What has a place to be kept. A run has none: its state is given anew. */
  #placed = () => {
    const channels = [...this.#channels.values()].filter(({ resumes, run }) => resumes && !run);
    return [this.#own, ...channels].filter((channel) => channel?.position);
  };

  #givenChannels() {
    return [...this.#channels.values()].filter(({ refused }) => !refused);
  }

  #openIn(ms) {
    this.#cancelOpen();
    this.#openTimer = this.#env.setTimeout(() => {
      this.#open(this.#link?.transport);
      if (!this.#link) this.#setState({ ...this.#state, retryInMs: 0 });
    }, ms);
  }

  #cancelOpen() {
    this.#env.clearTimeout(this.#openTimer);
    this.#openTimer = null;
  }

  #onConnected(link, hello) {
    const { user, session, replica } = hello;
    this.#bookmark?.belongTo(user);
    // A page may give the token of somebody else this time: nothing that was heard before is theirs.
    if (this.#own && this.#own.name !== personal(user)) this.#recall(user);
    const begins = hello.cursor ? positionOf(hello.cursor, personal(user)) : null;
    this.#own ??= new Channel(personal(user), { resume: true });
    const lost = this.#isUnplaced && this.#own.position === null && begins !== null;
    this.#own.position ??= begins;
    this.#isUnplaced = this.#own.position === null && !this.#replay;
    const left = this.#link;
    this.#opening = null;
    this.#link = link;
    this.#askedForOther = false;
    if (link.send) this.#rosters.set(link, this.#roster(link));
    if (left) this.#leave(left);
    this.#selector.connected(link.transport);
    this.#env.clearTimeout(this.#stableTimer);
    this.#stableTimer = this.#env.setTimeout(() => this.#backoff.reset(), STABLE_MS);
    this.#upgradeLater();
    this.#renewIn(this.#credentials.renewInMs(hello.expires_in));
    this.#sync();
    this.#setState({ state: "connected", user, session, replica, transport: link.transport });
    this.#events.emit("connected", hello);
    if (lost) this.#events.emit("lost", { channel: personal(user) });
    this.#transmit();
    this.#writePlaces();
  }

  #roster(link) {
    return new Roster(
      link,
      this.#env,
      () => this.#requests.nextId(),
      (channel, error) => this.#channels.get(channel)?.refuse(error),
    );
  }

  /** Make before break: the old link goes when nothing more is due on it, and the new one has everything. */
  #leave(link) {
    this.#leaving.add(link);
    const look = () => {
      if (!this.#leaving.has(link)) return;
      const roster = this.#rosters.get(this.#link);
      if (this.#requests.isOn(link) || (roster && !roster.settled)) {
        this.#env.setTimeout(look, OVERLAP_MS);
      } else {
        this.#leaving.delete(link);
        this.#hangUp(link);
      }
    };
    this.#env.setTimeout(look, OVERLAP_MS);
  }

  #hangUp(link) {
    link.close();
    this.#rosters.get(link)?.close();
    this.#rosters.delete(link);
  }

  #onFrame(link, frame) {
    switch (frame.type) {
      case "message":
        this.#onMessage(link, frame);
        break;
      case "initial_state": {
        const channel = this.#channelOf(link, link.lastSubscribed);
        if (!channel) break;
        channel.beginRun(frame, link);
        channel.emit("initial_state", frame);
        break;
      }
      case "progress":
        for (const channel of this.#channels.values()) {
          const isIts = channel.run && channel.name.slice(channel.name.indexOf(":") + 1) === frame.run_id;
          if (isIts && channel.advanceRun(frame, link)) channel.emit("progress", frame);
        }
        break;
      case "join":
      case "leave":
        if (link === this.#link) this.#channelOf(link, frame.channel)?.emit(frame.type, frame);
        break;
      case "subscribed":
        this.#onSubscribed(link, frame);
        break;
      case "unsubscribed":
        if (link === this.#link && (this.#rosters.get(link)?.unsubscribed(frame) ?? true)) {
          this.#channels.get(frame.channel)?.emit("unsubscribed", frame);
        }
        break;
      case "ack":
      case "history":
      case "presence":
      case "refreshed":
        this.#requests.answer(frame, link);
        break;
      case "error": {
        const error = new HeliographError(frame.code, frame.message);
        if (this.#requests.fail(frame.id, error) || this.#rosters.get(link)?.failed(frame.id, error)) break;
        this.#events.emit("error", error);
        break;
      }
      case "reconnect":
        if (link === this.#link && !this.#opening) this.#openIn(frame.in_ms);
        break;
      // Anything else comes from a newer server and is no concern of this client.
    }
  }

  /** The channel, if what this link says of it counts: on a socket, only what follows the answer to `subscribe`. */
  #channelOf(link, name) {
    if (name === this.#own?.name) return this.#own;
    const roster = this.#rosters.get(link);
    return roster && !roster.hears(name) ? undefined : this.#channels.get(name);
  }

  #onMessage(link, frame) {
    const channel = this.#channelOf(link, frame.channel);
    if (!channel) return;
    if (frame.cursor) {
      const accepted = channel.accept(frame, link === this.#link);
      if (accepted === "known") return;
      if (accepted === "late") this.#tell(channel, "lost", { channel: channel.name });
      this.#bookmark?.writeSoon(this.#placed);
    } else if (!this.#seen.add(frame.message_id)) {
      return;
    }
    this.#tell(channel, "message", { ...frame, deliveredBy: link.hello.replica });
  }

  #tell(channel, type, value) {
    if (channel === this.#own) this.#events.emit(type, value);
    else channel.emit(type, value);
  }

  #onSubscribed(link, frame) {
    const roster = this.#rosters.get(link);
    const isOwn = frame.channel === this.#own?.name;
    if (roster && !isOwn && !roster.subscribed(frame)) return;
    link.lastSubscribed = frame.channel; // the state of a run follows, without its name
    const channel = isOwn ? this.#own : this.#channels.get(frame.channel);
    if (!channel) return;
    const anew = channel.position === null;
    const lost = channel.begin(frame);
    if (!isOwn) channel.emit("subscribed", { channel: channel.name, recovered: frame.recovered, lost, anew });
    if (lost) this.#tell(channel, "lost", { channel: channel.name });
    this.#bookmark?.writeSoon(this.#placed);
  }

  #onClosed(link, close) {
    this.#requests.lose(link, unanswered(close));
    this.#rosters.get(link)?.close();
    this.#rosters.delete(link);
    if (this.#leaving.delete(link)) {
      this.#transmit();
      return;
    }

    if (link === this.#opening) {
      this.#opening = null;
      if (this.#refuseChannels(link, close)) this.#open(link.transport);
      else if (this.#link) this.#onSuccessorFailed(link, close);
      else this.#retryOrStop(link, close);
      return;
    }

    this.#link = null;
    this.#env.clearTimeout(this.#stableTimer);
    if (this.#opening && mayReconnect(close.code)) {
      this.#setState({ state: "reconnecting", retryInMs: 0, ...close });
    } else {
      this.#retryOrStop(link, close);
    }
  }

  /**
   * Over HTTP, one channel that is not given refuses the whole request. It goes on without those that are to
   * blame: that are named, or else that were not there before.
   *
   * @returns {boolean} whether there are any
   */
  #refuseChannels(link, { error, reason }) {
    if (!CHANNEL_ERRORS.has(error)) return false;
    const asked = this.#givenChannels().filter(({ name }) => link.channels.has(name));
    const named = asked.filter(({ name }) => reason.includes(name));
    const blamed = named.length ? named : asked.filter(({ name }) => !this.#link?.channels?.has(name));
    for (const channel of blamed) channel.refuse(new HeliographError(error, reason));
    return blamed.length > 0;
  }

  /** The connection in use still serves. */
  #onSuccessorFailed(link, close) {
    if (link.transport !== this.#link.transport) {
      if (link.transport === "websocket") this.#refuseWaiting();
      this.#upgradeLater();
      this.#sync();
    } else if (mayReconnect(close.code)) {
      this.#openIn(this.#backoff.next());
    }
    // Else the server has said that another try is pointless (the limit of connections, say): the old
    // connection is served to its end, and followed by an ordinary reconnect.
  }

  #retryOrStop(link, close) {
    if (close.code === INVALID_TOKEN && !close.unasked && this.#credentials.renewable && !this.#askedForOther) {
      // It may have run out on the way, or the clocks differ: the page is asked for another, once.
      this.#askedForOther = true;
      this.#openIn(OTHER_TOKEN_MS);
      this.#setState({ state: "reconnecting", retryInMs: OTHER_TOKEN_MS, code: EXPIRED, reason: close.reason });
      return;
    }
    if (!mayReconnect(close.code)) {
      this.#stop(close);
      return;
    }
    const { code, reason } = close;
    const wasUp = link.hello !== null;
    if (!wasUp && !close.unasked && this.#selector.failed(link.transport)) {
      this.#open();
      if (this.#state.state === "connected") this.#setState({ state: "reconnecting", retryInMs: 0, code, reason });
      return;
    }
    const retryInMs = this.#backoff.next();
    this.#openIn(retryInMs);
    this.#setState({ state: "reconnecting", retryInMs, code, reason });
  }

  #stop({ code, reason }) {
    this.#listen(false);
    this.#cancelOpen();
    for (const timer of [this.#stableTimer, this.#upgradeTimer, this.#renewTimer]) this.#env.clearTimeout(timer);
    const links = [this.#link, this.#opening, ...this.#leaving].filter(Boolean);
    this.#link = this.#opening = null;
    this.#leaving.clear();
    for (const link of links) this.#hangUp(link);
    this.#requests.failAll(unanswered({ code, reason }));
    this.#writePlaces();
    this.#setState({ state: "closed", code, reason });
  }

  // Called last in every transition: a listener may call `connect` or `close` at once.
  #setState(state) {
    this.#state = state;
    this.#events.emit("state", state);
  }

  // --- getting higher: from a transport that had to do back to a better one

  #upgradeLater() {
    this.#env.clearTimeout(this.#upgradeTimer);
    if (this.#selector.canUpgrade) this.#upgradeTimer = this.#env.setTimeout(() => this.#upgrade(), this.#selector.upgradeInMs);
  }

  #upgrade() {
    if (this.#link && !this.#opening && this.#openTimer === null) this.#open(this.#selector.upgrade());
    else this.#upgradeLater();
  }

  // --- staying who one is

  #renewIn(ms) {
    this.#env.clearTimeout(this.#renewTimer);
    if (ms !== null) this.#renewTimer = this.#env.setTimeout(() => this.#renew(), Math.min(ms, LONGEST_TIMER_MS));
  }

  /** A new token, before the old one has expired: in band on a socket, with a new stream for the others. */
  async #renew() {
    const link = this.#link;
    if (!link) return;
    if (!link.send) {
      if (link.transport === "sse" && !this.#opening) this.#open("sse");
      return;
    }
    try {
      const token = await this.#credentials.token();
      if (link !== this.#link) return;
      const { expires_in } = await this.#request({ type: "refresh", token });
      if (link === this.#link) this.#renewIn(this.#credentials.renewInMs(expires_in));
    } catch (error) {
      if (link !== this.#link) return;
      const words = `The token was not renewed: ${error.message}`;
      this.#events.emit("error", new HeliographError(error.code ?? "token", words));
      this.#renewIn(RENEW_AGAIN_MS);
    }
  }

  // --- hints from the outside

  #listen(on) {
    const { host } = this.#env;
    const change = on ? "addEventListener" : "removeEventListener";
    host?.[change]("online", this.#onOnline);
    host?.[change]("offline", this.#onOffline);
    host?.[change]("visibilitychange", this.#onVisibility);
    if (this.#bookmark) host?.[change]("pagehide", this.#writePlaces);
  }

  #onOnline = () => this.#hurry();

  // No reason to hang up: a server on this machine or in this house is reachable all the same.
  #onOffline = () => this.#link?.probe(HINT_PROBE_MS);

  #onVisibility = () => {
    if (!this.#env.host.document?.hidden) this.#hurry();
    else this.#writePlaces(); // a phone may end a hidden page without a word
  };

  /** Attempts at once what waits for its time, and finds out whether the connection is alive. */
  #hurry() {
    if (this.#link) {
      this.#link.probe(HINT_PROBE_MS);
      if (this.#selector.canUpgrade) this.#upgrade();
    } else if (!this.#opening) {
      this.#open();
      this.#setState({ ...this.#state, retryInMs: 0 });
    }
  }
}

/** @param {Set<string>} names @param {Channel[]} channels */
const sameNames = (names, channels) =>
  names.size === channels.length && channels.every(({ name }) => names.has(name));

const personal = (user) => `#${user}`;

/** @param {{code: number, reason: string}} close */
function unanswered({ code, reason }) {
  const why = reason ? `${code}: ${reason}` : `${code}`;
  return new HeliographError("closed", `The connection closed before the answer came (${why})`);
}

/** @returns {?Bookmark} null where places are not kept over page loads */
function bookmarkOf({ resume, storage }, env) {
  if (!resume) return null;
  try {
    const places = storage ?? globalThis.sessionStorage;
    return places ? new Bookmark(places, resume === true ? "" : resume, env) : null;
  } catch {
    return null; // the browser forbids it
  }
}

function randomHex(bytes) {
  const numbers = crypto.getRandomValues(new Uint8Array(bytes));
  return [...numbers].map((number) => number.toString(16).padStart(2, "0")).join("");
}
