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
 * @property {number} [retryInMs] when reconnecting: how long until the next attempt; 0 during one
 * @property {number} [code] why it closed; on `reconnecting` and `closed`
 * @property {string} [reason] the same in words; may be empty
 * @property {string} [user] on `connected`
 * @property {string} [session] on `connected`, by WebSocket and SSE
 * @property {string} [replica] on `connected`: who serves this client
 * @property {Transport} [transport] on `connected`
 *
 * @typedef {object} Hello the server's `connected` frame
 * @property {"connected"} type
 * @property {string} user
 * @property {string} [session]
 * @property {string} replica
 * @property {string} cursor where the user's own channel begins; empty if nobody can say
 * @property {number} [ping] how often the server pings, in seconds
 * @property {?number} [expires_in] how long the token is good, in seconds; null: it does not end
 *
 * @typedef {object} Message
 * @property {"message"} type
 * @property {string} channel
 * @property {any} data
 * @property {string} [from] absent when a program outside the cluster published it
 * @property {string} message_id
 * @property {string} sent_at ISO 8601
 * @property {string} [cursor] absent from what is not kept
 * @property {string} [origin] the replica on which it was sent; absent as `from` may be
 * @property {string} deliveredBy the replica whose connection brought it
 *
 * @typedef {Omit<Message, "deliveredBy">} Publication a message as it is kept
 *
 * @typedef {object} InitialState how a run stands; anew with each connection, in place of what was before
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
 * @property {boolean} recovered the server could give everything since what was heard last
 * @property {boolean} lost messages are missing
 * @property {boolean} anew nothing was heard before, or by somebody else
 *
 * @typedef {object} Member
 * @property {"join" | "leave"} type
 * @property {string} channel
 * @property {string} user
 *
 * @typedef {object} Ack
 * @property {string} message_id
 * @property {"local" | "remote" | "stored" | "offline"} [delivery] of a message to a user
 * @property {string} [cursor] of a publication that is kept: its place in the channel
 * @property {string} sentOn the replica that took it
 * @property {number} rttMs from handing it to the socket to the answer
 *
 * @typedef {object} Presence
 * @property {Record<string, number>} users with how many connections each
 *
 * @typedef {object} History
 * @property {Publication[]} publications oldest first
 * @property {string} cursor after the last of them
 * @property {boolean} [more] something follows `cursor`
 *
 * @typedef {object} Who how to say who one is: one of these
 * @property {string} [user] where the server runs in open mode
 * @property {string} [token] in jwt mode: a token that is never renewed
 * @property {Give} [getToken] in jwt mode: asked for a token before each connection, and again before the token
 *   expires. If it gives nothing, the client closes for good; if it throws, it tries again
 * @property {Give} [getTicket] in jwt mode, for a page that is given no token: asked for a single-use ticket before
 *   each connection and each poll
 *
 * @typedef {() => Credential | Promise<Credential>} Give
 * @typedef {string | null | undefined} Credential
 *
 * @typedef {object} Settings
 * @property {string} [url] the server's WebSocket endpoint; default: `/ws` on the page's own origin
 * @property {boolean} [replay] a first connection begins with what is kept for the user, not only with what comes
 * @property {boolean | string} [resume] a page goes on where the last one of this tab was, in all channels; a string
 *   is a name that keeps several clients of a page apart
 * @property {Transport[]} [transports] those that may be used, best first; default: all
 * @property {new (url: string) => any} [WebSocket] this and what follows: for tests and for Node
 * @property {(url: string, request: RequestInit) => Promise<Response>} [fetch]
 * @property {(callback: () => void, ms: number) => any} [setTimeout]
 * @property {(timer: any) => void} [clearTimeout]
 * @property {() => number} [random] in [0, 1)
 * @property {() => number} [now] milliseconds of a clock that does not go back
 * @property {?EventTarget} [host] where `online`, `offline`, `visibilitychange` and `pagehide` are heard
 * @property {Pick<Storage, "getItem" | "setItem">} [storage] where `resume` keeps its places; default: `sessionStorage`
 *
 * @typedef {Who & Settings} Options
 *
 * @typedef {object} SubscribeOptions counts for the first subscription to a channel
 * @property {boolean} [replay] it begins with what is kept of the channel; default: with what comes
 * @property {boolean} [resume] its place is kept over page loads; default: as the client's `resume` says
 *
 * @typedef {object} PublishOptions
 * @property {number} [timeout] milliseconds; default: 30,000, or 10,000 for what is sent once
 * @property {boolean} [ephemeral] it is not kept
 * @property {string} [idempotencyKey] a key of one's own, to call again with after `timeout`; good for 300 s
 *
 * @typedef {object} ClientEvents
 * @property {State} state
 * @property {Hello} connected
 * @property {Message} message to this user
 * @property {{channel: string}} lost messages to this user are missing before those that follow
 * @property {HeliographError} error what belongs to no call and no subscription
 */

/** See {@link ClientEvents} for what `on` listens to. */
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
    const { url = "/ws", transports, replay = false, user } = options;
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
    if (!who) {
      this.#connection.connect();
      return;
    }
    this.#connection.close();
    this.#dispatcher.recall(who.user);
    this.#connection.connect(new Credentials(who, this.#env));
  }

  /** Leaves and stays away. What was not answered yet is rejected; subscriptions go on with the next `connect`. */
  close() {
    this.#connection.close();
  }

  /**
   * Listens to a channel, from now on and over all reconnects, until `unsubscribe`. May be called before `connect`.
   *
   * @overload
   * @param {`run:${string}`} channel of a run
   * @param {?(event: RunEvent) => void} [handler] of its state and its progress
   * @param {SubscribeOptions} [options]
   * @returns {Subscription}
   */
  /**
   * Listens to a channel, from now on and over all reconnects, until `unsubscribe`. May be called before `connect`.
   *
   * @template [E=Message]
   * @overload
   * @param {string} channel
   * @param {?(event: E) => void} [handler] of each message
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
   * @param {unknown} data anything that JSON can carry
   * @param {PublishOptions} [options]
   * @returns {Promise<Ack>} rejects with a {@link HeliographError}
   */
  send(to, data, options = {}) {
    return /** @type {Promise<any>} */ (this.#dispatcher.deliver({ type: "send", to, data }, options));
  }

  /**
   * Publishes on a channel; otherwise as `send`.
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
   * Hands an event to the workers behind the cluster. It is sent once: if the connection breaks before the answer,
   * nobody knows whether it arrived.
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
   * Who is on a channel, with how many connections; otherwise as `send`.
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
   * What is kept of a channel, oldest first; otherwise as `send`.
   *
   * @param {string} channel
   * @param {{limit?: number, cursor?: string, timeout?: number}} [options] what stands after `cursor`
   * @returns {Promise<History>}
   */
  history(channel, { limit, cursor, timeout } = {}) {
    const frame = { type: "history", channel, limit, cursor };
    return /** @type {Promise<any>} */ (this.#dispatcher.request(frame, { timeout, repeatable: true }));
  }

  /**
   * How a run stands, by an HTTP request of its own: works where no connection does.
   *
   * @param {string} runId
   * @returns {Promise<?Run>} null: no such run; rejects with a {@link HeliographError}
   */
  getRun(runId) {
    return requestRun(this.#env, this.#url, this.#connection.credentials, runId);
  }
}

/**
 * @param {Options} options
 * @param {Environment} env
 * @returns {?Bookmark} null where places are not kept over page loads
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
