import { byId, element } from "../dom.js";
import { bytes, counted, duration, moment } from "../format.js";
import { addressOf } from "../navigation.js";
import { BlockedList } from "./blocked.js";
import { ConnectionDetails } from "./connection_details.js";
import { OperatorView } from "./operator_view.js";
import { Pager } from "./pager.js";
import { replicaName } from "./replica.js";
import { nameOf, Table } from "./table.js";

const LIMIT = 50;
const SEARCH_MS = 250; // after the last letter

/** @type {import("./table.js").Column[]} */
const COLUMNS = [
  { name: "user", title: "User", sort: "user" },
  { name: "replica", title: "Replica" },
  { name: "transport", title: "Transport" },
  { name: "since", title: "Connected", sort: "newest", isNumber: true },
  { name: "channels", title: "Channels", sort: "channels", isNumber: true },
  { name: "sent", title: "Sent", sort: "sent", isNumber: true },
  { name: "received", title: "Received", sort: "received", isNumber: true },
  { name: "outbox", title: "Outbox", sort: "outbox", isNumber: true },
];
const ASCENDING = ["user", "newest"]; // the duration since a connection was made rises

/** The address of the list of a channel's connections. */
export const connectionsOn = (channel) => addressOf("connections", new URLSearchParams({ channel }).toString());

/** The connections of all replicas. */
export class ConnectionsView {
  #session;
  #view;
  #pager = new Pager(() => this.#view.refresh());
  #table = new Table("Connections", COLUMNS, (sort) => {
    byId("connections-sort").value = sort;
    this.#changed();
  });
  #details;
  #blocked;
  #timer = null;
  #subject = "";

  /**
   * @param {import("../operator_session.js").OperatorSession} session
   * @param {import("../cluster.js").Cluster} cluster
   * @param {() => void} logIn
   */
  constructor(session, cluster, logIn) {
    this.#session = session;
    byId("connections-list").append(this.#table.node, this.#pager.node);
    this.#details = new ConnectionDetails(session, () => this.#view.refresh());
    this.#blocked = new BlockedList(session, () => this.#view.refresh());
    this.#view = new OperatorView(byId("connections-view"), session, {
      logIn,
      load: () => this.#load(),
      isPaused: () => this.#details.isOpen,
    });
    byId("connections-form").addEventListener("submit", (event) => event.preventDefault());
    byId("connections-search").addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#changed(), SEARCH_MS);
    });
    for (const id of ["connections-sort", "connections-transport", "connections-replica"]) {
      byId(id).addEventListener("change", () => this.#changed());
    }
    byId("connections-channel").addEventListener("click", () => {
      location.hash = addressOf("connections", "all");
    });
    cluster.on("answer", ({ replicas }) => this.#offer(replicas));
  }

  /**
   * @param {string} subject `channel=…` or `user=…`: only those; empty: whatever was listed before
   * @returns {string} what is listed
   */
  open(subject) {
    if (subject && subject !== this.#subject) {
      this.#subject = subject === "all" ? "" : subject;
      this.#pager.reset();
    }
    const channel = this.#only("channel");
    byId("connections-channel").hidden = !channel;
    byId("connections-channel-name").textContent = channel;
    const user = this.#only("user");
    if (user) byId("connections-search").value = user;
    this.#view.open();
    return this.#subject;
  }

  leave() {
    this.#view.leave();
  }

  #only(name) {
    return new URLSearchParams(this.#subject).get(name) ?? "";
  }

  /** The filters or the order: pages begin again. */
  #changed() {
    this.#pager.reset();
    this.#view.refresh();
  }

  async #load() {
    const sort = byId("connections-sort").value;
    const answer = await this.#session.call("connections", {
      search: byId("connections-search").value.trim(),
      channel: this.#only("channel"),
      transport: byId("connections-transport").value,
      replica: byId("connections-replica").value,
      sort,
      limit: LIMIT,
      cursor: this.#pager.cursor,
    });
    await this.#blocked.load();
    return () => this.#show(sort, answer);
  }

  #show(sort, { connections, total, replicas, next = "", error = "" }) {
    this.#table.showSort(sort, ASCENDING.includes(sort) ? "ascending" : "descending");
    const now = Date.now();
    this.#table.show(
      connections.map((each) => this.#row(each, now)),
      "No connections match.",
    );
    this.#pager.show(next, counted(total, "connection"));
    const silent = replicas.filter((each) => each.error).map((each) => `${each.name}: ${each.error}`);
    const problems = error ? [`Only one replica was asked: ${error}`] : silent;
    byId("connections-problem").textContent = problems.length ? `Not everything is listed. ${problems.join(" · ")}` : "";
    byId("connections-problem").hidden = problems.length === 0;
  }

  #row(connection, now) {
    const at = new Date(connection.connected_at * 1000);
    const open = element("button", { type: "button", class: "name-button", "aria-haspopup": "dialog" }, nameOf(connection.user));
    open.addEventListener("click", () => this.#details.open(connection));
    const outbox = element("span", { class: connection.outbox_bytes > 0 ? "late" : null }, bytes(connection.outbox_bytes));
    return {
      key: connection.client,
      cells: {
        user: open,
        replica: replicaName(connection.replica),
        transport: element("span", { title: connection.protocol }, connection.transport),
        since: element("time", { datetime: at.toISOString(), title: moment(at) }, duration(now - at)),
        channels: connection.channels.toLocaleString(),
        sent: connection.sent.toLocaleString(),
        received: connection.received.toLocaleString(),
        outbox: connection.paused && connection.outbox_bytes ? element("span", {}, outbox, element("span", { class: "badge stalled", title: "The client does not read" }, "stalled")) : outbox,
      },
    };
  }

  #offer(replicas) {
    const select = byId("connections-replica");
    const names = [...new Set(replicas.map(({ name }) => name))];
    const known = [...select.options].slice(1).map(({ value }) => value);
    if (select.value && !names.includes(select.value)) names.push(select.value);
    if (names.join("\n") === known.join("\n")) return;
    const chosen = select.value;
    select.replaceChildren(select.options[0], ...names.map((name) => element("option", { value: name }, name)));
    select.value = chosen;
  }
}
