import { announce, byId, element } from "../dom.js";
import { bytes, counted, duration, moment } from "../format.js";
import { addressOf } from "../navigation.js";
import { confirm } from "./confirm.js";
import { replicaName } from "./replica.js";
import { nameOf } from "./table.js";
import { traceOf } from "./trace.js";

const EVERY_MS = 2_000;
const BLOCKS = { 300: "5 minutes", 3600: "1 hour", 86400: "1 day", 604800: "1 week" };

/** One connection in a window of its own: all that is known of it, and what an operator can do about it. */
export class ConnectionDetails {
  #session;
  #onActed;
  #dialog = byId("connection-dialog");
  #connection = null;
  #timer = null;

  /**
   * @param {import("../operator_session.js").OperatorSession} session
   * @param {() => void} onActed something was done, so that lists are not true any more
   */
  constructor(session, onActed) {
    this.#session = session;
    this.#onActed = onActed;
    byId("connection-close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) this.#dialog.close();
    });
    byId("connection-trace").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => {
      clearTimeout(this.#timer);
      this.#connection = null;
      onActed();
    });
  }

  get isOpen() {
    return this.#dialog.open;
  }

  /** @param {object} connection as the API lists it */
  open(connection) {
    this.#connection = connection;
    byId("connection-name").replaceChildren(nameOf(connection.user));
    byId("connection-gone").hidden = true;
    byId("connection-channels").replaceChildren();
    byId("connection-trace").href = traceOf({ user: connection.user, connection: connection.client });
    this.#show(connection);
    this.#offerActions(connection);
    this.#dialog.showModal();
    this.#ask();
  }

  async #ask() {
    clearTimeout(this.#timer);
    const { client, user } = this.#connection;
    let found = null;
    try {
      const { connections, replicas } = await this.#session.call("connections", { user, client, with_channels: true });
      if (this.#connection?.client !== client) return;
      found = connections[0] ?? null;
      const isAll = replicas.every((each) => !each.error);
      this.#mark(found || !isAll ? "" : "This connection has ended.");
    } catch (error) {
      if (this.#connection?.client !== client) return;
      this.#mark(error.message);
    }
    if (found) this.#show(found);
    this.#timer = setTimeout(() => this.#ask(), EVERY_MS);
  }

  #mark(words) {
    byId("connection-gone").textContent = words;
    byId("connection-gone").hidden = !words;
  }

  #show(each) {
    const at = new Date(each.connected_at * 1000);
    const facts = {
      Client: element("span", { class: "mono wrap" }, each.client),
      Replica: replicaName(each.replica),
      Transport: `${each.transport}, ${each.protocol.replaceAll("_", " ")}`,
      Connected: `${moment(at)} (${duration(Date.now() - at)})`,
      Sent: counted(each.sent, "message"),
      Received: counted(each.received, "operation"),
      Outbox: `${bytes(each.outbox_bytes)}${each.paused ? " · the client does not read" : ""}`,
      ...(each.info !== null && { Info: element("code", { class: "mono wrap" }, JSON.stringify(each.info)) }),
      ...(each.info_bytes && { Info: `${bytes(each.info_bytes)}, too long to be shown` }),
    };
    byId("connection-facts").replaceChildren(
      ...Object.entries(facts).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
    );
    const names = each.channel_names;
    byId("connection-channels-sum").textContent = names.length < each.channels && names.length ? `${names.length} of ${each.channels}` : String(each.channels);
    if (!names.length) return;
    const present = [...byId("connection-channels").children].map((item) => item.dataset.channel);
    if (present.join("\n") === names.join("\n")) return;
    byId("connection-channels").replaceChildren(
      ...names.map((name) => {
        const link = element("a", { href: addressOf("browse", name) }, nameOf(name));
        link.addEventListener("click", () => this.#dialog.close());
        return element("li", { "data-channel": name }, link);
      }),
    );
  }

  #offerActions({ client, user }) {
    const place = byId("connection-actions");
    const button = (words, act) => {
      const made = element("button", { type: "button", class: "button" }, words);
      made.addEventListener("click", act);
      return made;
    };
    const bold = element("bdi", { class: "name" }, user);
    const one = button("Disconnect", () =>
      confirm(place, ["Close this connection of ", bold, "? Its client may come back."], "Disconnect", () =>
        this.#do("disconnect", { user, client }, "Disconnected")),
    );
    const all = button("Disconnect the user", () =>
      confirm(place, ["Close every connection of ", bold, "? Their clients may come back."], "Disconnect all", () =>
        this.#do("disconnect", { user }, "Disconnected")),
    );
    const time = element(
      "select",
      { "aria-label": "For how long" },
      ...Object.entries(BLOCKS).map(([seconds, words]) => element("option", { value: seconds, selected: seconds === "3600" }, words)),
    );
    const block = button("Block", () => {
      const words = BLOCKS[time.value];
      confirm(place, ["Disconnect ", bold, ` and keep this user out for ${words}?`], "Block", () =>
        this.#do("disconnect", { user, block_s: Number(time.value) }, "Blocked"));
    });
    place.replaceChildren(element("div", { class: "buttons" }, one, all), element("div", { class: "buttons" }, time, block));
  }

  async #do(method, params, done) {
    await this.#session.call(method, params);
    announce(done);
    this.#onActed();
    if (this.#connection) this.#ask();
  }
}
