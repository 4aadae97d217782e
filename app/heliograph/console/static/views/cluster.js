import { byId, element } from "../dom.js";
import { counted, duration } from "../format.js";
import { hue, replicaName, troubleOf } from "./replica.js";

const GONE_MS = 10_000;
// Replicas report about once a second; a report that is older means that the replica hangs.
const LATE_MS = 3_000;
const FLASH = [{ boxShadow: "0 0 0 0 var(--sun)" }, { boxShadow: "0 0 0 7px transparent" }];
const FLASH_MS = 700;

/** The replicas, one card each. */
export class ClusterView {
  /** @type {Map<string, Card>} by name */
  #cards = new Map();
  #here = null;
  #answeredAt = null;
  #calm = matchMedia("(prefers-reduced-motion: reduce)");

  /** @param {import("../cluster.js").Cluster} cluster */
  constructor(cluster) {
    cluster.on("answer", (answer) => this.#show(answer));
    cluster.on("failure", ({ why }) => this.#showFailure(why));
  }

  /** @param {?string} replica the one that serves this page's connection */
  setHere(replica) {
    this.#here = replica;
    for (const card of this.#cards.values()) card.setHere(card.name === replica);
  }

  /** A message passed through this replica. */
  flash(replica) {
    const card = this.#cards.get(replica);
    if (card && !this.#calm.matches) card.flash();
  }

  #show({ replica, replicas, error }) {
    const now = Date.now();
    this.#answeredAt = now;
    const live = newestByName(replicas);
    const most = Math.max(1, ...live.map(({ connections }) => connections));
    for (const report of live) this.#card(report.name).show(report, most, now);
    for (const [name, card] of this.#cards) {
      if (live.some((report) => report.name === name)) continue;
      // With an error, the replica that answers can tell about itself alone.
      if (error) card.showUnknown();
      else card.showGone(now);
      if (card.goneAt !== null && now - card.goneAt >= GONE_MS) {
        card.node.remove();
        this.#cards.delete(name);
      }
    }
    const connections = live.reduce((sum, report) => sum + report.connections, 0);
    byId("cluster-sum").textContent = `${live.length} · ${counted(connections, "connection")}`;
    byId("cluster-problem").hidden = !error;
    byId("cluster-problem").textContent = error && live.length ? `Only ${replica} can be seen: ${error}` : (error ?? "");
    byId("cluster-foot").replaceChildren("As told by ", replicaName(replica), `, every 2 s`);
  }

  #showFailure(why) {
    const age = this.#answeredAt === null ? "" : ` Last answer ${duration(Date.now() - this.#answeredAt)} ago.`;
    byId("cluster-problem").textContent = `The cluster does not answer (${why}).${age}`;
    byId("cluster-problem").hidden = false;
    for (const card of this.#cards.values()) card.showUnknown();
    byId("cluster-sum").textContent = "";
    byId("cluster-foot").textContent = "Asking again every 2 s";
  }

  #card(name) {
    let card = this.#cards.get(name);
    if (!card) {
      card = new Card(name);
      card.setHere(name === this.#here);
      this.#cards.set(name, card);
      const next = [...this.#cards.values()]
        .filter((other) => other !== card && compare(other.name, name) > 0)
        .sort((a, b) => compare(a.name, b.name))[0];
      byId("replicas").insertBefore(card.node, next?.node ?? null);
    }
    return card;
  }
}

class Card {
  /** @type {?number} since when the cluster no longer lists it */
  goneAt = null;

  #dot;
  #here = element("span", { class: "badge here", hidden: true }, "you are here");
  #state = element("span", { class: "badge" });
  #reason = element("p", { class: "reason", hidden: true });
  #bar = element("span", { class: "fill" });
  #figures = {};

  constructor(name) {
    this.name = name;
    this.#dot = replicaName(name);
    const figure = (key, label) => {
      this.#figures[key] = element("dd", { "data-figure": key });
      return element("div", {}, element("dt", {}, label), this.#figures[key]);
    };
    this.node = element(
      "li",
      { class: "card", "data-replica": name, "data-hue": hue(name) },
      element("div", { class: "title" }, this.#dot, this.#here, this.#state),
      this.#reason,
      element("span", { class: "share", "aria-hidden": "true" }, this.#bar),
      element(
        "dl",
        {},
        figure("connections", "Connections"),
        figure("users", "Users"),
        figure("uptime", "Up"),
        figure("heartbeat", "Heartbeat"),
      ),
    );
  }

  setHere(here) {
    this.#here.hidden = !here;
    this.node.classList.toggle("is-here", here);
  }

  show(report, most, now) {
    this.goneAt = null;
    const { draining, ready } = report;
    const trouble = troubleOf(report);
    this.#showState(draining ? "draining" : !ready ? "not ready" : trouble ? "degraded" : "ready", trouble);
    this.#figures.connections.textContent = report.connections.toLocaleString();
    this.#figures.users.textContent = report.users.toLocaleString();
    this.#figures.uptime.textContent = duration(now - Date.parse(report.started_at));
    this.#figures.heartbeat.textContent = `${(report.seen_ms / 1000).toFixed(1)} s`;
    this.#figures.heartbeat.classList.toggle("late", report.seen_ms > LATE_MS);
    this.#bar.style.setProperty("--share", report.connections / most);
    this.node.title = `Version ${report.version}, node ${report.node_id}`;
  }

  showGone(now) {
    this.goneAt ??= now;
    this.#showNothing("gone");
  }

  showUnknown() {
    this.goneAt = null;
    this.#showNothing("unknown");
  }

  flash() {
    if (this.#dot.getAnimations({ subtree: true }).length) return;
    this.#dot.animate(FLASH, { duration: FLASH_MS, pseudoElement: "::before" });
  }

  #showNothing(state) {
    this.#showState(state);
    this.#bar.style.setProperty("--share", 0);
    for (const figure of Object.values(this.#figures)) figure.textContent = "–";
  }

  #showState(state, trouble = "") {
    this.#state.textContent = state;
    this.node.dataset.state = state;
    this.#reason.textContent = trouble && trouble[0].toUpperCase() + trouble.slice(1);
    this.#reason.hidden = !trouble;
  }
}

const compare = (a, b) => a.localeCompare(b, undefined, { numeric: true });

/** A replica that was restarted may be listed twice until the report of its old life expires. */
function newestByName(replicas) {
  const newest = new Map();
  for (const report of replicas) {
    const other = newest.get(report.name);
    if (!other || other.started_at < report.started_at) newest.set(report.name, report);
  }
  return [...newest.values()];
}
