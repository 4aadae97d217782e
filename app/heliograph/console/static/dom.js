/**
 * Makes an element. Strings become text nodes, never markup: what users write cannot act.
 *
 * @param {string} tag
 * @param {Record<string, string | boolean | null | undefined>} attributes null, undefined and false
 *   leave the attribute out, true sets it without a value
 * @param {...(Node | string)} children
 */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** @param {string} id */
export const byId = (id) => document.getElementById(id);

/** Announces to screen readers what others see elsewhere on the page. */
export function announce(text) {
  byId("announcer").textContent = text;
}
