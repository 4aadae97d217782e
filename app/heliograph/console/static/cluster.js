import { Emitter } from "./client/emitter.js";

const INTERVAL_MS = 2_000;
const TIMEOUT_MS = 5_000;

/**
 * The replicas, requested every two seconds while the page is visible.
 *
 * Events: `answer` (the body of `GET /api/cluster`), `failure` (`{why, refused}`: why there was no answer, in words;
 * and whether the server refused it).
 */
export class Cluster {
  #events = new Emitter();
  #timer = null;
  #asking = false;
  #token = "";

  /** @returns {() => void} removes the listener */
  on(event, listener) {
    return this.#events.on(event, listener);
  }

  /** In jwt mode only a client with a token may see the replicas. */
  authorize(token) {
    this.#token = token;
    this.ask();
  }

  /** Asks once even if the page is hidden: a page that is opened in the background has to begin, too. */
  start() {
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.ask();
    });
    this.ask();
  }

  /** Asks now, and then again every two seconds. */
  async ask() {
    clearTimeout(this.#timer);
    if (this.#asking) return;
    this.#asking = true;
    try {
      this.#events.emit("answer", await fetchCluster(this.#token));
    } catch (error) {
      const why = error.name === "TimeoutError" ? "no answer in time" : error.message;
      this.#events.emit("failure", { why, refused: error.refused ?? false });
    }
    this.#asking = false;
    this.#timer = setTimeout(() => {
      if (!document.hidden) this.ask();
    }, INTERVAL_MS);
  }
}

async function fetchCluster(token) {
  // With the second header the cookie of an operator counts, too.
  const headers = { ...(token && { Authorization: `Bearer ${token}` }), "X-Heliograph-Console": "1" };
  const response = await fetch("api/cluster", {
    headers,
    cache: "no-store",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (!response.ok) {
    const refused = [401, 403, 404].includes(response.status);
    throw Object.assign(new Error(`HTTP ${response.status}`), { refused });
  }
  return response.json();
}
