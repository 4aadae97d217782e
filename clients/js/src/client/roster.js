/** @import { Channel } from "./channel.js" */
/** @import { Environment } from "./environment.js" */
/** @import { HeliographError } from "./error.js" */
/** @import { Frame, SendingLink } from "./link.js" */

// Refusals that pass: the client asks for the channel again a little later.
const FOR_NOW = new Set(["unavailable", "rate_limited"]);
const AGAIN_MS = 1_000;

/** Brings the channels of one socket in line with those that are wanted, and knows which of them are subscribed. */
export class Roster {
  #link;
  #env;
  #nextId;
  #onRefused;
  /** @type {Map<string, {id: string, channel: Channel, timer: any, state: "asked" | "on" | "off", anew: boolean}>} */
  #asked = new Map();

  /**
   * @param {SendingLink} link
   * @param {Pick<Environment, "setTimeout" | "clearTimeout" | "random">} env
   * @param {() => string} nextId
   * @param {(channel: string, error: HeliographError) => void} onRefused
   */
  constructor(link, env, nextId, onRefused) {
    this.#link = link;
    this.#env = env;
    this.#nextId = nextId;
    this.#onRefused = onRefused;
  }

  /** @param {Map<string, Channel>} wanted */
  sync(wanted) {
    for (const [name, asked] of this.#asked) {
      if (wanted.has(name)) continue;
      this.#env.clearTimeout(asked.timer);
      this.#asked.delete(name);
      if (asked.state !== "off") this.#leave(name);
    }
    for (const channel of wanted.values()) if (!this.#asked.has(channel.name)) this.#ask(channel);
  }

  /**
   * Asks with the next `sync` for a channel that was refused or ended.
   *
   * @param {string} channel
   */
  renew(channel) {
    const asked = this.#asked.get(channel);
    if (asked?.state === "off" && asked.timer === null) this.#asked.delete(channel);
  }

  /** Whether the server has answered for every channel. */
  get settled() {
    return [...this.#asked.values()].every(({ state }) => state !== "asked");
  }

  /**
   * Whether the channel is subscribed, by the last `subscribe` and no earlier one.
   *
   * @param {string} channel
   */
  hears(channel) {
    return this.#asked.get(channel)?.state === "on";
  }

  /**
   * @param {Frame} frame
   * @returns {boolean} whether the frame is about what is wanted now
   */
  subscribed({ channel, id }) {
    const asked = this.#asked.get(channel);
    if (!asked || (id === undefined ? asked.state !== "on" : id !== asked.id)) return false;
    asked.state = "on";
    return true;
  }

  /**
   * @param {Frame} frame
   * @returns {boolean} whether the server has ended a wanted subscription by itself
   */
  unsubscribed({ channel, id }) {
    const asked = this.#asked.get(channel);
    if (!asked || id !== undefined) return false;
    asked.state = "off";
    return true;
  }

  /**
   * A token may have subscribed the connection to the channel already, from another position than the client's. The
   * server then refuses to do it twice (`bad_request`), so the channel is left and asked for once more.
   *
   * @param {string | undefined} id
   * @param {HeliographError} error
   * @returns {boolean} whether the error answers one of these
   */
  failed(id, error) {
    for (const [name, asked] of this.#asked) {
      if (asked.state !== "asked" || asked.id !== id) continue;
      asked.state = "off";
      if (FOR_NOW.has(error.code)) {
        const againMs = (0.5 + this.#env.random()) * AGAIN_MS;
        asked.timer = this.#env.setTimeout(() => this.#ask(asked.channel), againMs);
      } else if (error.code === "bad_request" && !asked.anew) {
        this.#leave(name);
        this.#ask(asked.channel, true);
      } else {
        this.#onRefused(name, error);
      }
      return true;
    }
    return false;
  }

  /** The socket has ended. */
  close() {
    for (const { timer } of this.#asked.values()) this.#env.clearTimeout(timer);
    this.#asked.clear();
  }

  /** @param {string} channel */
  #leave(channel) {
    this.#link.send(JSON.stringify({ type: "unsubscribe", channel, id: this.#nextId() }));
  }

  /**
   * @param {Channel} channel
   * @param {boolean} [anew] it was left and is asked for once more
   */
  #ask(channel, anew = false) {
    const id = this.#nextId();
    const cursor = channel.resumeCursor || undefined;
    this.#asked.set(channel.name, { id, channel, timer: null, state: "asked", anew });
    this.#link.send(JSON.stringify({ type: "subscribe", channel: channel.name, cursor, id }));
  }
}
