import { beginningOf, formatCursor, positionIn } from "./position.js";

/** @import { SubscriptionEvents } from "./subscription.js" */
/** @import { HeliographError } from "./error.js" */
/** @import { Link } from "./link.js" */
/** @import { Position } from "./position.js" */
/** @import { Subscription } from "./subscription.js" */

// As many messages of a run are kept as the server keeps.
const RUN_LOGS = 1000;

/**
 * One channel as this client has heard it, over however many connections: in order, nothing twice.
 *
 * While a connection replaces another, both bring the same messages. What is kept is told apart by its
 * position; a run's progress, which has none, counts from the connection alone that gave its state last.
 */
export class Channel {
  name;
  /** @type {?Position} up to where it was heard */
  position = null;
  /** @type {?{state: ?string, progress: number, logs: string[]}} if this is a run: how it is now */
  run = null;
  /** The server does not give it to this client: over HTTP, asking again would cost all others. */
  refused = false;
  /** @type {Set<Subscription>} the channel is left when there is none */
  subscriptions = new Set();

  /** Its place is kept over page loads. */
  resumes;

  #replays;
  /** @type {?Link} */
  #stateFrom = null; // the connection that gave the run's state

  /**
   * @param {string} name
   * @param {object} [how]
   * @param {?Position} [how.position] up to where an earlier page has heard it
   * @param {boolean} [how.replay] without a position, it begins with what is kept
   * @param {boolean} [how.resume] its place is kept over page loads
   */
  constructor(name, { position = null, replay = false, resume = false } = {}) {
    this.name = name;
    this.position = position;
    this.resumes = resume;
    this.#replays = replay;
  }

  /** Forgets what was heard: somebody else listens from now on. */
  forget() {
    this.position = null;
    this.run = null;
    this.refused = false;
    this.#stateFrom = null;
  }

  /** Where a new connection has to go on; empty for a run, whose state is given anew, and to begin now. */
  get resumeCursor() {
    if (this.run) return "";
    return formatCursor([this]) || (this.#replays ? beginningOf(this.name) : "");
  }

  /**
   * @param {{cursor: string, recovered: boolean}} frame `subscribed`
   * @returns {boolean} whether messages may be missing between what was heard and what comes now
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
   * @param {boolean} inUse it came by the connection in use, not by one that is being left
   * @returns {"new" | "known" | "late"} late: it is new, and the server has not told that messages before it are
   *   missing
   */
  accept({ cursor }, inUse) {
    const { epoch, offset } = positionIn(cursor);
    const known = this.position;
    if (known && (known.epoch === epoch ? offset <= known.offset : !inUse)) return "known";
    this.position = { epoch, offset };
    return known && (known.epoch !== epoch || offset !== known.offset + 1) ? "late" : "new";
  }

  /**
   * The run's state as of now, by this connection.
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

  /** @param {HeliographError} error why it is not given */
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
