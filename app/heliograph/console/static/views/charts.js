import { ClusterHistory } from "../cluster_history.js";
import { byId, element } from "../dom.js";
import { clock, span } from "../format.js";
import { Chart } from "./chart.js";
import { replicaName } from "./replica.js";

const COUNT = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const count = (value) => COUNT.format(value);

/** @type {import("./chart.js").Figure[]} */
const FIGURES = [
  { title: "Connections", of: (report) => report.connections, format: count, least: 4 },
  { title: "Users", of: (report) => report.users, format: count, least: 4 },
  { title: "Messages in, per second", of: (report) => report.messages_in_per_second, format: count, least: 4 },
  { title: "Messages out, per second", of: (report) => report.messages_out_per_second, format: count, least: 4 },
  { title: "Bus lag", of: (report) => report.bus_lag_ms, format: span, least: 2 },
  { title: "Canary age", of: (report) => report.canary_age_ms, format: span, least: 1000 },
];

/** The figures of the last minutes, side by side and by the same clock. */
export class ChartsView {
  #history = new ClusterHistory();
  #charts = FIGURES.map((figure) => new Chart(figure, this.#history, (at) => this.#point(at)));
  #at = null;

  /** @param {import("../cluster.js").Cluster} cluster */
  constructor(cluster) {
    byId("charts").append(...this.#charts.map(({ node }) => node));
    cluster.on("answer", ({ replicas }) => {
      this.#history.add(replicas);
      const names = this.#history.names();
      if (byId("legend").childElementCount !== names.length) {
        byId("legend").replaceChildren(...names.map((name) => element("li", {}, replicaName(name))));
      }
      this.#draw();
    });
    // Time passes, and nothing is known of the present.
    cluster.on("failure", () => {
      if (!this.#history.samples.length) return;
      this.#history.add([]);
      this.#draw();
    });
  }

  #point(at) {
    if (at === this.#at) return;
    this.#at = at;
    byId("charts-time").textContent = at === null ? "" : clock(new Date(at));
    this.#draw();
  }

  #draw() {
    for (const chart of this.#charts) chart.draw(this.#at);
  }
}
