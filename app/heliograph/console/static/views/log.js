import { byId } from "../dom.js";
import { counted } from "../format.js";
import { LineBuffer } from "../line_buffer.js";
import { addressOf } from "../navigation.js";
import { KeptPanel } from "./kept_panel.js";
import { LinePane } from "./line_pane.js";
import { showSource } from "./source.js";

const SUM_MS = 250;
const RATE_OVER = 4; // so many of these make the second over which the rate is taken
const FILTER_MS = 120; // after the last letter

/** The lines of one log, as they come. */
export class LogView {
  #client;
  #subscription = null;
  #id = "";
  #lines = new LineBuffer();
  #pane = new LinePane(byId("log-lines"), this.#lines, "The log");
  #source = "off";
  #detail = "";
  #came = [0]; // lines in each of the last quarters of a second, the present one first
  #filterTimer = null;
  #all;

  /**
   * @param {import("../heliograph.js").Heliograph} client
   * @param {import("../operator_session.js").OperatorSession} session
   */
  constructor(client, session) {
    this.#client = client;
    const others = [byId("log-toolbar"), byId("log-lines")];
    this.#all = new KeptPanel(session, { id: "log", view: "logs", prefix: "logs:", label: "Logs", others });
    client.on("state", () => {
      this.#explain();
      this.#showSource();
    });
    this.#explain();
    byId("log-form").addEventListener("submit", (event) => {
      event.preventDefault();
      location.hash = addressOf("logs", byId("log-id").value.trim());
    });
    byId("log-filter").addEventListener("input", () => {
      clearTimeout(this.#filterTimer);
      this.#filterTimer = setTimeout(() => this.#filter(), FILTER_MS);
    });
    setInterval(() => {
      this.#showSum();
      this.#came = [0, ...this.#came].slice(0, RATE_OVER);
    }, SUM_MS);
  }

  /**
   * @param {string} id empty: whatever was watched before
   * @returns {string} what is watched now
   */
  open(id) {
    if (id && id !== this.#id) this.#watch(id);
    else if (!this.#id) byId("log-id").focus({ preventScroll: true });
    this.#all.enter(Boolean(this.#id));
    return this.#id;
  }

  leave() {
    this.#all.leave();
  }

  #watch(id) {
    this.#subscription?.unsubscribe();
    this.#id = id;
    byId("log-id").value = id;
    this.#lines.clear();
    this.#pane.changed();
    this.#explain();
    this.#source = "connecting";
    // All of it, each time: what an earlier page has shown is not on this one.
    const how = { replay: true, resume: false };
    this.#subscription = this.#client.subscribe(`logs:${id}`, (message) => this.#add(message), how);
    this.#subscription.on("subscribed", ({ anew }) => {
      if (anew || this.#source !== "ended") this.#source = "live";
      if (anew) {
        this.#lines.clear();
        this.#pane.changed();
      }
      this.#showSource();
    });
    this.#subscription.on("lost", () => this.#mark("lines are missing here"));
    this.#subscription.on("error", (error) => this.#refuse(error.message));
    this.#subscription.on("unsubscribed", () => this.#refuse("ended by the server"));
    this.#showSource();
    this.#showSum();
  }

  #add({ data, cursor, sent_at }) {
    const remark = remarkOf(data);
    if (remark) this.#mark(remark, new Date(sent_at));
    const ended = data?.stream === "exit";
    if (ended !== (this.#source === "ended")) {
      this.#source = ended ? "ended" : "live";
      this.#detail = ended ? remark : "";
      this.#showSource();
    }
    if (remark) return;
    const number = cursor ? Number(cursor.slice(cursor.lastIndexOf(".") + 1)) : undefined;
    const text = typeof data?.line === "string" ? data.line : typeof data === "string" ? data : JSON.stringify(data);
    this.#lines.add({ text, number, at: new Date(sent_at), stream: data?.stream === "stderr" ? "stderr" : "stdout" });
    this.#came[0] += 1;
    this.#pane.added(1);
  }

  #mark(text, at) {
    this.#lines.add({ text: `– ${text} –`, stream: "mark", at });
    this.#pane.added(1);
  }

  #refuse(why) {
    this.#source = "refused";
    this.#detail = why;
    this.#showSource();
  }

  #filter() {
    this.#lines.setFilter(byId("log-filter").value);
    this.#explain();
    this.#pane.changed();
    this.#showSum();
  }

  #explain() {
    if (this.#lines.filter) this.#pane.explain("No line holds that.");
    else if (!this.#id) this.#pane.explain("Give the id of a log to watch it.");
    else if (this.#client.state.state === "closed") this.#pane.explain("Connect to watch it.");
    else this.#pane.explain("Nothing was said yet.");
  }

  #showSource() {
    if (!this.#id) return;
    const { state, transport } = this.#client.state;
    if (state === "closed") showSource(byId("log-source"), "off");
    else if (this.#source === "refused") showSource(byId("log-source"), "refused", this.#detail);
    else if (this.#source === "ended") showSource(byId("log-source"), "ended", this.#detail);
    else if (state !== "connected" || this.#source !== "live") showSource(byId("log-source"), "connecting");
    else showSource(byId("log-source"), "live", "", transport === "websocket" ? "Live" : `Live by ${transport}`);
  }

  #showSum() {
    const rate = this.#came.reduce((sum, count) => sum + count, 0);
    const { total, shown, filter } = this.#lines;
    const sum = filter ? `${shown.toLocaleString()} of ${counted(total, "line")}` : counted(total, "line");
    const words = [this.#id && sum, rate && `${rate.toLocaleString()}/s`].filter(Boolean).join(" · ");
    if (byId("log-sum").textContent !== words) byId("log-sum").textContent = words;
  }
}

/** What `heliograph pipe` reports of the command beside its lines, in words; empty for a line. */
function remarkOf(data) {
  if (data?.stream === "exit" && Number.isInteger(data.exit_code)) return `ended with exit code ${data.exit_code}`;
  if (data?.stream === "dropped" && Number.isInteger(data.dropped)) return `${counted(data.dropped, "line")} missing here`;
  return "";
}
