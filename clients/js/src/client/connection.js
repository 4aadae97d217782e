import { Backoff } from "./backoff.js";
import { EXPIRED, INVALID_TOKEN, mayReconnect } from "./codes.js";
import { endpointOf } from "./endpoint.js";
import { HeliographError } from "./error.js";
import { canSend } from "./link.js";
import { PollLink } from "./poll_link.js";
import { SocketLink } from "./socket_link.js";
import { StreamLink } from "./stream_link.js";
import { TransportSelector } from "./transport_selector.js";

/** @import { Hello, State, Transport } from "../heliograph.js" */
/** @import { Credentials } from "./credentials.js" */
/** @import { Environment } from "./environment.js" */
/** @import { Close, Frame, Link, LinkHandlers, Place } from "./link.js" */

/**
 * From best to worst, with the endpoint of each, as seen from the WebSocket's.
 *
 * @type {Record<Transport, {Link: new (env: Environment, handlers: LinkHandlers) => Link, path?: string}>}
 */
const TRANSPORTS = {
  websocket: { Link: SocketLink },
  sse: { Link: StreamLink, path: "sse" },
  poll: { Link: PollLink, path: "api/poll" },
};
const ALL = /** @type {Transport[]} */ (Object.keys(TRANSPORTS));
const HANDSHAKE_MS = 5_000;
// A connection that lasted so long was a success; the next loss starts again with short delays.
const STABLE_MS = 5_000;
// How long the old connection is still listened to when a new one has taken over: what was on its
// way through the old replica when the new one took the user in must not be cut off.
const OVERLAP_MS = 1_000;
// After a hint that the network has changed, an answer is expected sooner than in quiet times.
const HINT_PROBE_MS = 3_000;
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const RENEW_AGAIN_MS = 5_000;
// Before the page is asked for another token in place of one that the server did not take.
const OTHER_TOKEN_MS = 1_000;

/**
 * What a connection asks of its owner and tells it.
 *
 * @typedef {object} ConnectionHandlers
 * @property {(link: Link) => Place} place where this new link has to continue
 * @property {(link: Link, hello: Hello) => boolean} established this link is about to be the one in use; returns
 *   whether messages to the user are missing before those that it brings
 * @property {(hello: Hello, lost: boolean) => void} connected the link is in use; `lost`: as `established` said
 * @property {(link: Link, frame: Frame) => void} frame from any link that is listened to
 * @property {(link: Link) => boolean} isBusy whether something is still due before this replaced link may be left
 * @property {(link: Link) => void} left this link was closed from this side
 * @property {(link: Link, close: Close) => void} ended this link has ended; another may be in use
 * @property {() => void} transmit write the waiting requests to the link in use
 * @property {(link: Link, close: Close) => boolean} refuseChannels give up the channels for which the server refused
 *   this link; returns whether there are any
 * @property {(transport: Transport) => void} notUpgraded a better transport could not be opened; the link in use stays
 * @property {(token: string | undefined) => Promise<Frame>} refresh hand the server another token
 * @property {(error: HeliographError) => void} failed an error that belongs to no call
 * @property {() => void} paused the page may be ended without notice
 * @property {(close: Close) => void} stopped the connection is closed for good
 * @property {(state: State) => void} state called last in every transition: a listener may connect or close at once
 */

/**
 * One logical connection over any number of links: opens the first, replaces it before it ends (make before break),
 * changes transports, reconnects after a delay that grows, and renews the token. It does not know what frames mean.
 */
export class Connection {
  #env;
  #url;
  #credentials;
  #handlers;
  #backoff;
  /** @type {TransportSelector<Transport>} */
  #selector;

  /** @type {State} */
  #state = { state: "closed" };
  /** @type {?Link} */
  #link = null; // the one in use
  /** @type {?Link} */
  #opening = null; // the first, a replacement, or a successor beside `#link`
  /** @type {Set<Link>} */
  #leaving = new Set(); // replaced, and still listened to for a moment
  /** @type {any} */
  #openTimer = null; // until the next `#open()`
  /** @type {any} */
  #upgradeTimer = null; // until a better transport is tried
  /** @type {any} */
  #stableTimer = null;
  /** @type {any} */
  #renewTimer = null;
  #askedForOther = false; // for another token, since the last connection

  /**
   * @param {Environment} env
   * @param {{url: string, transports?: Transport[]}} options
   * @param {Credentials} credentials
   * @param {ConnectionHandlers} handlers
   */
  constructor(env, { url, transports = ALL }, credentials, handlers) {
    this.#env = env;
    this.#url = url;
    this.#credentials = credentials;
    this.#handlers = handlers;
    this.#backoff = new Backoff(env.random);
    this.#selector = new TransportSelector(transports, env.random);
  }

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /** @returns {?Link} the link in use */
  get link() {
    return this.#link;
  }

  /** @returns {Credentials} */
  get credentials() {
    return this.#credentials;
  }

  /**
   * Connects, or ends the wait for the next attempt.
   *
   * @param {Credentials} [credentials] used from now on; the connection must be closed then
   */
  connect(credentials = this.#credentials) {
    this.#credentials = credentials;
    if (this.#state.state === "closed") {
      this.#backoff.reset();
      this.#listen(true);
      this.#open();
      this.#setState({ state: "connecting" });
    } else {
      this.#hurry();
    }
  }

  close() {
    if (this.#state.state !== "closed") this.#stop({ code: 1000, reason: "" });
  }

  /**
   * Tries at once to get a socket, beside the link in use.
   *
   * @returns {boolean} whether sockets may be used at all
   */
  openSocket() {
    if (!this.#selector.has("websocket")) return false;
    if (!this.#opening) this.#open("websocket");
    return true;
  }

  /** Opens another link of the same transport, which takes over. */
  replace() {
    if (this.#link && !this.#opening) this.#open(this.#link.transport);
  }

  // --- one link

  #open(transport = this.#selector.current) {
    this.#cancelOpen();
    const { Link, path } = TRANSPORTS[transport];
    /** @type {Link} */
    const link = new Link(this.#env, {
      connected: (hello) => this.#onConnected(link, hello),
      moved: (replica) => {
        if (link === this.#link) this.#setState({ ...this.#state, replica });
      },
      frame: (frame) => this.#onFrame(link, frame),
      garbled: (error) => this.#handlers.failed(new HeliographError("bad_frame", error.message)),
      doubted: () => {
        if (link === this.#link) this.replace();
      },
      closed: (close) => this.#onClosed(link, close),
    });
    this.#opening = link;
    const endpoint = endpointOf(this.#url, path === undefined ? "ws" : "http", path);
    link.open(endpoint, this.#credentials, () => this.#handlers.place(link), HANDSHAKE_MS);
  }

  /** @param {number} ms */
  #openIn(ms) {
    this.#cancelOpen();
    this.#openTimer = this.#env.setTimeout(() => {
      this.#openTimer = null;
      if (this.#opening) return; // begun before the link in use was closed: it may succeed
      this.#open(this.#link?.transport);
      if (!this.#link) this.#setState({ ...this.#state, retryInMs: 0 });
    }, ms);
  }

  #cancelOpen() {
    this.#env.clearTimeout(this.#openTimer);
    this.#openTimer = null;
  }

  /**
   * @param {Link} link
   * @param {Hello} hello
   */
  #onConnected(link, hello) {
    const lost = this.#handlers.established(link, hello);
    const left = this.#link;
    this.#opening = null;
    this.#link = link;
    this.#askedForOther = false;
    if (left) this.#leave(left);
    this.#selector.connected(link.transport);
    this.#env.clearTimeout(this.#stableTimer);
    this.#stableTimer = this.#env.setTimeout(() => this.#backoff.reset(), STABLE_MS);
    this.#upgradeLater();
    this.#renewIn(this.#credentials.renewInMs(hello.expires_in));
    const { user, session, replica } = hello;
    this.#setState({ state: "connected", user, session, replica, transport: link.transport });
    this.#handlers.connected(hello, lost);
  }

  /**
   * @param {Link} link
   * @param {Frame} frame
   */
  #onFrame(link, frame) {
    if (frame.type !== "reconnect") this.#handlers.frame(link, frame);
    else if (link === this.#link && !this.#opening) this.#openIn(frame.in_ms);
  }

  /**
   * Make before break: the old link is closed when nothing more is due on it, and the new one has every channel.
   *
   * @param {Link} link
   */
  #leave(link) {
    this.#leaving.add(link);
    const look = () => {
      if (!this.#leaving.has(link)) return;
      if (this.#handlers.isBusy(link)) {
        this.#env.setTimeout(look, OVERLAP_MS);
      } else {
        this.#leaving.delete(link);
        this.#hangUp(link);
      }
    };
    this.#env.setTimeout(look, OVERLAP_MS);
  }

  /** @param {Link} link */
  #hangUp(link) {
    link.close();
    this.#handlers.left(link);
  }

  /**
   * @param {Link} link
   * @param {Close} close
   */
  #onClosed(link, close) {
    this.#handlers.ended(link, close);
    if (this.#leaving.delete(link)) {
      this.#handlers.transmit();
      return;
    }

    if (link === this.#opening) {
      this.#opening = null;
      if (this.#handlers.refuseChannels(link, close)) this.#open(link.transport);
      else if (this.#link) this.#onSuccessorFailed(link, this.#link, close);
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
   * The link in use still serves.
   *
   * @param {Link} failed
   * @param {Link} inUse
   * @param {Close} close
   */
  #onSuccessorFailed(failed, inUse, close) {
    if (failed.transport !== inUse.transport) {
      this.#handlers.notUpgraded(failed.transport);
      this.#upgradeLater();
    } else if (mayReconnect(close.code)) {
      this.#openIn(this.#backoff.next());
    }
    // Otherwise the server has said that another try is pointless (the limit of connections, say): the old
    // link is served to its end, and followed by an ordinary reconnect.
  }

  /**
   * @param {Link} link
   * @param {Close} close
   */
  #retryOrStop(link, close) {
    if (close.code === INVALID_TOKEN && !close.unasked && this.#credentials.renewable && !this.#askedForOther) {
      // It may have expired on the way, or the clocks differ: the page is asked for another, once.
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

  /** @param {Close} close */
  #stop({ code, reason }) {
    this.#listen(false);
    this.#cancelOpen();
    for (const timer of [this.#stableTimer, this.#upgradeTimer, this.#renewTimer]) this.#env.clearTimeout(timer);
    const links = [this.#link, this.#opening, ...this.#leaving];
    this.#link = this.#opening = null;
    this.#leaving.clear();
    for (const link of links) if (link) this.#hangUp(link);
    this.#handlers.stopped({ code, reason });
    this.#setState({ state: "closed", code, reason });
  }

  /**
   * Called last in every transition: a listener may call `connect` or `close` at once.
   *
   * @param {State} state
   */
  #setState(state) {
    this.#state = state;
    this.#handlers.state(state);
  }

  // --- from a fallback back to a better transport

  #upgradeLater() {
    this.#env.clearTimeout(this.#upgradeTimer);
    if (!this.#selector.canUpgrade) return;
    this.#upgradeTimer = this.#env.setTimeout(() => this.#upgrade(), this.#selector.upgradeInMs);
  }

  #upgrade() {
    if (this.#link && !this.#opening && this.#openTimer === null) this.#open(this.#selector.upgrade());
    else this.#upgradeLater();
  }

  // --- a new token before the old one expires

  /** @param {?number} ms */
  #renewIn(ms) {
    this.#env.clearTimeout(this.#renewTimer);
    if (ms !== null) this.#renewTimer = this.#env.setTimeout(() => this.#renew(), Math.min(ms, LONGEST_TIMER_MS));
  }

  /** In band on a socket, with a new stream for server-sent events; a poll sends its token each time. */
  async #renew() {
    const link = this.#link;
    if (!link) return;
    if (!canSend(link)) {
      if (link.transport === "sse") this.replace();
      return;
    }
    try {
      const token = await this.#credentials.token();
      if (link !== this.#link) return;
      const { expires_in } = await this.#handlers.refresh(token);
      if (link === this.#link) this.#renewIn(this.#credentials.renewInMs(expires_in));
    } catch (error) {
      if (link !== this.#link) return;
      const { code, message } = /** @type {HeliographError} */ (error);
      this.#handlers.failed(new HeliographError(code ?? "token", `The token was not renewed: ${message}`));
      this.#renewIn(RENEW_AGAIN_MS);
    }
  }

  // --- hints from the browser

  /** @param {boolean} on */
  #listen(on) {
    const { host } = this.#env;
    const change = on ? "addEventListener" : "removeEventListener";
    host?.[change]("online", this.#onOnline);
    host?.[change]("offline", this.#onOffline);
    host?.[change]("visibilitychange", this.#onVisibility);
    host?.[change]("pagehide", this.#onPageHide);
  }

  #onOnline = () => this.#hurry();

  // No reason to hang up: a server on this machine or in this house is reachable all the same.
  #onOffline = () => this.#link?.probe(HINT_PROBE_MS);

  #onVisibility = () => {
    if (!this.#env.host?.document?.hidden) this.#hurry();
    else this.#handlers.paused(); // a phone may end a hidden page without a word
  };

  #onPageHide = () => this.#handlers.paused();

  /** Makes the next attempt at once, and finds out whether the link in use is alive. */
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
