const WORDS = {
  off: "Not connected",
  connecting: "Connecting …",
  live: "Live",
  polling: "Polling every 2 s",
  ended: "Ended",
  refused: "Refused",
};

/**
 * Says where the news of a view come from.
 *
 * @param {HTMLElement} badge
 * @param {"off" | "connecting" | "live" | "polling" | "ended" | "refused"} source
 * @param {string} [detail] for whoever points at it
 * @param {string} [words] instead of the usual ones
 */
export function showSource(badge, source, detail = "", words = WORDS[source]) {
  badge.hidden = false;
  badge.dataset.source = source;
  badge.title = detail;
  if (badge.textContent !== words) badge.textContent = words;
}
