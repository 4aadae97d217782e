import { Emitter } from "./client/emitter.js";

const INTERVAL_MS = 2_000;
const TIMEOUT_MS = 5_000;

/**
 * The replicas, asked for every two seconds while somebody is looking.
 *
 * Events: `answer` (the body of `GET /api/cluster`), `failure` (`{why, refused}`: why there was none, in words; and
 * whether this page may not ask).
 */
export class Cluster {
  #events = new Emitter();
  #timer = null;
  #asking = false;
  #token = "";

  /** @returns {() => void} takes the listener off again */
  on(event, listener) {
    return this.#events.on(event, listener);
  }

  /** In jwt mode the replicas are told to who gives a token. */
  authorize(token) {
    this.#token = token;
    this.#ask();
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
      this.#events.emit("answer", await fetchCluster(this.#token));
    } catch (error) {
      const why = error.name === "TimeoutError" ? "no answer in time" : error.message;
      this.#events.emit("failure", { why, refused: error.refused ?? false });
    }
    this.#asking = false;
    this.#timer = setTimeout(() => {
      if (!document.hidden) this.#ask();
    }, INTERVAL_MS);
  }
}

async function fetchCluster(token) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
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
