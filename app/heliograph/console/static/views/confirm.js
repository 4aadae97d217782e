import { element } from "../dom.js";

/**
 * Asks before something is done that cannot be undone, in the place of the buttons that lead to it.
 *
 * @param {HTMLElement} place its content comes back afterwards
 * @param {(Node | string)[]} question
 * @param {string} verb on the button
 * @param {() => Promise<void>} act a failure is told in the same place
 */
export function confirm(place, question, verb, act) {
  const before = [...place.childNodes];
  const focused = document.activeElement;
  const yes = element("button", { type: "button", class: "button danger" }, verb);
  const no = element("button", { type: "button", class: "button" }, "Cancel");
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const back = () => {
    place.replaceChildren(...before);
    if (focused?.isConnected) focused.focus();
  };
  no.addEventListener("click", back);
  yes.addEventListener("click", async () => {
    yes.disabled = true;
    try {
      await act();
      back();
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
      yes.disabled = false;
    }
  });
  place.replaceChildren(element("p", { class: "question", role: "alert" }, ...question), element("div", { class: "buttons" }, yes, no), problem);
  no.focus();
}
