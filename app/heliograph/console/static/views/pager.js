import { element } from "../dom.js";

/** Buttons to the next page of a list and back. Pages are known by cursors. */
export class Pager {
  #before = []; // the cursors of the pages before this one
  #next = "";
  #changed;
  #previousButton = element("button", { class: "button small", type: "button", hidden: true }, "‹ Previous");
  #nextButton = element("button", { class: "button small", type: "button", hidden: true }, "Next ›");
  #sum = element("span", { class: "aside", role: "status" });

  /** The cursor of the present page; empty for the first. */
  cursor = "";
  node = element("div", { class: "pager" }, this.#sum, this.#previousButton, this.#nextButton);

  /** @param {() => void} changed another page is wanted */
  constructor(changed) {
    this.#changed = changed;
    this.#previousButton.addEventListener("click", () => this.#go(this.#before.pop() ?? ""));
    this.#nextButton.addEventListener("click", () => {
      this.#before.push(this.cursor);
      this.#go(this.#next);
    });
  }

  /** Begins again with the first page. */
  reset() {
    this.#before = [];
    this.cursor = "";
    this.#next = "";
  }

  /**
   * @param {string} next the cursor of the next page; empty: this is the last
   * @param {string} sum
   */
  show(next, sum) {
    this.#next = next;
    this.#nextButton.disabled = !next;
    this.#previousButton.disabled = !this.cursor;
    this.#previousButton.hidden = this.#nextButton.hidden = !next && !this.cursor;
    if (this.#sum.textContent !== sum) this.#sum.textContent = sum;
  }

  #go(cursor) {
    this.cursor = cursor;
    this.node.closest(".scroll")?.scrollTo(0, 0);
    this.#changed();
  }
}
