import { element } from "../dom.js";
import { clock, counted } from "../format.js";

const ROW_PX = 20;
const SPARE_ROWS = 8; // above and below what can be seen
const END_PX = ROW_PX / 2;
const HIDDEN_MS = 250;

/**
 * Shows a `LineBuffer`: only the rows that can be seen exist, and they are written once a frame, however many lines
 * have come. It follows the end until the user scrolls back; then nothing moves by itself.
 */
export class LinePane {
  #buffer;
  #rows = [];
  #following = true;
  #unseen = 0;
  #scheduled = false;
  #height = 0;
  #noted = false; // it is said at the beginning that older lines were dropped
  #onChosen;
  #chosen = null; // the line on which something more is shown elsewhere
  #top = 0; // where it was scrolled to when that was looked at last

  #window = element("div", { class: "lines-window" });
  #note = element("p", { class: "lines-note", hidden: true });
  #space = element("div", { class: "lines-space" }, this.#note, this.#window);
  #jump = element("button", { class: "jump", type: "button", hidden: true });
  #empty = element("p", { class: "lines-empty aside" });

  /**
   * @param {HTMLElement} frame
   * @param {import("../line_buffer.js").LineBuffer} buffer
   * @param {string} label for screen readers
   * @param {(line: import("../line_buffer.js").Line) => void} [onChosen] called when a line is clicked, or reached with
   *   the arrow keys
   */
  constructor(frame, buffer, label, onChosen) {
    this.#buffer = buffer;
    this.#onChosen = onChosen;
    // Not live: nobody could listen to what may be a thousand lines a second.
    this.scroller = element("div", { class: "lines", tabindex: "0", role: "log", "aria-live": "off" }, this.#space);
    this.scroller.setAttribute("aria-label", label);
    frame.append(this.scroller, this.#empty, this.#jump);
    this.scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    this.#jump.addEventListener("click", () => {
      this.follow();
      this.scroller.focus({ preventScroll: true });
    });
    if (onChosen) this.#letChoose();
    new ResizeObserver(() => {
      this.#height = this.scroller.clientHeight;
      this.#schedule();
    }).observe(this.scroller);
  }

  /** @param {number} count lines were added to the buffer */
  added(count) {
    if (!this.#following) this.#unseen += count;
    this.#schedule();
  }

  /** The buffer's content was replaced. */
  changed() {
    this.#rows.forEach((row) => (row.line = null));
    this.follow();
  }

  /** Scrolls to the end, and follows it from then on. */
  follow() {
    this.#following = true;
    this.#unseen = 0;
    this.#schedule();
  }

  /** @param {string} words what to say while there is no line */
  explain(words) {
    this.#empty.textContent = words;
  }

  #letChoose() {
    this.scroller.addEventListener("click", ({ target }) => {
      this.#choose(this.#rows.findIndex(({ node }) => node.contains(target)));
    });
    this.scroller.addEventListener("keydown", (event) => {
      const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      const at = this.#rows.findIndex(({ line }) => line !== null && line === this.#chosen);
      const inView = this.#rows.findIndex(({ node }) => node.getBoundingClientRect().top >= this.scroller.getBoundingClientRect().top);
      this.#choose(at < 0 ? inView : at + by);
    });
  }

  #choose(index) {
    const row = this.#rows[index];
    if (!row?.line || row.node.hidden) return;
    this.#chosen = row.line;
    this.#following = false;
    row.node.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.#onChosen(row.line);
    this.#schedule();
  }

  #onScroll() {
    const top = this.scroller.scrollTop;
    const rest = this.#space.offsetHeight - this.#height - top;
    if (top < this.#top - 1 && rest > 1) this.#following = false;
    else if (rest < END_PX) this.#following = true;
    if (this.#following) this.#unseen = 0;
    this.#top = top;
    this.#schedule();
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    const render = () => {
      this.#scheduled = false;
      this.#render();
    };
    // A hidden page gets no animation frames.
    if (document.hidden) setTimeout(render, HIDDEN_MS);
    else requestAnimationFrame(render);
  }

  #render() {
    if (!this.#height) return; // another view is in front
    const { shown, dropped, widest } = this.#buffer;
    const noted = dropped > 0;
    const head = noted ? ROW_PX : 0;
    // The visible lines have moved up by so much; the note has moved them down.
    const gone = this.#buffer.takeGone() * ROW_PX - (noted && !this.#noted ? ROW_PX : 0);
    this.#noted = noted;
    this.#space.style.height = `${head + shown * ROW_PX}px`;
    this.#space.style.minWidth = `calc(${widest}ch + var(--gutter))`;
    this.#note.hidden = !noted;
    if (noted) this.#note.textContent = `${counted(dropped, "older line")} dropped here`;
    this.#empty.hidden = shown > 0;

    if (this.#following) this.scroller.scrollTop = head + shown * ROW_PX;
    else if (gone) this.scroller.scrollTop -= gone;
    this.#top = this.scroller.scrollTop;

    const first = Math.max(0, Math.floor((this.#top - head) / ROW_PX) - SPARE_ROWS);
    const end = Math.min(shown, Math.ceil((this.#top - head + this.#height) / ROW_PX) + SPARE_ROWS);
    this.#window.style.transform = `translateY(${head + first * ROW_PX}px)`;
    while (this.#rows.length < end - first) {
      const row = new Row();
      this.#rows.push(row);
      this.#window.append(row.node);
    }
    const { filter } = this.#buffer;
    this.#rows.forEach((row, i) => {
      row.show(first + i < end ? this.#buffer.line(first + i) : null, filter);
      if (this.#onChosen) row.node.toggleAttribute("data-chosen", row.line !== null && row.line === this.#chosen);
    });
    this.#showJump();
  }

  #showJump() {
    this.#jump.hidden = this.#following;
    const words = this.#unseen ? `↓ Jump to live · ${this.#unseen.toLocaleString()} new` : "↓ Jump to live";
    if (this.#jump.textContent !== words) this.#jump.textContent = words;
  }
}

class Row {
  /** @type {?import("../line_buffer.js").Line} */
  line = null;
  #filter = "";
  #number = element("span", { class: "number", "aria-hidden": "true" });
  #time = element("span", { class: "time" });
  #text = element("span", { class: "text", dir: "auto" });
  node = element("div", { class: "line" }, this.#number, this.#time, this.#text);

  show(line, filter) {
    this.node.hidden = line === null;
    if (line === null || (line === this.line && filter === this.#filter)) {
      this.line = line;
      return;
    }
    this.line = line;
    this.#filter = filter;
    this.node.dataset.stream = line.stream ?? "stdout";
    this.#number.textContent = line.number ?? "";
    this.#time.textContent = line.at ? clock(line.at) : "";
    if (filter && line.stream !== "mark") this.#text.replaceChildren(...marked(line.text, filter));
    else this.#text.textContent = line.text;
  }
}

/** The text, with every match of the search marked. */
function marked(text, filter) {
  const lower = text.toLowerCase();
  // Some letters grow in lower case; the places would be wrong then.
  if (lower.length !== text.length) return [text];
  const parts = [];
  let from = 0;
  for (let at = lower.indexOf(filter); at >= 0; at = lower.indexOf(filter, from)) {
    parts.push(text.slice(from, at), element("mark", {}, text.slice(at, at + filter.length)));
    from = at + filter.length;
  }
  return [...parts, text.slice(from)];
}
