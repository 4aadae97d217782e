import { element } from "../dom.js";
import { clock } from "../format.js";
import { hue } from "./replica.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 150;
const MARGIN = { top: 10, right: 10, bottom: 20, left: 56 };
// After longer without a sample (the page was hidden, the replica gone) the line is broken.
const BREAK_MS = 7_000;
const MINUTE_MS = 60_000;

/**
 * One figure of every replica over the last minutes: a line for each, drawn by hand.
 *
 * @typedef {object} Figure
 * @property {string} title
 * @property {(report: object) => number | undefined} of
 * @property {(value: number) => string} format
 * @property {number} least what the scale reaches at least
 */
export class Chart {
  #figure;
  #history;
  #onPoint;
  #width = 0;
  #at = null; // the moment that is pointed at; null: now
  #svg = make("svg", { tabindex: "0", role: "img", height: String(HEIGHT) });
  #values = element("ul", { class: "values" });

  /**
   * @param {Figure} figure
   * @param {import("../cluster_history.js").ClusterHistory} history
   * @param {(at: ?number) => void} onPoint the user points at a moment, or at none any more
   */
  constructor(figure, history, onPoint) {
    this.#figure = figure;
    this.#history = history;
    this.#onPoint = onPoint;
    this.node = element(
      "figure",
      { class: "chart", "data-chart": figure.title },
      element("figcaption", {}, element("h3", {}, figure.title), this.#values),
      this.#svg,
    );
    this.#svg.addEventListener("pointermove", (event) => onPoint(this.#nearest(event.offsetX)));
    this.#svg.addEventListener("pointerleave", () => onPoint(null));
    this.#svg.addEventListener("blur", () => onPoint(null));
    this.#svg.addEventListener("keydown", (event) => this.#onKey(event));
    new ResizeObserver(([{ contentRect }]) => {
      this.#width = contentRect.width;
      this.draw(this.#at);
    }).observe(this.node);
  }

  /** @param {?number} at the moment at which the user points */
  draw(at) {
    this.#at = at;
    const { samples } = this.#history;
    const told = samples.some(({ reports }) => this.#all(reports).length > 0);
    this.node.hidden = samples.length > 0 && !told;
    this.#showValues();
    if (this.#width <= 0 || !told) return;
    const top = ceiling(Math.max(this.#figure.least, ...samples.flatMap(({ reports }) => this.#all(reports))));
    const y = (value) => HEIGHT - MARGIN.bottom - (value / top) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    this.#svg.replaceChildren(
      ...this.#scale(top, y),
      ...this.#history.names().map((name) =>
        make("path", { class: "series", "data-hue": hue(name), d: this.#path(name, y) })),
      ...this.#cross(y),
    );
  }

  #value(report) {
    const value = report && this.#figure.of(report);
    return typeof value === "number" && Number.isFinite(value) ? value : undefined;
  }

  #all(reports) {
    return [...reports.values()].map((report) => this.#value(report)).filter((value) => value !== undefined);
  }

  #x(at) {
    const { samples, reachMs } = this.#history;
    const age = samples[samples.length - 1].at - at;
    return this.#width - MARGIN.right - (age / reachMs) * (this.#width - MARGIN.left - MARGIN.right);
  }

  #scale(top, y) {
    const right = this.#width - MARGIN.right;
    const { samples, reachMs } = this.#history;
    const now = samples[samples.length - 1].at;
    const nodes = [0, top / 2, top].flatMap((value) => [
      make("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(value), y2: y(value) }),
      label(MARGIN.left - 8, y(value) + 4, "end", this.#figure.format(value)),
    ]);
    for (let ago = reachMs; ago >= 0; ago -= MINUTE_MS) {
      const words = ago ? `−${ago / MINUTE_MS} min` : "now";
      const anchor = ago ? "middle" : "end";
      const fits = this.#width > 330 || ago === reachMs || ago === 0;
      if (fits) nodes.push(label(this.#x(now - ago), HEIGHT - 4, anchor, words));
    }
    return nodes;
  }

  #path(name, y) {
    let before = -Infinity;
    let path = "";
    for (const { at, reports } of this.#history.samples) {
      const value = this.#value(reports.get(name));
      if (value === undefined) continue;
      path += `${at - before > BREAK_MS ? "M" : "L"}${this.#x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      before = at;
    }
    // A single point is a line of no length: round caps make it a dot.
    return /^M[^L]*$/.test(path) ? `${path}h0` : path;
  }

  #cross(y) {
    const sample = this.#pointedAt();
    if (this.#at === null || !sample) return [];
    const x = this.#x(sample.at);
    return [
      make("line", { class: "cross", x1: x, x2: x, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }),
      ...[...sample.reports].flatMap(([name, report]) => {
        const value = this.#value(report);
        if (value === undefined) return [];
        return [make("circle", { class: "dot", "data-hue": hue(name), cx: x, cy: y(value), r: 4 })];
      }),
    ];
  }

  #pointedAt() {
    const { samples } = this.#history;
    return this.#at === null ? samples[samples.length - 1] : samples.find(({ at }) => at >= this.#at);
  }

  /** The values of that moment, in the order of the legend; also for screen readers. */
  #showValues() {
    const sample = this.#pointedAt();
    const texts = this.#history.names().map((name) => {
      const value = this.#value(sample?.reports.get(name));
      return { name, text: value === undefined ? "–" : this.#figure.format(value) };
    });
    this.#values.replaceChildren(
      ...texts.map(({ name, text }) =>
        element("li", { class: "replica-name", "data-hue": hue(name), title: name }, text)),
    );
    const when = this.#at === null || !sample ? "now" : `at ${clock(new Date(sample.at))}`;
    const words = texts.map(({ name, text }) => `${name} ${text}`).join(", ");
    this.#svg.setAttribute("aria-label", `${this.#figure.title} ${when}: ${words}`);
  }

  #nearest(x) {
    const { samples } = this.#history;
    let best = null;
    for (const { at } of samples) {
      if (best === null || Math.abs(this.#x(at) - x) < Math.abs(this.#x(best) - x)) best = at;
    }
    return best;
  }

  #onKey(event) {
    const { samples } = this.#history;
    const here = this.#at === null ? samples.length : samples.findIndex(({ at }) => at >= this.#at);
    const there = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: samples.length - 1 }[event.key];
    if (event.key === "Escape") this.#onPoint(null);
    else if (there !== undefined) {
      event.preventDefault();
      this.#onPoint(samples[Math.min(Math.max(there, 0), samples.length - 1)]?.at ?? null);
    }
  }
}

function make(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function label(x, y, anchor, words) {
  const node = make("text", { x, y, "text-anchor": anchor });
  node.textContent = words;
  return node;
}

/** The next round number: 1, 2, 4 or 10 times a power of ten, so that half of it is round, too. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 10].map((factor) => factor * power).find((round) => round >= value);
}
