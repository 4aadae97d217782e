/**
 * What the console remembers of its user in this browser.
 *
 * Storage throws if the browser forbids it (private windows, policies): then nothing is
 * remembered, and nothing else breaks.
 */
const PREFIX = "heliograph.";

/** @param {string} name */
export function recall(name) {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}

/**
 * @param {string} name
 * @param {string} value
 */
export function remember(name, value) {
  try {
    localStorage.setItem(PREFIX + name, value);
  } catch {
    // Not remembered: see above.
  }
}
