import { announce, byId } from "../dom.js";
import { duration } from "../format.js";
import { recall, remember } from "../preferences.js";
import { hue } from "./replica.js";

const COUNTDOWN_MS = 250;

// For closes that carry no reason of their own.
const REASONS = {
  1001: "the other side went away",
  1006: "connection lost",
  1009: "message too large",
  1011: "server error",
  1012: "server restart",
  3001: "server shutdown",
  3005: "token expired",
  3008: "too slow in reading",
  3010: "too many connections",
  3012: "no sign of life",
  3500: "invalid token",
  3501: "bad request",
  3503: "disconnected by an operator",
  3507: "not allowed",
};

export const TRANSPORTS = { websocket: "WebSocket", sse: "server-sent events", poll: "polling" };

/** Why a connection ended, as one line. */
export const closeText = ({ code, reason }) => [code, reason || REASONS[code]].filter(Boolean).join(" · ");

/** Whether it ended for good, and not by the user's own wish. */
export const hasFailed = ({ state, code }) => state === "closed" && code !== 1000;

/** The state of the connection, and the user's identity. */
export class ConnectionView {
  #client;
  #onToken;
  #retryAt = 0;
  #countdown = null;
  #trouble = ""; // what the cluster cannot do, though there is a connection

  /**
   * @param {import("../heliograph.js").Heliograph} client
   * @param {(token: string) => void} onToken called with the token that is connected with
   */
  constructor(client, onToken) {
    this.#client = client;
    this.#onToken = onToken;
    byId("user").value = recall("user") ?? "";
    byId("connect-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (byId("token").disabled) this.connectAs(byId("user").value.trim());
      else this.#connect("–", { token: byId("token").value.trim() });
    });
    byId("retry").addEventListener("click", () => client.connect());
    byId("disconnect").addEventListener("click", () => client.close());
    client.on("state", (state) => this.#show(state));
  }

  /** @param {string} user */
  connectAs(user) {
    byId("user").value = user;
    remember("user", user);
    this.#connect(user, { user });
  }

  /** @param {"open" | "jwt"} mode how users identify themselves to the server */
  setAuth(mode) {
    for (const [name, wanted] of [["user", mode !== "jwt"], ["token", mode === "jwt"]]) {
      byId(`${name}-field`).hidden = !wanted;
      byId(name).disabled = !wanted;
    }
  }

  /** @param {string} trouble what the cluster cannot do at the moment; empty if all is well */
  setTrouble(trouble) {
    if (trouble === this.#trouble) return;
    this.#trouble = trouble;
    this.#showProblem(this.#client.state);
    this.#showState(this.#client.state);
    if (this.#client.state.state === "connected") announce(trouble || byId("state").textContent);
  }

  #connect(shownAs, credentials) {
    byId("me").textContent = shownAs;
    if (credentials.token) this.#onToken(credentials.token);
    this.#client.connect(credentials);
  }

  #show(state) {
    const closed = state.state === "closed";
    byId("connect-form").hidden = !closed;
    byId("identity").hidden = closed;
    byId("retry").hidden = state.state !== "reconnecting";
    this.#showProblem(state);
    if (state.user) byId("me").textContent = state.user;
    byId("session").textContent = byId("session").title = state.session ?? "–";
    const replica = byId("replica");
    replica.textContent = state.replica ?? "–";
    if (state.replica) replica.dataset.hue = hue(state.replica);
    else delete replica.dataset.hue;
    byId("transport").dataset.transport = state.transport ?? "";
    byId("transport").textContent = state.transport ? `by ${TRANSPORTS[state.transport]}` : "";

    // The button that was pressed is hidden now; the keyboard focus goes here. Not to
    // its successor, or a second Enter would undo what the first did.
    const focused = document.activeElement;
    if (byId("connection").contains(focused) && !focused.getClientRects().length) byId("connection").focus();

    this.#retryAt = performance.now() + (state.retryInMs ?? 0);
    clearInterval(this.#countdown);
    if (state.retryInMs) this.#countdown = setInterval(() => this.#showState(state), COUNTDOWN_MS);
    this.#showState(state);
    announce(byId("state").textContent);
  }

  #showProblem(state) {
    const degraded = state.state === "connected" && this.#trouble;
    byId("problem").hidden = !degraded && !hasFailed(state) && state.state !== "reconnecting";
    byId("problem").textContent = degraded || closeText(state);
    byId("problem").toggleAttribute("data-degraded", Boolean(degraded));
  }

  #showState(state) {
    const badge = byId("state");
    badge.dataset.state = state.state;
    badge.toggleAttribute("data-degraded", state.state === "connected" && Boolean(this.#trouble));
    badge.toggleAttribute("data-failed", hasFailed(state));
    badge.textContent = this.#stateText(state);
    badge.title = badge.textContent;
  }

  #stateText(state) {
    switch (state.state) {
      case "connecting":
        return "Connecting …";
      case "connected":
        return this.#trouble ? "Degraded" : "Connected";
      case "reconnecting": {
        const restMs = this.#retryAt - performance.now();
        return restMs > 0 ? `Reconnecting in ${duration(restMs + 999)}` : "Reconnecting …";
      }
      default:
        return hasFailed(state) ? `Closed ${closeText(state)}` : "Not connected";
    }
  }
}
