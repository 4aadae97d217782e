import { byId, element } from "../dom.js";

/** The form in which the user writes to another one. */
export class Composer {
  #people = new Set();
  #send;

  /** @param {(to: string, data: any) => void} send */
  constructor(send) {
    this.#send = send;
    const form = byId("composer");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    byId("text").addEventListener("keydown", (event) => {
      // While an input method composes (Korean, Japanese, …), Enter belongs to it.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    });
    byId("text").addEventListener("input", () => this.#complain(""));
    byId("as-json").addEventListener("change", (event) => {
      byId("text").classList.toggle("mono", event.target.checked);
      byId("text").placeholder = event.target.checked ? '{"any": ["JSON"]}' : "Write a message";
      this.#complain("");
    });
  }

  /** @param {boolean} connected or about to be: what is sent meanwhile waits for it */
  setConnected(connected) {
    byId("send").disabled = !connected;
    this.#complain("");
  }

  /** Addresses the next message. */
  addressTo(user) {
    byId("to").value = user;
    byId("text").focus();
  }

  /** Offers a user as a recipient. */
  suggest(user) {
    if (this.#people.has(user)) return;
    this.#people.add(user);
    byId("people").append(element("option", { value: user }));
  }

  #submit() {
    if (byId("send").disabled) {
      this.#complain("Connect first.");
      return;
    }
    const text = byId("text");
    const to = byId("to").value.trim();
    let data = text.value;
    if (byId("as-json").checked) {
      try {
        data = parseJson(text.value);
      } catch (error) {
        this.#complain(error.message);
        return;
      }
    }
    this.suggest(to);
    text.value = "";
    text.focus();
    this.#send(to, data);
  }

  #complain(problem) {
    byId("text-problem").textContent = problem;
    byId("text-problem").hidden = !problem;
    byId("text").setAttribute("aria-invalid", String(Boolean(problem)));
  }
}

function parseJson(text) {
  let data;
  try {
    data = JSON.parse(text);
  } catch (error) {
    throw new Error(`Not JSON: ${error.message}`);
  }
  if (data === null || typeof data !== "object") {
    throw new Error("Not a JSON object or array. Without the switch it is sent as text.");
  }
  return data;
}
