const WORDS = {
  off: "Not connected",
  connecting: "Connecting …",
  live: "Live",
  polling: "Polling every 2 s",
  ended: "Ended",
  refused: "Refused",
};

/**
 * Shows where a view's data comes from.
 *
 * @param {HTMLElement} badge
 * @param {"off" | "connecting" | "live" | "polling" | "ended" | "refused"} source
 * @param {string} [detail] shown on hover
 * @param {string} [words] instead of the default text
 */
export function showSource(badge, source, detail = "", words = WORDS[source]) {
  badge.hidden = false;
  badge.dataset.source = source;
  badge.title = detail;
  if (badge.textContent !== words) badge.textContent = words;
}
