import { element } from "./dom.js";

/**
 * Which view is in front, as told by the address (`#/messages`).
 *
 * A view is one section of the page; the style sheet decides whether those that are not in front
 * are hidden (on a phone) or stand beside it.
 *
 * @typedef {object} View
 * @property {string} name as in the address
 * @property {string} title
 * @property {HTMLElement} section
 */
export class Navigation {
  #views;
  #links;

  /**
   * @param {HTMLElement} nav
   * @param {View[]} views the first is in front at the start
   */
  constructor(nav, views) {
    this.#views = views;
    this.#links = views.map(({ name, title }) => element("a", { href: `#/${name}` }, title));
    nav.append(...this.#links);
    addEventListener("hashchange", () => this.#show());
    this.#show();
  }

  #show() {
    const wanted = this.#views.findIndex(({ name }) => location.hash === `#/${name}`);
    const front = Math.max(0, wanted);
    this.#views.forEach(({ section }, index) => section.classList.toggle("front", index === front));
    this.#links.forEach((link, index) => {
      if (index === front) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    });
  }
}
