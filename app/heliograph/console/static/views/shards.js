import { byId, element } from "../dom.js";
import { counted, duration, milliseconds } from "../format.js";
import { troubleOf } from "./replica.js";
import { Table } from "./table.js";

// Each second a replica publishes to itself in every shard: what is silent for longer has no excuse.
const LATE_MS = 3_000;

/** The shards, one row each, as the replica that answers sees them. With one Redis there is nothing to see. */
export class ShardsView {
  #table = new Table("Shards", [
    { name: "shard", title: "Shard" },
    { name: "state", title: "State" },
    { name: "unheard", title: "Unheard for", isNumber: true },
    { name: "lag", title: "Bus lag", isNumber: true },
    { name: "memory", title: "Memory", isNumber: true },
    { name: "received", title: "Received", isNumber: true },
    { name: "published", title: "Published", isNumber: true },
  ]);

  /** @param {import("../cluster.js").Cluster} cluster */
  constructor(cluster) {
    byId("shards-list").append(this.#table.node);
    cluster.on("answer", ({ shards = [], replica }) => this.#show(shards, replica));
    cluster.on("failure", () => this.#show([], ""));
  }

  #show(shards, replica) {
    byId("shards").hidden = shards.length === 0;
    const troubled = shards.filter(({ reason }) => reason);
    byId("shards-sum").textContent = troubled.length
      ? `${troubled.length} of ${shards.length} in trouble, as ${replica} sees them`
      : `${counted(shards.length, "shard")}, as ${replica} sees them`;
    this.#table.show(shards.map((each) => row(each, shards.length)), "");
    const problem = byId("shards-problem");
    const text = troubled.map((each) => `Shard ${each.shard} of ${shards.length}, as ${replica} sees it: ${troubleOf(each)}.`).join(" ");
    if (problem.textContent !== text) problem.textContent = text;
    problem.hidden = !text;
  }
}

function row({ shard, works, reason, unheard_ms, bus_lag_ms, memory_ratio, received, published }, count) {
  const state = !works ? "gone" : reason ? "degraded" : "ready";
  const badge = element("span", { class: "badge" }, works ? state : "not working");
  const why = reason ? element("span", { class: "aside" }, ` ${troubleOf({ reason })}`) : "";
  const silence = unheard_ms === null ? "never heard" : unheard_ms < LATE_MS ? milliseconds(unheard_ms) : duration(unheard_ms);
  const isLate = unheard_ms === null || unheard_ms >= LATE_MS;
  return {
    key: String(shard),
    attributes: { "data-state": state, "data-shard": String(shard) },
    cells: {
      shard: `${shard} of ${count}`,
      state: element("span", {}, badge, why),
      unheard: element("span", { class: isLate && "late" }, silence),
      lag: bus_lag_ms === null ? "–" : milliseconds(bus_lag_ms),
      memory: memory_ratio === null ? "–" : `${Math.round(100 * memory_ratio)} %`,
      received: received.toLocaleString(),
      published: published.toLocaleString(),
    },
  };
}
