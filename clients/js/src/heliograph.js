/**
 * Heliograph's client: one logical connection that survives replicas, networks and sleep.
 *
 *     import { Heliograph } from "@heliograph/client"; // from a replica: "/static/heliograph.js"
 *
 *     const heliograph = new Heliograph({ user: "alice" });
 *     heliograph.on("message", ({ from, data }) => console.log(from, data));
 *     heliograph.subscribe("news", ({ data }) => console.log("news:", data));
 *     heliograph.connect();
 *     const { delivery } = await heliograph.send("bob", "hello");
 */
import { Bookmark } from "./client/bookmark.js";
import { Connection } from "./client/connection.js";
import { Credentials } from "./client/credentials.js";
import { Dispatcher } from "./client/dispatcher.js";
import { Emitter } from "./client/emitter.js";
import { environmentOf } from "./client/environment.js";
import { HeliographError } from "./client/error.js";
import { requestRun } from "./client/run_request.js";

/** @import { Environment } from "./client/environment.js" */

export { HeliographError };

/**
 * @typedef {import("./client/subscription.js").Subscription} Subscription
 * @typedef {import("./client/subscription.js").SubscriptionEvents} SubscriptionEvents
 *
 * @typedef {"websocket" | "sse" | "poll"} Transport
 *
 * @typedef {object} State
 * @property {"connecting" | "connected" | "reconnecting" | "closed"} state
 * @property {number} [retryInMs] on `reconnecting`: milliseconds until the next attempt; 0 during one
 * @property {number} [code] why it closed; on `reconnecting` and `closed`
 * @property {string} [reason] the same in words; may be empty
 * @property {string} [user] on `connected`
 * @property {string} [session] on `connected`, by WebSocket and SSE
 * @property {string} [replica] on `connected`: the replica that serves this client
 * @property {Transport} [transport] on `connected`
 *
 * @typedef {object} Hello the server's `connected` frame
 * @property {"connected"} type
 * @property {string} user
 * @property {string} [session]
 * @property {string} replica
 * @property {string} cursor where the user's own channel begins; empty if that is unknown
 * @property {number} [ping] how often the server pings, in seconds
 * @property {?number} [expires_in] seconds until the token expires; null: never
 *
 * @typedef {object} Message
 * @property {"message"} type
 * @property {string} channel
 * @property {any} data
 * @property {string} [from] absent when a program outside the cluster published it
 * @property {string} message_id
 * @property {string} sent_at ISO 8601
 * @property {string} [cursor] absent if the message is not kept
 * @property {string} [origin] the replica on which it was sent; absent if `from` is
 * @property {string} deliveredBy the replica whose connection brought it
 *
 * @typedef {Omit<Message, "deliveredBy">} Publication a message as it is kept
 *
 * @typedef {object} InitialState the state of a run; sent again on each connection, replaces what was known
 * @property {"initial_state"} type
 * @property {?string} state
 * @property {number} progress in percent
 * @property {string[]} logs
 *
 * @typedef {object} Progress an update of a run
 * @property {"progress"} type
 * @property {string} run_id
 * @property {?string} state
 * @property {number} progress in percent
 * @property {?string} [message] a new line of its log
 *
 * @typedef {InitialState | Progress} RunEvent
 *
 * @typedef {object} Run
 * @property {string} run_id
 * @property {?string} state
 * @property {number} progress in percent
 * @property {string[]} logs
 *
 * @typedef {object} Subscribed
 * @property {string} channel
 * @property {boolean} recovered the server had everything since the last message received
 * @property {boolean} lost messages are missing
 * @property {boolean} anew this is the first subscription, or the first as this user
 *
 * @typedef {object} Member
 * @property {"join" | "leave"} type
 * @property {string} channel
 * @property {string} user
 *
 * @typedef {object} Ack
 * @property {string} message_id
 * @property {"local" | "remote" | "stored" | "offline"} [delivery] of a message to a user
 * @property {string} [cursor] the position of a publication that is kept
 * @property {string} sentOn the replica that accepted it
 * @property {number} rttMs milliseconds from writing it to the socket to the answer
 *
 * @typedef {object} Presence
 * @property {Record<string, number>} users the number of connections of each
 *
 * @typedef {object} History
 * @property {Publication[]} publications oldest first
 * @property {string} cursor after the last of them
 * @property {boolean} [more] more follows `cursor`
 *
 * @typedef {object} Who the client's identity: one of these
 * @property {string} [user] in open mode: the user's id
 * @property {string} [token] in jwt mode: a token that is never renewed
 * @property {GetCredential} [getToken] in jwt mode: called for a token before each connection, and again before the
 *   token expires. If it returns nothing, the client closes for good; if it throws, the client retries
 * @property {GetCredential} [getTicket] in jwt mode, for a page that must not have a token: called for a single-use
 *   ticket before each connection and each poll
 *
 * @typedef {() => Credential | Promise<Credential>} GetCredential
 * @typedef {string | null | undefined} Credential
 *
 * @typedef {object} Settings
 * @property {string} [url] the server's WebSocket endpoint; default: `/ws` on the page's own origin
 * @property {boolean} [replay] the first connection begins with the messages that are kept for the user
 * @property {boolean | string} [resume] a page continues where the last one of this tab was, in all channels; a string
 *   is a name that tells several clients of one page apart
 * @property {string} [device] which of the user's devices this is, at most 64 bytes: receipts are kept for each
 * @property {boolean} [receipts] tells the server in the background what the page has taken, at most once a second, so
 *   that senders can ask
 * @property {Transport[]} [transports] the transports that may be used, best first; default: all
 * @property {new (url: string) => any} [WebSocket] this and what follows: for tests and for Node
 * @property {(url: string, request: RequestInit) => Promise<Response>} [fetch]
 * @property {(callback: () => void, ms: number) => any} [setTimeout]
 * @property {(timer: any) => void} [clearTimeout]
 * @property {() => number} [random] in [0, 1)
 * @property {() => number} [now] milliseconds of a clock that does not go back
 * @property {?EventTarget} [host] the source of `online`, `offline`, `visibilitychange` and `pagehide`
 * @property {Pick<Storage, "getItem" | "setItem">} [storage] where `resume` keeps its positions; default:
 *   `sessionStorage`
 *
 * @typedef {Who & Settings} Options
 *
 * @typedef {object} SubscribeOptions those of the first subscription to a channel count
 * @property {boolean} [replay] begin with what is kept of the channel; default: with what is published from now on
 * @property {boolean} [resume] false: this channel begins anew with each page, whatever the client's `resume` says
 *
 * @typedef {object} PublishOptions
 * @property {number} [timeout] milliseconds; default: 30,000, or 10,000 if ephemeral
 * @property {boolean} [ephemeral] do not keep it
 * @property {string} [idempotencyKey] a key of your own, to call again with after a timeout; valid for 300 s
 *
 * @typedef {object} ClientEvents
 * @property {State} state
 * @property {Hello} connected
 * @property {Message} message to this user
 * @property {{channel: string}} lost messages to this user are missing before those that follow
 * @property {HeliographError} error an error that belongs to no call and no subscription
 */

/** One logical connection to a cluster. {@link ClientEvents} says what `on` listens to. */
export class Heliograph {
  #env;
  #url;
  /** @type {Emitter<ClientEvents>} */
  #events = new Emitter();
  /** @type {Connection} */
  #connection;
  /** @type {Dispatcher} */
  #dispatcher;

  /** @param {Options} options */
  constructor(options = {}) {
    const { url = "/ws", transports, replay = false, user, device, receipts } = options;
    this.#url = url;
    this.#env = environmentOf(options);
    this.#connection = new Connection(this.#env, { url, transports }, new Credentials(options, this.#env), {
      place: (link) => this.#dispatcher.place(link),
      established: (link, hello) => this.#dispatcher.established(link, hello),
      connected: (hello, lost) => this.#dispatcher.connected(hello, lost),
      frame: (link, frame) => this.#dispatcher.frame(link, frame),
      isBusy: (link) => this.#dispatcher.isBusy(link),
      left: (link) => this.#dispatcher.left(link),
      ended: (link, close) => this.#dispatcher.ended(link, close),
      transmit: () => this.#dispatcher.transmit(),
      refuseChannels: (link, close) => this.#dispatcher.refuseChannels(link, close),
      notUpgraded: (transport) => this.#dispatcher.notUpgraded(transport),
      refresh: (token) => this.#dispatcher.request({ type: "refresh", token }),
      failed: (error) => this.#events.emit("error", error),
      paused: () => this.#dispatcher.writePlaces(),
      stopped: (close) => this.#dispatcher.stopped(close),
      state: (state) => this.#events.emit("state", state),
    });
    this.#dispatcher = new Dispatcher(this.#env, this.#connection, {
      emit: (event, value) => this.#events.emit(event, value),
      bookmark: bookmarkOf(options, this.#env),
      replay,
      device,
      receipts,
    });
    this.#dispatcher.recall(user);
  }

  /** @returns {State} */
  get state() {
    return this.#connection.state;
  }

  /**
   * @template {keyof ClientEvents} E
   * @param {E} event
   * @param {(value: ClientEvents[E]) => void} listener
   * @returns {() => void} removes the listener
   */
  on(event, listener) {
    return this.#events.on(event, listener);
  }

  /**
   * Connects, or ends the wait for the next attempt. The `state` event reports the result.
   *
   * @param {Who} [who] another identity, from now on
   */
  connect(who) {
    if (!who) {
      this.#connection.connect();
      return;
    }
    this.#connection.close();
    this.#dispatcher.recall(who.user);
    this.#connection.connect(new Credentials(who, this.#env));
  }

  /** Closes the connection for good. Pending calls are rejected; subscriptions continue with the next `connect`. */
  close() {
    this.#dispatcher.writePlaces();
    this.#connection.close();
  }

  /**
   * Subscribes to a channel, over all reconnects, until `unsubscribe`. May be called before `connect`.
   *
   * @overload
   * @param {`run:${string}`} channel the channel of a run
   * @param {?(event: RunEvent) => void} [handler] called with its state and each progress
   * @param {SubscribeOptions} [options]
   * @returns {Subscription}
   */
  /**
   * Subscribes to a channel, over all reconnects, until `unsubscribe`. May be called before `connect`.
   *
   * @template [E=Message]
   * @overload
   * @param {string} channel
   * @param {?(event: E) => void} [handler] called with each message
   * @param {SubscribeOptions} [options]
   * @returns {Subscription}
   */
  /**
   * @param {string} channel
   * @param {?(event: any) => void} [handler]
   * @param {SubscribeOptions} [options]
   * @returns {Subscription}
   */
  subscribe(channel, handler, options = {}) {
    return this.#dispatcher.subscribe(channel, handler, options);
  }

  /**
   * Sends a message to all connections of a user. Without a connection the call waits for one, at most `timeout`.
   *
   * The message carries an idempotency key. The client repeats it until `timeout` if the connection breaks, if no
   * answer arrives, or if the server says `unavailable`; it is delivered once. An ephemeral message has no key and is
   * sent once.
   *
   * Sending needs a WebSocket. On another transport the client tries at once to open one; if that fails, the call is
   * rejected with `no_socket`.
   *
   * @param {string} to the user's id
   * @param {unknown} data anything that JSON can carry
   * @param {PublishOptions} [options]
   * @returns {Promise<Ack>} rejects with a {@link HeliographError}
   */
  send(to, data, options = {}) {
    return /** @type {Promise<any>} */ (this.#dispatcher.deliver({ type: "send", to, data }, options));
  }

  /**
   * Publishes on a channel; otherwise like `send`.
   *
   * @param {string} channel
   * @param {unknown} data anything that JSON can carry
   * @param {PublishOptions} [options]
   * @returns {Promise<Ack>}
   */
  publish(channel, data, options = {}) {
    return /** @type {Promise<any>} */ (this.#dispatcher.deliver({ type: "publish", channel, data }, options));
  }

  /**
   * Hands an event to the workers behind the cluster. It is sent once: if the connection breaks before the answer, it
   * is unknown whether the event arrived.
   *
   * @param {string} event
   * @param {unknown} data anything that JSON can carry
   * @param {{timeout?: number}} [options]
   * @returns {Promise<Ack>}
   */
  emit(event, data, { timeout } = {}) {
    return /** @type {Promise<any>} */ (this.#dispatcher.request({ type: "emit", event, data }, { timeout }));
  }

  /**
   * Calls a method of the user's backend, and returns what it returns. Sent once, like `emit`.
   *
   * @param {string} method
   * @param {unknown} [data] anything that JSON can carry
   * @param {{timeout?: number}} [options]
   * @returns {Promise<any>} rejects with a {@link HeliographError}; its `number` is the backend's own code
   */
  async rpc(method, data = null, { timeout } = {}) {
    return /** @type {any} */ (await this.#dispatcher.request({ type: "rpc", method, data }, { timeout })).data;
  }

  /**
   * Returns who is on a channel, with how many connections; repeated like `send`.
   *
   * @param {string} channel
   * @param {{timeout?: number}} [options]
   * @returns {Promise<Presence>}
   */
  presence(channel, { timeout } = {}) {
    const frame = { type: "presence", channel };
    return /** @type {Promise<any>} */ (this.#dispatcher.request(frame, { timeout, repeatable: true }));
  }

  /**
   * Returns what is kept of a channel, oldest first; repeated like `send`.
   *
   * @param {string} channel
   * @param {{limit?: number, cursor?: string, timeout?: number}} [options] at most `limit` messages after `cursor`
   * @returns {Promise<History>}
   */
  history(channel, { limit, cursor, timeout } = {}) {
    const frame = { type: "history", channel, limit, cursor };
    return /** @type {Promise<any>} */ (this.#dispatcher.request(frame, { timeout, repeatable: true }));
  }

  /**
   * Returns the state of a run, by an HTTP request of its own: works without a connection.
   *
   * @param {string} runId
   * @returns {Promise<?Run>} null: the run is unknown; rejects with a {@link HeliographError}
   */
  getRun(runId) {
    return requestRun(this.#env, this.#url, this.#connection.credentials, runId);
  }
}

/**
 * @param {Options} options
 * @param {Environment} env
 * @returns {?Bookmark} null if positions are not kept over page loads
 */
function bookmarkOf({ resume, storage }, env) {
  if (!resume) return null;
  try {
    const places = storage ?? globalThis.sessionStorage;
    return places ? new Bookmark(places, resume === true ? "" : resume, env) : null;
  } catch {
    return null; // the browser forbids it
  }
}
