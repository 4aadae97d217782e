import { element } from "../dom.js";

/**
 * A table whose rows become cards where there is no room. Roles are said aloud, because a table that is laid out in
 * another way is none any more for some screen readers.
 *
 * @typedef {object} Column
 * @property {string} name
 * @property {string} title
 * @property {string} [sort] the order that its heading chooses
 * @property {boolean} [isNumber]
 */
export class Table {
  #columns;
  #body = element("tbody", { role: "rowgroup" });
  #heads = new Map();
  #empty = element("p", { class: "table-empty aside" });
  #table;
  node;

  /**
   * @param {string} label for screen readers
   * @param {Column[]} columns
   * @param {(sort: string) => void} [onSort]
   */
  constructor(label, columns, onSort) {
    this.#columns = columns;
    const heads = columns.map(({ name, title, sort, isNumber }) => {
      const content = sort ? element("button", { type: "button", class: "sort" }, title) : title;
      if (sort) content.addEventListener("click", () => onSort(sort));
      const head = element("th", { scope: "col", role: "columnheader", "data-column": name, class: isNumber && "number" }, content);
      if (sort) this.#heads.set(sort, head);
      return head;
    });
    const head = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads));
    this.#table = element("table", { class: "table", role: "table", "aria-label": label }, head, this.#body);
    this.node = element("div", { class: "table-frame" }, this.#table, this.#empty);
  }

  /** Marks the column by which the rows are in order. */
  showSort(sort, direction) {
    for (const [name, head] of this.#heads) {
      if (name === sort) head.setAttribute("aria-sort", direction);
      else head.removeAttribute("aria-sort");
    }
  }

  /**
   * @param {{key: string, cells: Record<string, Node | string>, attributes?: object}[]} rows those with a known key
   *   keep their place in the page, so that the focus stays where it is
   * @param {string} empty what to say if there are none
   */
  show(rows, empty) {
    const focused = this.#body.contains(document.activeElement) ? document.activeElement.closest("tr")?.dataset.key : null;
    this.#body.replaceChildren(...rows.map((row) => this.#row(row)));
    if (focused != null) {
      for (const row of this.#body.children) {
        if (row.dataset.key === focused) row.querySelector("a, button")?.focus({ preventScroll: true });
      }
    }
    this.#table.hidden = rows.length === 0;
    this.#empty.hidden = rows.length > 0;
    this.#empty.textContent = empty;
  }

  #row({ key, cells, attributes = {} }) {
    const all = this.#columns.map(({ name, title, isNumber }) =>
      element("td", { role: "cell", "data-column": name, "data-label": title, class: isNumber && "number" }, cells[name] ?? ""),
    );
    return element("tr", { role: "row", "data-key": key, ...attributes }, ...all);
  }
}

/** A name that somebody else has chosen: on one line, whatever is in it. */
export const nameOf = (text) => element("bdi", { class: "cut", title: text }, text);

/**
 * Says what a list is without.
 *
 * @param {HTMLElement} place
 * @param {string} [error] of the answer; none if the list is whole
 */
export function showMissing(place, error = "") {
  const text = error && `Not everything is listed: ${error}.`;
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
}
