import { beginningOf, formatCursor, positionIn } from "./position.js";

/** @import { SubscriptionEvents } from "./subscription.js" */
/** @import { HeliographError } from "./error.js" */
/** @import { Link } from "./link.js" */
/** @import { Position } from "./position.js" */
/** @import { Subscription } from "./subscription.js" */

// As many messages of a run are kept as the server keeps.
const RUN_LOGS = 1000;

/**
 * One channel as this client has received it, over any number of connections: in order, nothing twice.
 *
 * While a connection replaces another, both bring the same messages. Messages that are kept are told apart by their
 * positions. A run's progress has none: only that of the connection which gave the run's state last counts.
 */
export class Channel {
  name;
  /** @type {?Position} of the last message received */
  position = null;
  /** @type {?{state: ?string, progress: number, logs: string[]}} if this is a run: how it is now */
  run = null;
  /** The server refuses it to this client: over HTTP, asking again would cost all other channels. */
  refused = false;
  /** @type {Set<Subscription>} the channel is left when there is none */
  subscriptions = new Set();

  /** Its position is kept over page loads. */
  resumes;

  #replays;
  /** @type {?Link} */
  #stateFrom = null; // the connection that gave the run's state

  /**
   * @param {string} name
   * @param {object} [how]
   * @param {?Position} [how.position] of the last message that an earlier page received
   * @param {boolean} [how.replay] without a position, it begins with what is kept
   * @param {boolean} [how.resume] its position is kept over page loads
   */
  constructor(name, { position = null, replay = false, resume = false } = {}) {
    this.name = name;
    this.position = position;
    this.resumes = resume;
    this.#replays = replay;
  }

  /** Forgets everything: another user listens from now on. */
  forget() {
    this.position = null;
    this.run = null;
    this.refused = false;
    this.#stateFrom = null;
  }

  /** Where a new connection has to continue; empty for a run, whose state is sent again, and to begin now. */
  get resumeCursor() {
    if (this.run) return "";
    return formatCursor([this]) || (this.#replays ? beginningOf(this.name) : "");
  }

  /**
   * @param {{cursor: string, recovered: boolean}} frame `subscribed`
   * @returns {boolean} whether messages may be missing between the last one received and the next
   */
  begin({ cursor, recovered }) {
    this.refused = false;
    const before = this.position;
    const begins = positionIn(cursor);
    if (before && before.epoch === begins.epoch && before.offset >= begins.offset) return false;
    if (!before || !recovered) this.position = begins;
    return before !== null && !recovered && !this.run;
  }

  /**
   * @param {{cursor: string}} frame a `message` that is kept
   * @param {boolean} inUse it came on the connection in use, not on one that is being left
   * @returns {"new" | "known" | "late"} late: it is new, messages before it are missing, and the
   *   server has not said so
   */
  accept({ cursor }, inUse) {
    const { epoch, offset } = positionIn(cursor);
    const known = this.position;
    if (known && (known.epoch === epoch ? offset <= known.offset : !inUse)) return "known";
    this.position = { epoch, offset };
    return known && (known.epoch !== epoch || offset !== known.offset + 1) ? "late" : "new";
  }

  /**
   * Takes the run's present state, from this connection.
   *
   * @param {any} frame `initial_state`
   * @param {Link} link
   */
  beginRun({ state, progress, logs }, link) {
    this.#stateFrom = link;
    this.run = { state, progress, logs: [...logs] };
  }

  /**
   * @param {any} frame `progress`
   * @param {Link} link
   * @returns {boolean} whether the update is new
   */
  advanceRun({ state, progress, message }, link) {
    if (link !== this.#stateFrom || !this.run) return false;
    this.run.state = state;
    this.run.progress = progress;
    if (message !== null && message !== undefined) this.run.logs.push(message);
    if (this.run.logs.length > 2 * RUN_LOGS) this.run.logs.splice(0, this.run.logs.length - RUN_LOGS);
    return true;
  }

  /** @param {HeliographError} error why the server refuses it */
  refuse(error) {
    this.refused = true;
    this.emit("error", error);
  }

  /**
   * Tells every subscription.
   *
   * @template {keyof SubscriptionEvents} E
   * @param {E} type
   * @param {SubscriptionEvents[E]} value
   */
  emit(type, value) {
    for (const subscription of [...this.subscriptions]) subscription.hear(type, value);
  }
}
