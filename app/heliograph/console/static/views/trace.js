import { byId, element } from "../dom.js";
import { addressOf } from "../navigation.js";
import { OperatorView } from "./operator_view.js";
import { replicaName } from "./replica.js";
import { nameOf, Table } from "./table.js";

const FIELDS = ["user", "message_id", "channel", "connection"];
const LIMIT = 200; // notes of each replica

const OUTCOMES = {
  written: "written",
  waits: "waits: the client does not read",
  not_written: "not written: it ended before",
  had_it: "had it already",
  came_later: "came later, and asked for nothing older",
  gone: "had left before",
  not_heard: "not heard: its replica has not delivered it",
  unknown: "not known: the notes begin later",
};

/** What became of a message for a user, in one sentence and in detail; or the notes about a user, channel or client. */
export class TraceView {
  #session;
  #view;
  #asked = new URLSearchParams();
  #connections = new Table("What became of it on each connection", [
    { name: "connection", title: "Connection" },
    { name: "replica", title: "Replica" },
    { name: "outcome", title: "Outcome" },
    { name: "at", title: "At", isNumber: true },
  ]);
  #entries = new Table("What the replicas have noted", [
    { name: "event", title: "Event" },
    { name: "replica", title: "Replica" },
    { name: "about", title: "About" },
    { name: "at", title: "At", isNumber: true },
  ]);

  /**
   * @param {import("../operator_session.js").OperatorSession} session
   * @param {() => void} logIn
   */
  constructor(session, logIn) {
    this.#session = session;
    byId("trace-connections").append(this.#connections.node);
    byId("trace-entries").append(this.#entries.node);
    this.#view = new OperatorView(byId("trace-view"), session, { logIn, load: () => this.#load() });
    byId("trace-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const given = FIELDS.map((name) => [name, byId(`trace-${name}`).value.trim()]).filter(([, value]) => value);
      const address = traceOf(Object.fromEntries(given));
      if (address === location.hash) this.#view.refresh();
      else location.hash = address;
    });
  }

  /**
   * @param {string} subject what is asked, as `user=…&message_id=…`; empty: whatever was asked before
   * @returns {string} what is asked
   */
  open(subject) {
    if (subject) {
      this.#asked = new URLSearchParams(subject);
      for (const name of FIELDS) byId(`trace-${name}`).value = this.#asked.get(name) ?? "";
      byId("trace-result").hidden = true;
    }
    if (!this.#asked.size) byId("trace-user").focus({ preventScroll: true });
    this.#view.open();
    return this.#asked.toString();
  }

  leave() {
    this.#view.leave();
  }

  async #load() {
    if (!this.#asked.size) return () => {};
    const asked = Object.fromEntries(FIELDS.filter((name) => this.#asked.get(name)).map((name) => [name, this.#asked.get(name)]));
    const isAboutMessage = Boolean(asked.user && asked.message_id);
    const answer = await this.#session.call("trace", isAboutMessage ? asked : { ...asked, since: "", limit: LIMIT });
    return () => this.#show(answer);
  }

  #show({ verdict = "", reached, message, connections = [], entries, replicas }) {
    byId("trace-result").hidden = false;
    byId("trace-hint").hidden = true;
    byId("trace-verdict").hidden = !verdict;
    byId("trace-verdict").dataset.reached = String(reached ?? "unknown");
    byId("trace-verdict-text").textContent = verdict;
    const kept = message?.offset ? `${message.channel} at offset ${message.offset.toLocaleString()}${message.is_kept ? ", still kept" : ""}` : "";
    byId("trace-message").textContent = kept;
    byId("trace-connections").hidden = !verdict;
    this.#connections.show(
      connections.map((each) => ({
        key: each.connection,
        cells: {
          connection: nameOf(each.device ? `${each.device} (${each.connection})` : each.connection),
          replica: replicaName(each.replica),
          outcome: `${OUTCOMES[each.outcome] ?? each.outcome}${each.caught_up ? ", read from the log" : ""}`,
          at: time(each.at || each.ended_at),
        },
      })),
      "No connection of the user is known.",
    );
    this.#entries.show(
      [...entries].reverse().map((each, index) => ({
        key: String(index),
        cells: {
          event: each.event,
          replica: replicaName(each.replica),
          about: nameOf(aboutOf(each)),
          at: time(each.at),
        },
      })),
      "The replicas have noted nothing about that, or not for so long.",
    );
    const silent = replicas.filter(({ error }) => error).map(({ replica, error }) => `${replica}: ${error}`);
    byId("trace-problem").textContent = silent.length ? `Not all is known. ${silent.join(" · ")}` : "";
    byId("trace-problem").hidden = silent.length === 0;
  }
}

/** The address of the trace of these: `user`, `message_id`, `channel`, `connection`. */
export const traceOf = (asked) => addressOf("trace", new URLSearchParams(asked).toString());

/** The time of day with its milliseconds, in UTC as the log of a replica has it. */
const time = (at) => element("time", { datetime: at || null, title: at }, at ? at.slice(11, 23) : "–");

const aboutOf = ({ user, channel, message_id, connection, offset, text }) =>
  [user, channel, offset && `offset ${offset}`, message_id, connection && `connection ${connection}`, text].filter(Boolean).join(" · ");
