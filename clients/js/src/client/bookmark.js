/** @import { Channel } from "./channel.js" */
/** @import { Environment } from "./environment.js" */
/** @import { Position } from "./position.js" */

const PREFIX = "heliograph.places.";
// More channels than a connection may have; the one that was written longest ago is forgotten first.
const MOST_CHANNELS = 500;
// A crash of the page costs no more than receiving so much again.
const WRITE_AFTER_MS = 1_000;

/**
 * The position of each channel in this tab, kept over page loads: the next page continues from there.
 *
 * Storage throws if the browser forbids it, or if it is full: then the next page begins anew, and nothing else breaks.
 */
export class Bookmark {
  #storage;
  #key;
  #env;
  /** @type {any} */
  #timer = null;
  #user = "";
  /** @type {Map<string, Position>} by channel; what was written last stands last */
  #places = new Map();

  /**
   * @param {Pick<Storage, "getItem" | "setItem">} storage
   * @param {string} name tells several clients of one tab apart
   * @param {Pick<Environment, "setTimeout" | "clearTimeout">} env
   */
  constructor(storage, name, env) {
    this.#storage = storage;
    this.#key = PREFIX + name;
    this.#env = env;
    try {
      const { user, places } = JSON.parse(storage.getItem(this.#key) ?? "{}") ?? {};
      if (typeof user !== "string" || !Array.isArray(places)) return;
      this.#user = user;
      this.#places = new Map(places.map(([channel, epoch, offset]) => [channel, { epoch, offset }]));
    } catch {
      // Nothing is known: see above.
    }
  }

  /** The user whose positions these are; empty if nothing is known. */
  get user() {
    return this.#user;
  }

  /**
   * @param {string} channel
   * @returns {?Position}
   */
  placeIn(channel) {
    return this.#places.get(channel) ?? null;
  }

  /**
   * Forgets the positions of any other user.
   *
   * @param {string} user
   */
  belongTo(user) {
    if (user === this.#user) return;
    this.#user = user;
    this.#places.clear();
  }

  /** @param {string} channel */
  forget(channel) {
    this.#places.delete(channel);
  }

  /**
   * Writes soon, once for all messages until then.
   *
   * @param {() => Iterable<Channel>} channels asked when it is time
   */
  writeSoon(channels) {
    this.#timer ??= this.#env.setTimeout(() => this.write(channels()), WRITE_AFTER_MS);
  }

  /** @param {Iterable<Channel>} channels */
  write(channels) {
    this.#env.clearTimeout(this.#timer);
    this.#timer = null;
    for (const { name, position } of channels) {
      if (!position) continue;
      this.#places.delete(name);
      this.#places.set(name, position);
    }
    for (const name of this.#places.keys()) {
      if (this.#places.size <= MOST_CHANNELS) break;
      this.#places.delete(name);
    }
    const places = [...this.#places].map(([name, { epoch, offset }]) => [name, epoch, offset]);
    try {
      this.#storage.setItem(this.#key, JSON.stringify({ user: this.#user, places }));
    } catch {
      // Not kept: see above.
    }
  }
}
