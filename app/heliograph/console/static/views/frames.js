import { byId } from "../dom.js";
import { clock, counted } from "../format.js";
import { LineBuffer } from "../line_buffer.js";
import { LinePane } from "./line_pane.js";

const ARROWS = { in: "←", out: "→", mark: "–" };
const FILTER_MS = 120; // after the last letter

/** The frames of this page's own connection, as they come. */
export class FramesView {
  #tap;
  #lines = new LineBuffer(2_000);
  #pane;
  #isPaused = false;
  #timer = null;

  /** @param {import("../frame_tap.js").FrameTap} tap */
  constructor(tap) {
    this.#tap = tap;
    this.#pane = new LinePane(byId("frames-lines"), this.#lines, "Frames", (line) => this.#showFrame(line.frame));
    this.#pane.explain("Connect by WebSocket to see its frames.");
    tap.onFrame = (frame) => {
      if (!this.#isPaused) this.#add(frame);
      this.#showSum();
    };
    byId("frames-filter").addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#filter(), FILTER_MS);
    });
    byId("frames-pause").addEventListener("change", ({ target }) => {
      this.#isPaused = target.checked;
      if (this.#isPaused) return;
      const last = this.#lines.last?.frame.number ?? 0;
      for (const frame of tap.frames) if (frame.number > last) this.#add(frame);
      this.#showSum();
    });
    byId("frames-clear").addEventListener("click", () => {
      tap.clear();
      this.#lines.clear();
      this.#pane.changed();
      this.#showSum();
      this.#showFrame(null);
    });
    byId("frame-close").addEventListener("click", () => {
      this.#showFrame(null);
      this.#pane.scroller.focus({ preventScroll: true });
    });
  }

  #add(frame) {
    const { number, at, direction, text } = frame;
    this.#lines.add({ text: `${ARROWS[direction]} ${text.slice(0, 500)}`, number, at, stream: direction, frame });
    this.#pane.added(1);
  }

  #filter() {
    this.#lines.setFilter(byId("frames-filter").value);
    this.#pane.explain(this.#lines.filter ? "No frame holds that." : "Connect by WebSocket to see its frames.");
    this.#pane.changed();
    this.#showSum();
  }

  #showSum() {
    const { total, shown, filter } = this.#lines;
    const words = [filter ? `${shown.toLocaleString()} of ${counted(total, "frame")}` : counted(total, "frame")];
    if (this.#isPaused) words.push("paused");
    byId("frames-sum").textContent = words.join(" · ");
  }

  #showFrame(frame) {
    byId("frame-detail").hidden = !frame;
    if (!frame) return;
    const words = { in: "Received", out: "Sent", mark: "Socket" }[frame.direction];
    byId("frame-title").textContent = `${words} at ${clock(frame.at)} · ${counted(frame.size, "character")}`;
    byId("frame-text").textContent = pretty(frame.text);
  }
}

/** JSON over several lines; what is no JSON, or was cut, as it is. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
