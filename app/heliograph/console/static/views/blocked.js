import { announce, byId, element } from "../dom.js";
import { duration } from "../format.js";
import { Pager } from "./pager.js";
import { nameOf } from "./table.js";

const LIMIT = 50;

/** The users that are kept out, each with a button to let them in again. */
export class BlockedList {
  #session;
  #onActed;
  #pager;

  /**
   * @param {import("../operator_session.js").OperatorSession} session
   * @param {() => void} onActed
   */
  constructor(session, onActed) {
    this.#session = session;
    this.#onActed = onActed;
    byId("blocked-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#block();
    });
    this.#pager = new Pager(onActed);
    byId("blocked").after(this.#pager.node);
  }

  async load() {
    const { users, total, next = "" } = await this.#session.call("blocked", { limit: LIMIT, cursor: this.#pager.cursor });
    // All of the last page have been let in again.
    if (!users.length && this.#pager.cursor) {
      this.#pager.reset();
      await this.load();
      return;
    }
    this.#pager.show(next, "");
    byId("blocked-sum").textContent = total ? total.toLocaleString() : "";
    byId("blocked-none").hidden = total > 0;
    const rows = users.map(({ user, remaining_s }) => {
      const lift = element("button", { type: "button", class: "button small" }, "Unblock");
      lift.setAttribute("aria-label", `Unblock ${user}`);
      lift.addEventListener("click", () => this.#lift(user, lift));
      return element("li", { "data-user": user }, nameOf(user), element("span", { class: "aside" }, `${duration(remaining_s * 1000)} left`), lift);
    });
    const focused = document.activeElement?.closest("#blocked li")?.dataset.user;
    byId("blocked").replaceChildren(...rows);
    if (focused !== undefined) rows.find((row) => row.dataset.user === focused)?.querySelector("button").focus();
  }

  async #block() {
    const user = byId("blocked-user").value;
    await this.#try(async () => {
      await this.#session.call("disconnect", { user, block_s: Number(byId("blocked-time").value) });
      byId("blocked-user").value = "";
      announce(`Blocked ${user}`);
    });
  }

  async #lift(user, button) {
    button.disabled = true;
    await this.#try(async () => {
      // Whoever is let in again has no connection that would be closed.
      await this.#session.call("disconnect", { user, block_s: 0 });
      announce(`Unblocked ${user}`);
    });
  }

  async #try(act) {
    let problem = "";
    try {
      await act();
    } catch (error) {
      problem = error.message;
    }
    byId("blocked-problem").textContent = problem;
    byId("blocked-problem").hidden = !problem;
    this.#onActed();
  }
}
