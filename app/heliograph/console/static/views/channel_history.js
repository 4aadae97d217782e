import { announce, byId, element } from "../dom.js";
import { clock, counted, moment } from "../format.js";
import { confirm } from "./confirm.js";
import { connectionsOn } from "./connections.js";
import { traceOf } from "./trace.js";

const LIMIT = 25;

/** One channel: what is kept of it, newest first, page by page in both directions, and a form to publish on it. */
export class ChannelHistory {
  #session;
  #changed;
  #channel = "";
  /** @type {?{since: {offset: number, epoch: string}, reverse: boolean}} where the page begins; null: with the newest */
  #place = null;
  #shown = { first: null, last: null };
  #open = new Set(); // the offsets whose data is shown in full

  /**
   * @param {import("../operator_session.js").OperatorSession} session
   * @param {() => void} changed another page is wanted
   */
  constructor(session, changed) {
    this.#session = session;
    this.#changed = changed;
    byId("history-newest").addEventListener("click", () => this.#go(null));
    byId("history-newer").addEventListener("click", () => this.#go({ since: this.#shown.first, reverse: false }));
    byId("history-older").addEventListener("click", () => this.#go({ since: this.#shown.last, reverse: true }));
    byId("history-forget").addEventListener("click", () => this.#forget());
    byId("publish-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#publish();
    });
    byId("publish-data").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("publish-form").requestSubmit();
    });
    byId("publish-data").addEventListener("input", () => this.#complain(""));
  }

  /** @param {string} channel */
  begin(channel) {
    this.#channel = channel;
    this.#place = null;
    this.#open.clear();
    byId("history-channel").textContent = byId("history-channel").title = channel;
    byId("history-position").textContent = "";
    byId("history-list").replaceChildren();
    byId("history-subscribers").href = connectionsOn(channel);
    byId("publish-result").textContent = "";
    this.#complain("");
  }

  /** @returns {Promise<() => void>} */
  async load() {
    const [channel, place] = [this.#channel, this.#place];
    const params = { channel, limit: LIMIT, reverse: place?.reverse ?? true, with_ids: true };
    if (place) params.since = place.since;
    let answer;
    try {
      answer = await this.#session.call("history", params);
    } catch (error) {
      // What followed the page may be gone meanwhile: the newest are always there.
      if (!place || error.status !== 200) throw error;
      this.#place = null;
      answer = await this.#session.call("history", { ...params, since: undefined, reverse: true });
    }
    const publications = place && !place.reverse ? [...answer.publications].reverse() : answer.publications;
    return () => {
      if (channel === this.#channel) this.#show(publications, answer);
    };
  }

  #show(publications, { offset, epoch }) {
    const position = (each) => (each ? { offset: each.offset, epoch } : null);
    this.#shown = { first: position(publications[0]), last: position(publications.at(-1)) };
    byId("history-position").textContent = offset ? `position ${offset.toLocaleString()}, epoch ${epoch}` : "nothing was published yet";
    byId("history-newer").disabled = byId("history-newest").disabled = !publications.length || publications[0].offset >= offset;
    byId("history-older").disabled = publications.length < LIMIT || this.#shown.last.offset <= 1;
    byId("history-none").hidden = publications.length > 0;
    byId("history-sum").textContent = publications.length ? `${counted(publications.length, "publication")}, newest first` : "";
    const list = byId("history-list");
    const shown = [...list.children].map((item) => item.dataset.offset).join();
    if (shown === publications.map((each) => each.offset).join() && list.dataset.epoch === epoch) return;
    list.dataset.epoch = epoch;
    list.replaceChildren(...publications.map((each) => this.#entry(each)));
  }

  #entry({ offset, data, info, tags, message_id, sent_at, origin }) {
    const at = new Date(sent_at);
    const text = typeof data === "string" ? data : JSON.stringify(data, null, 2);
    const line = typeof data === "string" ? data : JSON.stringify(data);
    const summary = element(
      "summary",
      {},
      element("span", { class: "offset" }, offset.toLocaleString()),
      element("time", { datetime: sent_at, title: moment(at) }, clock(at)),
      element("bdi", { class: "cut sender" }, info?.user ?? "server"),
      element("bdi", { class: "cut mono" }, line.slice(0, 300)),
    );
    const facts = element(
      "p",
      { class: "aside" },
      ...[`id ${message_id}`, moment(at), origin && `sent on ${origin}`, tags && `tags ${JSON.stringify(tags)}`]
        .filter(Boolean)
        .flatMap((words, index) => [index ? " · " : "", element("bdi", {}, words)]),
    );
    const user = this.#channel.startsWith("#") ? this.#channel.slice(1) : "";
    if (user) facts.append(" · ", element("a", { href: traceOf({ user, message_id }) }, "Who got it?"));
    const entry = element("details", { open: this.#open.has(offset) }, summary, element("pre", { class: "data mono", dir: typeof data === "string" ? "auto" : "ltr" }, text), facts);
    entry.addEventListener("toggle", () => (entry.open ? this.#open.add(offset) : this.#open.delete(offset)));
    return element("li", { "data-offset": offset }, entry);
  }

  #go(place) {
    this.#place = place;
    this.#changed();
  }

  #forget() {
    const name = element("bdi", { class: "name" }, this.#channel);
    confirm(byId("history-actions"), ["Forget all that is kept of ", name, "? Its position stays."], "Forget", async () => {
      await this.#session.call("history_remove", { channel: this.#channel });
      announce("Forgotten");
      this.#go(null);
    });
  }

  async #publish() {
    const written = byId("publish-data").value;
    let data = written;
    if (byId("publish-json").checked) {
      try {
        data = JSON.parse(written);
      } catch (error) {
        this.#complain(`Not JSON: ${error.message}`);
        return;
      }
    }
    byId("publish-send").disabled = true;
    try {
      const skip_history = byId("publish-ephemeral").checked;
      const { offset } = await this.#session.call("publish", { channel: this.#channel, data, skip_history });
      this.#complain("");
      byId("publish-data").value = "";
      byId("publish-result").textContent = offset ? `Published at ${offset.toLocaleString()}` : "Published, and not kept";
      this.#go(null);
    } catch (error) {
      this.#complain(error.message);
    } finally {
      byId("publish-send").disabled = false;
      byId("publish-data").focus();
    }
  }

  #complain(problem) {
    byId("publish-problem").textContent = problem;
    byId("publish-problem").hidden = !problem;
    byId("publish-data").setAttribute("aria-invalid", String(Boolean(problem)));
    if (problem) byId("publish-result").textContent = "";
  }
}
