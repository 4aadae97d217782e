import { element } from "./dom.js";

/**
 * Which view is shown, by the page's address: `#/messages`, `#/runs/42`.
 *
 * @typedef {object} View
 * @property {string} name as in the address
 * @property {string} title
 * @property {HTMLElement} section shown while the view is in front
 * @property {(subject: string) => string} [open] called when it is shown; `subject` is what follows its name in the
 *   address, and may be empty. Returns what is shown, to which its link leads back
 * @property {() => void} [leave] called when another view is shown
 */
export class Navigation {
  #views;
  #links;
  /** @type {?View} */
  #front = null;

  /**
   * @param {HTMLElement} nav
   * @param {View[]} views the first is in front where the address names none
   */
  constructor(nav, views) {
    this.#views = views;
    this.#links = views.map(({ name, title }) => element("a", { href: `#/${name}` }, title));
    nav.append(...this.#links);
    addEventListener("hashchange", () => this.#show());
    this.#show();
  }

  #show() {
    const [, name, subject] = /^#\/([^/]*)\/?(.*)$/s.exec(location.hash) ?? [];
    const view = this.#views.find((each) => each.name === name) ?? this.#views[0];
    if (view !== this.#front) this.#front?.leave?.();
    this.#front = view;
    document.querySelector("main").dataset.view = view.name;
    this.#views.forEach(({ section }, index) => {
      section.hidden = section !== view.section;
      if (section.hidden) this.#links[index].removeAttribute("aria-current");
      else this.#links[index].setAttribute("aria-current", "page");
    });
    const shown = view.open?.(decoded(subject ?? "")) ?? "";
    this.#links[this.#views.indexOf(view)].href = addressOf(view.name, shown);
  }
}

/** The address of a view and its subject, for a link. */
export const addressOf = (name, subject) => (subject ? `#/${name}/${encodeURIComponent(subject)}` : `#/${name}`);

/** What somebody types into the address bar may be encoded wrongly. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
