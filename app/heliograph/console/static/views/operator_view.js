import { element } from "../dom.js";

const AT_LEAST_MS = 3_000;
// A look at everything costs the cluster time: it is repeated so seldom that it takes a twentieth of it at most.
const PATIENCE = 20;

/**
 * The frame of a view that only an operator sees: a request to log in, the refreshing while it is in front, and what
 * went wrong.
 */
export class OperatorView {
  #session;
  #load;
  #gate;
  #body;
  #problem;
  #timer = null;
  #open = false;
  #loading = 0; // which load counts: answers to earlier ones come too late
  #isPaused;

  /**
   * @param {HTMLElement} section with `.operator-body`, which is shown to operators
   * @param {import("../operator_session.js").OperatorSession} session
   * @param {object} view
   * @param {() => void} view.logIn shows the form
   * @param {() => Promise<() => void>} view.load asks the cluster; returns what shows the answer
   * @param {() => boolean} [view.isPaused] whether it must not be refreshed by itself now
   */
  constructor(section, session, { logIn, load, isPaused = () => false }) {
    this.#session = session;
    this.#load = load;
    this.#isPaused = isPaused;
    this.#body = section.querySelector(".operator-body");
    const button = element("button", { class: "button primary", type: "button" }, "Log in");
    button.addEventListener("click", logIn);
    this.#gate = element("div", { class: "gate", hidden: true }, element("p", {}, element("strong", {}, "For operators")), element("p", { class: "why" }), button);
    this.#problem = element("p", { class: "problem view-problem", role: "status", hidden: true });
    this.#body.before(this.#gate, this.#problem);
    session.on("change", () => this.#show());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.refresh();
    });
    this.#show();
  }

  open() {
    this.#open = true;
    this.refresh();
  }

  leave() {
    this.#open = false;
    clearTimeout(this.#timer);
    this.#loading += 1;
  }

  /** Asks now, and then from time to time. */
  async refresh() {
    clearTimeout(this.#timer);
    if (!this.#open || !this.#session.operator) return;
    const load = ++this.#loading;
    const begun = performance.now();
    let problem = "";
    try {
      const show = await this.#load();
      if (load !== this.#loading) return;
      show();
    } catch (error) {
      if (load !== this.#loading) return;
      problem = error.message;
    }
    this.complain(problem);
    const tookMs = performance.now() - begun;
    this.#timer = setTimeout(() => this.#again(), Math.max(AT_LEAST_MS, PATIENCE * tookMs));
  }

  /** @param {string} problem empty: there is none */
  complain(problem) {
    if (this.#problem.textContent !== problem) this.#problem.textContent = problem;
    this.#problem.hidden = !problem;
  }

  #again() {
    if (document.hidden) return; // it is asked when it is seen again
    if (this.#isPaused()) this.#timer = setTimeout(() => this.#again(), AT_LEAST_MS);
    else this.refresh();
  }

  #show() {
    const { operator, ways } = this.#session;
    this.#gate.hidden = Boolean(operator);
    this.#body.hidden = !operator;
    const canLogIn = Boolean(ways?.length);
    this.#gate.querySelector(".why").textContent =
      ways === null
        ? "Asking the cluster …"
        : canLogIn
          ? "Log in to see what goes on in the whole cluster, and to act on it."
          : "Nobody can log in here: set HELIOGRAPH_API__KEY, and log in with it.";
    this.#gate.querySelector("button").hidden = !canLogIn;
    if (operator) this.refresh();
    else this.complain("");
  }
}
