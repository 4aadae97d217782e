import { Emitter } from "./emitter.js";
import { HeliographError } from "./error.js";

/**
 * One listener's part in a channel, as `subscribe` gives it.
 *
 * Events: `message`, `initial_state`, `progress`, `join`, `leave` (the server's frames), `subscribed`
 * (`{channel, recovered, lost, anew}`; `anew`: nothing was heard before, or by somebody else), `lost` (`{channel}`:
 * messages are missing before those that follow), `unsubscribed` (the server has ended it; it does not come back by
 * itself) and `error` (a HeliographError: not subscribed).
 */
export class Subscription {
  channel;
  /**
   * Fulfilled once the server has subscribed it; rejected if it refuses, or if it is over before.
   *
   * @type {Promise<void>}
   */
  ready;

  #events = new Emitter();
  #release;
  #settle;

  /**
   * @param {string} channel
   * @param {?((event: object) => void)} handler of `message`, `initial_state` and `progress`
   * @param {(subscription: Subscription) => void} release called once, when it is over
   */
  constructor(channel, handler, release) {
    this.channel = channel;
    this.#release = release;
    this.ready = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    this.ready.catch(() => {}); // whoever does not wait for it need not hear of it
    if (handler) for (const type of ["message", "initial_state", "progress"]) this.on(type, handler);
  }

  /**
   * @param {string} event see above
   * @param {(value: any) => void} listener
   * @returns {() => void} takes the listener off again
   */
  on(event, listener) {
    return this.#events.on(event, listener);
  }

  /** Hears nothing more. The channel is left when nobody else on this client listens to it. */
  unsubscribe() {
    this.#settle.reject(new HeliographError("closed", `The subscription to ${this.channel} has ended`));
    this.#release(this);
  }

  /** For the client: what has happened on the channel. */
  hear(type, value) {
    if (type === "subscribed") this.#settle.resolve();
    else if (type === "error") this.#settle.reject(value);
    else if (type === "unsubscribed") {
      this.#settle.reject(new HeliographError("not_allowed", `The server has ended the subscription to ${this.channel}`));
    }
    this.#events.emit(type, value);
  }
}
