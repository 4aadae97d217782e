import { Emitter } from "./emitter.js";
import { HeliographError } from "./error.js";

/** @import { InitialState, Member, Message, Progress, Subscribed } from "../heliograph.js" */

/**
 * @typedef {object} SubscriptionEvents
 * @property {Message} message
 * @property {InitialState} initial_state
 * @property {Progress} progress
 * @property {Member} join
 * @property {Member} leave
 * @property {Subscribed} subscribed
 * @property {{channel: string}} lost messages are missing before those that follow
 * @property {{channel: string}} unsubscribed the server has ended it; it does not come back by itself
 * @property {HeliographError} error the server refused to subscribe it
 */

/** What `subscribe` returns: one listener of a channel. {@link SubscriptionEvents} says what `on` listens to. */
export class Subscription {
  channel;
  /**
   * Resolves once the server has subscribed it; rejects if the server refuses, or if the subscription ends before.
   *
   * @type {Promise<void>}
   */
  ready;

  /** @type {Emitter<SubscriptionEvents>} */
  #events = new Emitter();
  #release;
  /** @type {() => void} */
  #succeed = () => {};
  /** @type {(error: HeliographError) => void} */
  #fail = () => {};

  /**
   * @param {string} channel
   * @param {?((event: any) => void)} handler of `message`, `initial_state` and `progress`
   * @param {(subscription: Subscription) => void} release called when the page unsubscribes
   */
  constructor(channel, handler, release) {
    this.channel = channel;
    this.#release = release;
    this.ready = new Promise((resolve, reject) => {
      this.#succeed = resolve;
      this.#fail = reject;
    });
    this.ready.catch(() => {}); // a page that does not await it gets no unhandled rejection
    if (!handler) return;
    this.on("message", handler);
    this.on("initial_state", handler);
    this.on("progress", handler);
  }

  /**
   * @template {keyof SubscriptionEvents} E
   * @param {E} event
   * @param {(value: SubscriptionEvents[E]) => void} listener
   * @returns {() => void} removes the listener
   */
  on(event, listener) {
    return this.#events.on(event, listener);
  }

  /** Ends it. The client leaves the channel when it has no other subscription to it. */
  unsubscribe() {
    this.#fail(new HeliographError("closed", `The subscription to ${this.channel} has ended`));
    this.#release(this);
  }

  /**
   * For the client: emits what has happened on the channel.
   *
   * @internal
   * @template {keyof SubscriptionEvents} E
   * @param {E} type
   * @param {SubscriptionEvents[E]} value
   */
  hear(type, value) {
    if (type === "subscribed") this.#succeed();
    else if (type === "error") this.#fail(/** @type {HeliographError} */ (value));
    else if (type === "unsubscribed") {
      this.#fail(new HeliographError("not_allowed", `The server has ended the subscription to ${this.channel}`));
    }
    this.#events.emit(type, value);
  }
}
