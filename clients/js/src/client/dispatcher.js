import { Channel } from "./channel.js";
import { TOO_LARGE } from "./codes.js";
import { HeliographError } from "./error.js";
import { canSend } from "./link.js";
import { formatCursor, positionOf } from "./position.js";
import { ReceiptSender } from "./receipts.js";
import { RecentIds } from "./recent_ids.js";
import { Requests, REQUEST_TIMEOUT_MS } from "./requests.js";
import { Roster } from "./roster.js";
import { Subscription } from "./subscription.js";

/** @import { ClientEvents, Hello, PublishOptions, SubscribeOptions, Transport } from "../heliograph.js" */
/** @import { Bookmark } from "./bookmark.js" */
/** @import { Connection } from "./connection.js" */
/** @import { Environment } from "./environment.js" */
/** @import { Close, Frame, Link, Place, SendingLink } from "./link.js" */
/** @import { Said } from "./receipts.js" */

// A repeatable request outlives a Redis or a replica that hangs, if it is not for long.
const REPEATABLE_TIMEOUT_MS = 30_000;
// Errors of one channel: without it, the request would have succeeded.
const CHANNEL_ERRORS = new Set(["not_allowed", "bad_request", "channel_limit"]);
// Errors after which a receipt is said again: most are those of a connection that has ended.
const NOT_NOW = new Set(["closed", "timeout", "unavailable", "rate_limited"]);
const KEY_BYTES = 12;

/**
 * What frames mean: passes events to the client and its subscriptions, in order and once, and answers to requests. It
 * outlives the links of the connection, and knows where each of them has to continue.
 */
export class Dispatcher {
  #env;
  #connection;
  #emit;
  #replay;
  #device;
  /** @type {?ReceiptSender} */
  #receipts;
  /** @type {?Bookmark} */
  #bookmark;
  #requests;
  #seen = new RecentIds();
  #keyPrefix = randomHex(KEY_BYTES);
  #lastKey = 0;

  /** @type {?Channel} this user's own channel, once that is known */
  #own = null;
  #isUnplaced = false; // it was connected, and the position of its own channel was unknown: what came then may be lost
  /** @type {Map<string, Channel>} what is subscribed to, or shall be */
  #channels = new Map();
  #syncing = false;
  /** @type {Map<Link, Roster>} of each socket that is connected */
  #rosters = new Map();

  /**
   * @param {Environment} env
   * @param {Pick<Connection, "link" | "state" | "openSocket" | "replace">} connection
   * @param {object} options
   * @param {<E extends keyof ClientEvents>(event: E, value: ClientEvents[E]) => void} options.emit tells the page
   * @param {?Bookmark} options.bookmark where places are kept over page loads
   * @param {boolean} options.replay the first connection begins with what is kept for the user
   * @param {string} [options.device] which of the user's devices this is
   * @param {boolean} [options.receipts] tell the server what the page has taken
   */
  constructor(env, connection, { emit, bookmark, replay, device, receipts = false }) {
    this.#env = env;
    this.#connection = connection;
    this.#emit = emit;
    this.#bookmark = bookmark;
    this.#replay = replay;
    this.#device = device;
    this.#receipts = receipts ? new ReceiptSender(env, (due) => this.#sayReceived(due)) : null;
    this.#requests = new Requests(env, () => this.transmit());
  }

  // --- for the page

  /**
   * Continues from the positions that earlier pages of this user have kept; forgets those of another user.
   *
   * @param {string} [user] the client's user from now on, where that is known
   */
  recall(user) {
    if (user !== undefined) this.#bookmark?.belongTo(user);
    const known = this.#bookmark?.user;
    const own = known && personal(known);
    this.#own = own ? new Channel(own, { position: this.#placeIn(own), resume: true }) : null;
    this.#isUnplaced = false;
    for (const channel of this.#channels.values()) {
      channel.forget();
      if (channel.resumes) channel.position = this.#placeIn(channel.name);
    }
  }

  /**
   * @param {string} name
   * @param {((event: any) => void) | null | undefined} handler
   * @param {SubscribeOptions} options
   * @returns {Subscription}
   */
  subscribe(name, handler, { replay = false, resume = true }) {
    const subscription = new Subscription(name, handler ?? null, (over) => this.#release(over));
    const channel = this.#channels.get(name) ?? this.#add(name, replay, resume);
    channel.refused = false; // a new subscription asks the server again
    const { link } = this.#connection;
    if (link) this.#rosters.get(link)?.renew(name);
    channel.subscriptions.add(subscription);
    // The second subscription is on the channel already, and hears how a run stands without asking the server anew.
    if (channel.run || this.#isOn(channel)) {
      queueMicrotask(() => {
        if (!channel.subscriptions.has(subscription)) return;
        subscription.hear("subscribed", { channel: name, recovered: true, lost: false, anew: false });
        if (!channel.run) return;
        subscription.hear("initial_state", { type: "initial_state", ...channel.run, logs: [...channel.run.logs] });
      });
    }
    this.#sync();
    return subscription;
  }

  /**
   * Delivers a message: with a key, so that it may be written again, unless it is ephemeral.
   *
   * @param {Frame} frame `send` or `publish`
   * @param {PublishOptions} options
   * @returns {Promise<Frame>}
   */
  deliver(frame, { timeout, ephemeral, idempotencyKey }) {
    if (ephemeral) return this.request({ ...frame, ephemeral }, { timeout });
    const idempotency_key = idempotencyKey ?? `${this.#keyPrefix}-${(this.#lastKey += 1)}`;
    return this.request({ ...frame, idempotency_key }, { timeout: timeout ?? REPEATABLE_TIMEOUT_MS, repeatable: true });
  }

  /**
   * @param {Frame} frame
   * @param {{timeout?: number, repeatable?: boolean}} [options] `repeatable`: it may be written again
   * @returns {Promise<Frame>} the answer; rejects with a HeliographError
   */
  async request(frame, { timeout = REQUEST_TIMEOUT_MS, repeatable = false } = {}) {
    if (this.#connection.state.state === "closed") throw new HeliographError("closed", "Not connected");
    const answer = this.#requests.add(frame, timeout, repeatable);
    this.transmit();
    return answer;
  }

  // --- for the connection: see ConnectionHandlers

  /**
   * A socket goes on in the user's own channel, and later, one by one, in the others.
   *
   * @param {Link} link
   * @returns {Place}
   */
  place(link) {
    const own = formatCursor(this.#own ? [this.#own] : []);
    const replay = this.#replay && !own;
    const device = this.#device;
    if (canSend(link)) return { cursor: own, replay, device };
    const channels = this.#givenChannels();
    const cursors = [own, ...channels.map(({ resumeCursor }) => resumeCursor)];
    return { channels: channels.map(({ name }) => name), cursor: cursors.filter(Boolean).join("&"), replay, device };
  }

  /**
   * @param {Link} link
   * @param {Hello} hello
   */
  established(link, hello) {
    const name = personal(hello.user);
    this.#bookmark?.belongTo(hello.user);
    // The page may have returned another user's token this time: nothing that was received before is that user's.
    if (this.#own && this.#own.name !== name) this.recall(hello.user);
    const begins = hello.cursor ? positionOf(hello.cursor, name) : null;
    this.#own ??= new Channel(name, { resume: true });
    const lost = this.#isUnplaced && this.#own.position === null && begins !== null;
    this.#own.position ??= begins;
    this.#isUnplaced = this.#own.position === null && !this.#replay;
    if (canSend(link)) this.#rosters.set(link, this.#roster(link));
    this.#sync();
    return lost;
  }

  /**
   * @param {Hello} hello
   * @param {boolean} lost
   */
  connected(hello, lost) {
    this.#emit("connected", hello);
    if (lost) this.#emit("lost", { channel: personal(hello.user) });
    this.transmit();
    this.writePlaces();
  }

  /**
   * @param {Link} link
   * @param {any} frame
   */
  frame(link, frame) {
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
        if (link === this.#connection.link) this.#channelOf(link, frame.channel)?.emit(frame.type, frame);
        break;
      case "subscribed":
        this.#onSubscribed(link, frame);
        break;
      case "unsubscribed":
        if (link === this.#connection.link && (this.#rosters.get(link)?.unsubscribed(frame) ?? true)) {
          this.#channels.get(frame.channel)?.emit("unsubscribed", frame);
        }
        break;
      case "ack":
      case "history":
      case "presence":
      case "received":
      case "refreshed":
      case "rpc":
        this.#requests.answer(frame, link);
        break;
      case "error": {
        const error = new HeliographError(frame.code, frame.message, frame.number);
        if (this.#requests.fail(frame.id, error) || this.#rosters.get(link)?.failed(frame.id, error)) break;
        this.#emit("error", error);
        break;
      }
      // Anything else comes from a newer server and is no concern of this client.
    }
  }

  /** @param {Link} link a link that was replaced */
  isBusy(link) {
    const { link: successor } = this.#connection;
    const roster = successor && this.#rosters.get(successor);
    return this.#requests.isOn(link) || Boolean(roster && !roster.settled);
  }

  /** @param {Link} link */
  left(link) {
    this.#rosters.get(link)?.close();
    this.#rosters.delete(link);
  }

  /**
   * @param {Link} link
   * @param {Close} close
   */
  ended(link, close) {
    if (close.code === TOO_LARGE) {
      this.#requests.failLargest(link, new HeliographError("bad_request", `too large: ${close.reason}`));
    }
    this.#requests.lose(link, unanswered(close));
    this.left(link);
  }

  /** @param {Close} close */
  stopped(close) {
    this.#requests.failAll(unanswered(close));
    this.#receipts?.stop();
    this.writePlaces();
  }

  /** Writes the requests that wait; on a link that cannot send, tries to open a socket. */
  transmit() {
    const { link } = this.#connection;
    if (!this.#requests.waiting || !link) return;
    if (canSend(link)) this.#requests.transmit(link, () => link === this.#connection.link);
    else if (!this.#connection.openSocket()) this.#refuseWaiting(link);
  }

  /** @param {Transport} transport */
  notUpgraded(transport) {
    const { link } = this.#connection;
    if (link && transport === "websocket") this.#refuseWaiting(link);
    this.#sync();
  }

  /**
   * Over HTTP, the server refuses a whole request for one channel. The client continues without the channels to blame:
   * those that the error names, or else those that the link in use does not have.
   *
   * @param {Link} link
   * @param {Close} close
   */
  refuseChannels(link, { error, reason }) {
    if (error === undefined || !CHANNEL_ERRORS.has(error)) return false;
    const asked = this.#givenChannels().filter(({ name }) => link.channels?.has(name));
    const named = asked.filter(({ name }) => reason.includes(name));
    const blamed = named.length ? named : asked.filter(({ name }) => !this.#connection.link?.channels?.has(name));
    for (const channel of blamed) channel.refuse(new HeliographError(error, reason));
    return blamed.length > 0;
  }

  /** Keeps the position of each channel over page loads, and says what was received. */
  writePlaces() {
    this.#bookmark?.write(this.#placed());
    this.#receipts?.flush();
  }

  // --- requests

  /** @param {Link} link the one in use, which cannot send */
  #refuseWaiting({ transport }) {
    const words = `The server is reached by ${transport === "sse" ? "server-sent events" : "polling"} only`;
    this.#requests.failUntried(new HeliographError("no_socket", `${words}; sending needs a WebSocket`));
  }

  // --- subscriptions

  /**
   * @param {string} name
   * @param {boolean} replay
   * @param {boolean} resume
   */
  #add(name, replay, resume) {
    const channel = new Channel(name, { position: resume ? this.#placeIn(name) : null, replay, resume });
    this.#channels.set(name, channel);
    return channel;
  }

  /** @param {Subscription} subscription */
  #release(subscription) {
    const channel = this.#channels.get(subscription.channel);
    if (channel?.subscriptions.delete(subscription)) this.#sync();
  }

  /**
   * Whether the link in use is subscribed to the channel.
   *
   * @param {Channel} channel
   */
  #isOn({ name, position }) {
    const { link } = this.#connection;
    if (!link) return false;
    return this.#rosters.get(link)?.hears(name) ?? (link.channels?.has(name) && position !== null);
  }

  /** Leaves channels without subscriptions, unless one has come back in the same event-loop iteration. */
  #dropUnheard() {
    for (const channel of this.#channels.values()) {
      if (channel.subscriptions.size) continue;
      this.#channels.delete(channel.name);
      this.#bookmark?.forget(channel.name);
    }
  }

  /** Brings the link in line with the wanted subscriptions, once for all changes of this event-loop iteration. */
  #sync() {
    if (this.#syncing) return;
    this.#syncing = true;
    queueMicrotask(() => {
      this.#syncing = false;
      this.#dropUnheard();
      const { link } = this.#connection;
      if (!link) return;
      if (canSend(link)) this.#rosters.get(link)?.sync(this.#channels);
      else if (!sameNames(link.channels, this.#givenChannels())) this.#connection.replace();
    });
  }

  #givenChannels() {
    return [...this.#channels.values()].filter(({ refused }) => !refused);
  }

  /** @param {SendingLink} link */
  #roster(link) {
    return new Roster(
      link,
      this.#env,
      () => this.#requests.nextId(),
      (channel, error) => this.#channels.get(channel)?.refuse(error),
    );
  }

  // --- events of channels

  /**
   * The channel, if this link counts for it: on a socket, only after the answer to `subscribe`.
   *
   * @param {Link} link
   * @param {string} name
   */
  #channelOf(link, name) {
    if (name === this.#own?.name) return this.#own;
    const roster = this.#rosters.get(link);
    return roster && !roster.hears(name) ? undefined : this.#channels.get(name);
  }

  /**
   * @param {Link} link
   * @param {any} frame
   */
  #onMessage(link, frame) {
    const channel = this.#channelOf(link, frame.channel);
    if (!channel) return;
    if (frame.cursor) {
      const accepted = channel.accept(frame, link === this.#connection.link);
      if (accepted === "known") return;
      if (accepted === "late") this.#tell(channel, "lost", { channel: channel.name });
      this.#bookmark?.writeSoon(() => this.#placed());
    } else if (!this.#seen.add(frame.message_id)) {
      return;
    }
    this.#tell(channel, "message", { ...frame, deliveredBy: link.hello?.replica });
    if (frame.cursor) this.#receipts?.taken(channel.name, frame.cursor);
  }

  /**
   * @param {Map<string, string>} due
   * @returns {Promise<Said>}
   */
  async #sayReceived(due) {
    const { link } = this.#connection;
    if (!link) return "later";
    const channels = link.channels ?? { has: (/** @type {string} */ name) => this.#rosters.get(link)?.hears(name) };
    const cursors = [...due].filter(([name]) => name === this.#own?.name || channels.has(name));
    if (!cursors.length) return "noted"; // it is on none of them any more
    const cursor = cursors.map(([, each]) => each).join("&");
    if (link.received) return link.received(cursor, this.#device);
    try {
      await this.request({ type: "received", cursor });
      return "noted";
    } catch (error) {
      return NOT_NOW.has(/** @type {HeliographError} */ (error).code) ? "later" : "refused";
    }
  }

  /**
   * @template {"message" | "lost"} E
   * @param {Channel} channel
   * @param {E} type
   * @param {ClientEvents[E]} value
   */
  #tell(channel, type, value) {
    if (channel === this.#own) this.#emit(type, value);
    else channel.emit(type, /** @type {any} */ (value));
  }

  /**
   * @param {Link} link
   * @param {any} frame
   */
  #onSubscribed(link, frame) {
    const roster = this.#rosters.get(link);
    const isOwn = frame.channel === this.#own?.name;
    if (roster && !isOwn && !roster.subscribed(frame)) return;
    link.lastSubscribed = frame.channel; // the state of a run follows, without the channel's name
    const channel = isOwn ? this.#own : this.#channels.get(frame.channel);
    if (!channel) return;
    const anew = channel.position === null;
    const lost = channel.begin(frame);
    if (!isOwn) channel.emit("subscribed", { channel: channel.name, recovered: frame.recovered, lost, anew });
    if (lost) this.#tell(channel, "lost", { channel: channel.name });
    this.#bookmark?.writeSoon(() => this.#placed());
  }

  // --- positions, kept over page loads if `resume` says so

  /** @param {string} channel */
  #placeIn(channel) {
    return this.#bookmark?.placeIn(channel) ?? null;
  }

  /** The channels whose positions are kept. A run has none: its state is sent again. */
  #placed() {
    const channels = [...this.#channels.values()].filter(({ resumes, run }) => resumes && !run);
    return [...(this.#own ? [this.#own] : []), ...channels].filter(({ position }) => position);
  }
}

/**
 * @param {Set<string> | undefined} names
 * @param {Channel[]} channels
 */
const sameNames = (names, channels) =>
  names !== undefined && names.size === channels.length && channels.every(({ name }) => names.has(name));

/** @param {string} user */
const personal = (user) => `#${user}`;

/**
 * @param {Close} close
 * @returns {HeliographError} for what was not answered before the connection closed
 */
function unanswered({ code, reason }) {
  const why = reason ? `${code}: ${reason}` : `${code}`;
  return new HeliographError("closed", `The connection closed before the answer came (${why})`);
}

/** @param {number} bytes */
function randomHex(bytes) {
  const numbers = crypto.getRandomValues(new Uint8Array(bytes));
  return [...numbers].map((number) => number.toString(16).padStart(2, "0")).join("");
}
