import { byId, element } from "../dom.js";
import { counted } from "../format.js";
import { addressOf } from "../navigation.js";
import { ChannelHistory } from "./channel_history.js";
import { connectionsOn } from "./connections.js";
import { KeptList } from "./kept_list.js";
import { OperatorView } from "./operator_view.js";
import { Pager } from "./pager.js";
import { nameOf, showMissing, Table } from "./table.js";

const LIMIT = 50;
const SEARCH_MS = 250; // after the last letter

/** All channels of the cluster: those that somebody listens to, those that are kept, and one with its history. */
export class BrowseView {
  #session;
  #view;
  #pager = new Pager(() => this.#view.refresh());
  #table = new Table(
    "Channels with subscribers",
    [
      { name: "channel", title: "Channel", sort: "name" },
      { name: "clients", title: "Subscribers", sort: "clients", isNumber: true },
    ],
    (sort) => {
      byId("browse-sort").value = sort;
      this.#changed();
    },
  );
  #missing = element("p", { class: "problem view-problem", role: "status", hidden: true });
  #kept;
  #history;
  #channel = "";
  #timer = null;

  /**
   * @param {import("../operator_session.js").OperatorSession} session
   * @param {() => void} logIn
   */
  constructor(session, logIn) {
    this.#session = session;
    byId("browse-live").append(this.#missing, this.#table.node, this.#pager.node);
    this.#kept = new KeptList(session, byId("browse-kept"), () => this.#view.refresh(), {
      label: "Channels that are kept",
      addressOf: (name) => addressOf("browse", name),
    });
    this.#history = new ChannelHistory(session, () => this.#view.refresh());
    this.#view = new OperatorView(byId("browse-view"), session, { logIn, load: () => this.#load() });
    byId("browse-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = byId("browse-name").value.trim();
      if (name) location.hash = addressOf("browse", name);
    });
    byId("browse-search").addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#changed(), SEARCH_MS);
    });
    for (const id of ["browse-which", "browse-sort", "browse-personal"]) {
      byId(id).addEventListener("change", () => this.#changed());
    }
  }

  /**
   * @param {string} channel empty: the list
   * @returns {string} nothing: the link leads to the list
   */
  open(channel) {
    if (channel !== this.#channel) {
      this.#channel = channel;
      if (channel) this.#history.begin(channel);
    }
    byId("browse-list").hidden = Boolean(channel);
    byId("browse-channel").hidden = !channel;
    this.#view.open();
    return "";
  }

  leave() {
    this.#view.leave();
  }

  #changed() {
    this.#pager.reset();
    this.#kept.reset();
    this.#view.refresh();
  }

  #load() {
    if (this.#channel) return this.#history.load();
    const live = byId("browse-which").value === "live";
    byId("browse-live").hidden = !live;
    byId("browse-kept").hidden = live;
    byId("browse-sort").disabled = byId("browse-personal").disabled = !live;
    return live ? this.#loadLive() : this.#kept.load("", byId("browse-search").value.trim());
  }

  async #loadLive() {
    const [sort, search] = [byId("browse-sort").value, byId("browse-search").value.trim()];
    const personal = byId("browse-personal").checked;
    const answer = await this.#session.call("channels", {
      pattern: patternOf(search, personal),
      sort,
      limit: LIMIT,
      cursor: this.#pager.cursor,
    });
    return () => {
      showMissing(this.#missing, answer.error);
      this.#table.showSort(sort, sort === "name" ? "ascending" : "descending");
      const entries = Object.entries(answer.channels);
      // A name that looks like a number comes first in an object, wherever it stood in the answer.
      if (sort === "clients") entries.sort(([a, one], [b, two]) => two.num_clients - one.num_clients || (a < b ? -1 : 1));
      else entries.sort(([a], [b]) => (a < b ? -1 : 1));
      this.#table.show(
        entries.map(([name, { num_clients }]) => ({
          key: name,
          cells: {
            channel: element("a", { href: addressOf("browse", name) }, nameOf(name)),
            clients: element("a", { href: connectionsOn(name), title: "Who they are" }, num_clients.toLocaleString()),
          },
        })),
        search ? "No channel with subscribers is named like that." : "Nobody is subscribed to a channel.",
      );
      this.#pager.show(answer.next ?? "", counted(answer.total, "channel"));
    };
  }
}

/** The shell pattern of names that hold the text: also of users' own channels, which begin with `#`, or of no such. */
function patternOf(search, personal) {
  // Braces and commas are alternatives: any character stands for them.
  const literal = search.replace(/[*?[]/g, "[$&]").replace(/[{},]/g, "?");
  if (personal) return literal ? `*${literal}*` : "";
  return literal ? `{${literal}*,[!#]*${literal}*}` : "[!#]*";
}
