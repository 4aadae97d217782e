import { byId } from "../dom.js";
import { counted } from "../format.js";
import { LineBuffer } from "../line_buffer.js";
import { addressOf } from "../navigation.js";
import { RunWatch } from "../run_watch.js";
import { KeptPanel } from "./kept_panel.js";
import { LinePane } from "./line_pane.js";
import { showSource } from "./source.js";

const PERCENT = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });

/** One run: its progress, its state, its log. */
export class RunView {
  #watch;
  #lines = new LineBuffer(20_000);
  #pane = new LinePane(byId("run-lines"), this.#lines, "The run's log");
  #state = null;
  #source = { source: "off", error: "" };
  #all;

  /**
   * @param {import("../heliograph.js").Heliograph} client
   * @param {import("../operator_session.js").OperatorSession} session
   */
  constructor(client, session) {
    const others = [byId("run-progress"), byId("run-lines")];
    this.#all = new KeptPanel(session, { id: "run", view: "runs", prefix: "run:", label: "Runs", others });
    this.#watch = new RunWatch(client);
    this.#watch.on("begin", (runId) => this.#begin(runId));
    this.#watch.on("state", (state) => this.#showState(state));
    this.#watch.on("lines", (lines) => this.#add(lines));
    this.#watch.on("skipped", () => this.#mark("lines are missing here"));
    this.#watch.on("source", (source) => {
      this.#source = source;
      this.#showSource();
    });
    this.#pane.explain("Give the id of a run to watch it.");
    byId("run-form").addEventListener("submit", (event) => {
      event.preventDefault();
      location.hash = addressOf("runs", byId("run-id").value.trim());
    });
  }

  /**
   * @param {string} runId empty: whatever was watched before
   * @returns {string} what is watched now
   */
  open(runId) {
    if (runId) this.#watch.watch(runId);
    else if (!this.#watch.runId) byId("run-id").focus({ preventScroll: true });
    this.#all.enter(Boolean(this.#watch.runId));
    return this.#watch.runId;
  }

  leave() {
    this.#all.leave();
  }

  #begin(runId) {
    byId("run-id").value = runId;
    byId("run-progress").hidden = false;
    this.#lines.clear();
    this.#pane.changed();
    this.#showState({ state: null, progress: 0 });
  }

  #showState({ state, progress }) {
    this.#state = state;
    const percent = Math.min(100, Math.max(0, progress));
    byId("run-percent").textContent = state === null ? "–" : `${PERCENT.format(percent)} %`;
    byId("run-progress").dataset.state = state ?? "";
    byId("run-bar").setAttribute("aria-valuenow", String(percent));
    byId("run-fill").style.setProperty("--done", percent / 100);
    this.#showNote();
    this.#showSource();
  }

  #add(lines) {
    for (const text of lines) this.#lines.add({ text, number: this.#lines.total + 1 });
    this.#pane.added(lines.length);
    this.#showNote();
  }

  #mark(text) {
    this.#lines.add({ text: `– ${text} –`, stream: "mark" });
    this.#pane.added(1);
  }

  #showNote() {
    byId("run-note").textContent = counted(this.#lines.total, "line");
  }

  #showSource() {
    const { source, error } = this.#source;
    const off = source === "off";
    if (this.#watch.runId) this.#pane.explain(off ? "Connect to watch it." : "Nothing was said yet.");
    byId("run-state").textContent = this.#state ?? (off ? "Not known" : "Not heard of");
    const ended = this.#state === "END" || this.#state === "FAILED";
    const shown = ended && (source === "live" || source === "polling") ? "ended" : source;
    showSource(byId("run-source"), shown, error);
  }
}
