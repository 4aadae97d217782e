import { announce, byId } from "../dom.js";

const WAYS = { key: "Key of the server API", token: "Operator's token (JWT)" };

/** The button at the top, and the form in which an operator logs in. */
export class LoginView {
  #session;
  #dialog = byId("login-dialog");

  /** @param {import("../operator_session.js").OperatorSession} session */
  constructor(session) {
    this.#session = session;
    session.on("change", () => this.#show());
    byId("operator").addEventListener("click", () => {
      if (session.operator) this.#logOut();
      else this.open();
    });
    byId("login-cancel").addEventListener("click", () => this.#dialog.close());
    byId("login-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#logIn();
    });
    // What was typed does not wait in the page.
    this.#dialog.addEventListener("close", () => this.#forget());
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) this.#dialog.close();
    });
  }

  /** Shows the form. */
  open() {
    const ways = (this.#session.ways ?? []).filter((way) => way in WAYS);
    byId("login-none").hidden = ways.length > 0;
    byId("login-fields").hidden = ways.length === 0;
    byId("login-submit").hidden = ways.length === 0;
    byId("login-ways").hidden = ways.length < 2;
    byId("login-plain").hidden = window.isSecureContext;
    for (const radio of byId("login-ways").querySelectorAll("input")) {
      radio.checked = radio.value === ways[0];
      radio.onchange = () => this.#label();
    }
    this.#label();
    this.#complain("");
    this.#dialog.showModal();
    if (ways.length) byId("login-secret").focus();
  }

  get #way() {
    const ways = (this.#session.ways ?? []).filter((way) => way in WAYS);
    const chosen = byId("login-ways").querySelector("input:checked")?.value;
    return ways.includes(chosen) ? chosen : ways[0];
  }

  async #logIn() {
    const secret = byId("login-secret").value.trim();
    if (!secret) return;
    byId("login-submit").disabled = true;
    try {
      await this.#session.logIn({ [this.#way]: secret });
      this.#dialog.close();
      announce("Logged in");
    } catch (error) {
      this.#complain(error.message);
      byId("login-secret").select();
    } finally {
      byId("login-submit").disabled = false;
    }
  }

  async #logOut() {
    try {
      await this.#session.logOut();
      announce("Logged out");
    } catch (error) {
      announce(`Not logged out: ${error.message}`);
      byId("operator").title = error.message;
    }
  }

  #show() {
    const { operator, ways } = this.#session;
    const button = byId("operator");
    // Where anybody is an operator there is nothing to log out of.
    button.hidden = !ways || operator?.way === "open";
    button.textContent = operator ? "Log out" : "Log in";
    button.title = operator ? `Operator ${operator.name || "with the cluster's key"}` : "Log in as an operator";
    document.documentElement.toggleAttribute("data-operator", Boolean(operator));
  }

  #label() {
    byId("login-label").textContent = WAYS[this.#way] ?? "";
  }

  #forget() {
    byId("login-secret").value = "";
    this.#complain("");
  }

  #complain(problem) {
    byId("login-problem").textContent = problem;
    byId("login-problem").hidden = !problem;
    byId("login-secret").setAttribute("aria-invalid", String(Boolean(problem)));
  }
}
