import { byId, element } from "../dom.js";
import { addressOf } from "../navigation.js";
import { KeptList } from "./kept_list.js";

const EVERY_MS = 5_000;
const SEARCH_MS = 250; // after the last letter

/** The list of all runs, or of all logs, in the place of the one that is watched. For operators. */
export class KeptPanel {
  #session;
  #prefix;
  #list;
  #button;
  #place;
  #others;
  #search = element("input", { type: "search", placeholder: "Only names with …", dir: "auto", maxlength: "255", autocapitalize: "none", spellcheck: "false" });
  #problem = element("p", { class: "problem", role: "status", hidden: true });
  #timer = null;
  #loading = 0; // which load counts: answers to earlier ones come too late
  #isFront = false;

  /**
   * @param {import("../operator_session.js").OperatorSession} session
   * @param {object} panel
   * @param {string} panel.id of the place, with `-list`, and of the button, with `-all`
   * @param {string} panel.view whose address leads to one of them
   * @param {string} panel.prefix of the names of their channels
   * @param {string} panel.label
   * @param {HTMLElement[]} panel.others what is hidden meanwhile
   */
  constructor(session, { id, view, prefix, label, others }) {
    this.#session = session;
    this.#prefix = prefix;
    this.#others = others;
    this.#button = byId(`${id}-all`);
    this.#place = byId(`${id}-list`);
    this.#search.setAttribute("aria-label", "Only names with");
    const scroll = element("div", { class: "scroll" });
    this.#place.append(element("div", { class: "toolbar", role: "search" }, this.#search), this.#problem, scroll);
    const shown = (name) => name.slice(prefix.length);
    this.#list = new KeptList(session, scroll, () => this.#load(), { label, addressOf: (name) => addressOf(view, shown(name)), shown });
    // The address of what is watched already leads nowhere else, and the list has to go all the same.
    scroll.addEventListener("click", (event) => {
      if (event.target.closest("a")) this.close();
    });
    this.#button.addEventListener("click", () => (this.isOpen ? this.close() : this.open()));
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#loading += 1;
      this.#list.reset();
      this.#timer = setTimeout(() => this.#load(), SEARCH_MS);
    });
    session.on("change", () => {
      this.#button.hidden = !session.operator;
      if (!session.operator) this.close();
    });
  }

  get isOpen() {
    return !this.#place.hidden;
  }

  /** The view with it has come to the front. @param {boolean} isWatching whether there is something else to show */
  enter(isWatching) {
    this.#isFront = true;
    if (isWatching) this.close();
    else if (this.#session.operator) this.open();
  }

  leave() {
    this.#isFront = false;
    clearTimeout(this.#timer);
  }

  open() {
    this.#show(true);
    this.#load();
  }

  close() {
    clearTimeout(this.#timer);
    if (this.isOpen) this.#show(false);
  }

  #show(isOpen) {
    this.#place.hidden = !isOpen;
    this.#button.setAttribute("aria-expanded", String(isOpen));
    for (const other of this.#others) other.classList.toggle("is-covered", isOpen);
  }

  async #load() {
    clearTimeout(this.#timer);
    if (!this.isOpen || !this.#isFront) return;
    const load = ++this.#loading;
    let problem = "";
    try {
      const show = await this.#list.load(this.#prefix, this.#search.value.trim());
      if (load !== this.#loading) return;
      show();
    } catch (error) {
      if (load !== this.#loading) return;
      problem = error.message;
    }
    this.#problem.textContent = problem;
    this.#problem.hidden = !problem;
    this.#timer = setTimeout(() => this.#load(), EVERY_MS);
  }
}
