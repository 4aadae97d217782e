import { Emitter } from "./client/emitter.js";

const POLL_MS = 2_000;
const FIRST_POLL_MS = 500; // a socket that is just being opened is waited for so long
const TAIL = 1000; // as many log lines as the server gives with a run's state

const hasEnded = (state) => state === "END" || state === "FAILED";

/**
 * Follows one run: live while there is a socket, otherwise by requesting its state every two seconds until it has
 * ended, and live again when the socket is back.
 *
 * On the other transports it polls as well: there, a subscription would need another stream, and a run's state is one
 * small answer.
 *
 * Events: `begin` (another run is watched), `state` (`{state, progress}`), `lines` (new log lines), `skipped` (log
 * lines are missing before the next), `source` (`{source, error}`: where the state comes from).
 */
export class RunWatch {
  #client;
  #events = new Emitter();
  #runId = "";
  #subscription = null;
  #timer = null;
  #known = []; // the last log lines
  #state = null;
  #source = "off";
  #asking = 0; // which question counts: answers to earlier ones come too late

  /** @param {import("./heliograph.js").Heliograph} client */
  constructor(client) {
    this.#client = client;
    client.on("state", () => this.#arrange());
  }

  on(event, listener) {
    return this.#events.on(event, listener);
  }

  get runId() {
    return this.#runId;
  }

  /** @param {string} runId empty: none */
  watch(runId) {
    if (runId === this.#runId) return;
    this.#leaveSocket();
    this.#stopAsking();
    this.#runId = runId;
    this.#known = [];
    this.#state = null;
    this.#source = "off";
    this.#events.emit("begin", runId);
    if (runId) this.#arrange();
  }

  #arrange() {
    if (!this.#runId) return;
    const { state, transport, code } = this.#client.state;
    if (state === "connected" && transport === "websocket") {
      this.#stopAsking();
      this.#listen();
      return;
    }
    this.#leaveSocket();
    if (state === "closed" && (code === undefined || code === 1000)) {
      this.#stopAsking();
      this.#tell("off");
    } else if (this.#timer === null && !hasEnded(this.#state)) {
      this.#tell("connecting");
      this.#timer = setTimeout(() => this.#ask(), FIRST_POLL_MS);
    }
  }

  #listen() {
    if (this.#subscription) return;
    this.#tell("connecting");
    const subscription = this.#client.subscribe(`run:${this.#runId}`, null, { resume: false });
    this.#subscription = subscription;
    subscription.on("initial_state", (frame) => {
      this.#take(frame);
      this.#tell("live");
    });
    subscription.on("progress", ({ state, progress, message }) => {
      this.#show(state, progress);
      if (message !== null) this.#add([message]);
    });
    subscription.on("error", (error) => this.#tell("refused", error.message));
    subscription.on("unsubscribed", () => this.#tell("refused", "ended by the server"));
  }

  #leaveSocket() {
    this.#subscription?.unsubscribe();
    this.#subscription = null;
  }

  #stopAsking() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#asking += 1;
  }

  async #ask() {
    const question = ++this.#asking;
    let error = "";
    try {
      const run = await this.#client.getRun(this.#runId);
      if (question !== this.#asking) return;
      if (run) this.#take(run);
    } catch (problem) {
      if (question !== this.#asking) return;
      error = problem.message;
    }
    this.#tell("polling", error);
    if (hasEnded(this.#state)) this.#timer = null;
    else this.#timer = setTimeout(() => this.#ask(), POLL_MS);
  }

  /** Finds what is new in the whole state, which has the end of the log. */
  #take({ state, progress, logs }) {
    this.#show(state, progress);
    const known = this.#known;
    let common = Math.min(known.length, logs.length);
    while (common > 0 && !endsWith(known, logs, common)) common -= 1;
    if (common === 0 && known.length > 0) this.#events.emit("skipped");
    this.#add(logs.slice(common));
  }

  #show(state, progress) {
    this.#state = state;
    this.#events.emit("state", { state, progress });
  }

  #add(lines) {
    if (!lines.length) return;
    this.#known.push(...lines);
    if (this.#known.length > 2 * TAIL) this.#known.splice(0, this.#known.length - TAIL);
    this.#events.emit("lines", lines);
  }

  #tell(source, error = "") {
    if (source === this.#source && !error) return;
    this.#source = source;
    this.#events.emit("source", { source, error });
  }
}

/** Whether `known` ends with the first `count` of `logs`. */
function endsWith(known, logs, count) {
  for (let i = 0; i < count; i += 1) if (known[known.length - count + i] !== logs[i]) return false;
  return true;
}
