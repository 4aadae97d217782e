import { Emitter } from "./client/emitter.js";

const INTERVAL_MS = 2_000;
const TIMEOUT_MS = 5_000;

/**
 * The replicas, asked for every two seconds while somebody is looking.
 *
 * Events: `answer` (the body of `GET /api/cluster`), `failure` (why there was none, in words).
 */
export class Cluster {
  #events = new Emitter();
  #timer = null;
  #asking = false;

  /** @returns {() => void} takes the listener off again */
  on(event, listener) {
    return this.#events.on(event, listener);
  }

  /** Asks once even if nobody looks: a page opened in the background wants to begin, too. */
  start() {
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#ask();
    });
    this.#ask();
  }

  async #ask() {
    clearTimeout(this.#timer);
    if (this.#asking) return;
    this.#asking = true;
    try {
      this.#events.emit("answer", await fetchCluster());
    } catch (error) {
      this.#events.emit("failure", error.name === "TimeoutError" ? "no answer in time" : error.message);
    }
    this.#asking = false;
    this.#timer = setTimeout(() => {
      if (!document.hidden) this.#ask();
    }, INTERVAL_MS);
  }
}

async function fetchCluster() {
  const response = await fetch("/api/cluster", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  return response.json();
}
