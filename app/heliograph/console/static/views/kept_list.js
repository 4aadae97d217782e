import { element } from "../dom.js";
import { clock, counted, moment } from "../format.js";
import { Pager } from "./pager.js";
import { nameOf, showMissing, Table } from "./table.js";

const LIMIT = 50;
const PREVIEW = 160; // characters

/** The channels of which something is kept: all of them, or the runs or logs among them, each with its latest. */
export class KeptList {
  #session;
  #pager;
  #table;
  #addressOf;
  #shown;
  #missing = element("p", { class: "problem view-problem", role: "status", hidden: true });

  /**
   * @param {import("../operator_session.js").OperatorSession} session
   * @param {HTMLElement} place
   * @param {() => void} changed another page is wanted
   * @param {object} list
   * @param {string} list.label
   * @param {(name: string) => string} list.addressOf where a channel is shown
   * @param {(name: string) => string} [list.shown] what is shown of its name
   */
  constructor(session, place, changed, { label, addressOf, shown = (name) => name }) {
    this.#session = session;
    this.#addressOf = addressOf;
    this.#shown = shown;
    this.#pager = new Pager(changed);
    this.#table = new Table(label, [
      { name: "channel", title: "Name" },
      { name: "latest", title: "Latest" },
      { name: "offset", title: "Position", isNumber: true },
      { name: "at", title: "At", isNumber: true },
    ]);
    place.append(this.#missing, this.#table.node, this.#pager.node);
  }

  reset() {
    this.#pager.reset();
  }

  /**
   * @param {string} prefix of the names
   * @param {string} search what the rest of them holds
   * @returns {Promise<() => void>} shows what has come
   */
  async load(prefix, search) {
    const answer = await this.#session.call("kept_channels", { prefix, search, limit: LIMIT, cursor: this.#pager.cursor });
    return () => {
      showMissing(this.#missing, answer.error);
      const newest = [...answer.channels].sort((a, b) => at(b).localeCompare(at(a)) || (a.channel < b.channel ? -1 : 1));
      this.#table.show(
        newest.map((each) => this.#row(each)),
        answer.error ? "" : search ? "Nothing that is kept is named like that." : "Nothing is kept at the moment.",
      );
      this.#pager.show(answer.next ?? "", `${counted(newest.length, "channel")}${answer.next || this.#pager.cursor ? " on this page" : ""}`);
    };
  }

  #row({ channel, offset, latest }) {
    const date = new Date(latest?.sent_at ?? Number.NaN);
    return {
      key: channel,
      cells: {
        channel: element("a", { href: this.#addressOf(channel) }, nameOf(this.#shown(channel))),
        latest: summaryOf(latest),
        offset: offset.toLocaleString(),
        at: element("time", { title: moment(date) }, sameDay(date) ? clock(date) : moment(date)),
      },
    };
  }
}

const at = ({ latest }) => latest?.sent_at ?? "";

const sameDay = (date) => date.toDateString() === new Date().toDateString();

/** The latest publication in a few words: of a run its state and progress, of a log its last line. */
function summaryOf(latest) {
  if (!latest) return "";
  const { data } = latest;
  if (data === undefined) return element("span", { class: "aside" }, "large");
  // Other data may be named like that, and be anything.
  const { state, progress } = data ?? {};
  if (typeof progress === "number" && (typeof state === "string" || state === null)) {
    const badge = element("span", { class: "badge run-state" }, (state ?? "?").slice(0, PREVIEW));
    const percent = Math.min(100, Math.max(0, progress)).toLocaleString(undefined, { maximumFractionDigits: 1 });
    return element("span", {}, element("span", { "data-state": state ?? "" }, badge), ` ${percent} %`);
  }
  const text = typeof data === "string" ? data : typeof data?.line === "string" ? data.line : JSON.stringify(data);
  return element("bdi", { class: "cut mono quiet" }, text.slice(0, PREVIEW));
}
