/**
 * The place of a publication in a channel's log. Offsets count up by one; they can be compared within one epoch only.
 *
 * @typedef {object} Position
 * @property {string} epoch
 * @property {number} offset
 */

/**
 * The position in a cursor of one channel, such as each message carries.
 *
 * @param {string} cursor
 * @returns {Position}
 */
export function positionIn(cursor) {
  const text = cursor.slice(cursor.lastIndexOf("=") + 1);
  const dot = text.lastIndexOf(".");
  return { epoch: text.slice(0, dot), offset: Number(text.slice(dot + 1)) };
}

/**
 * @param {string} cursor of any number of channels
 * @param {string} channel
 * @returns {?Position} null if the cursor does not name the channel
 */
export function positionOf(cursor, channel) {
  const one = cursor.split("&").find((part) => decodeURIComponent(part.slice(0, part.lastIndexOf("="))) === channel);
  return one === undefined ? null : positionIn(one);
}

/**
 * @param {{name: string, position: ?Position}[]} channels those without a position are left out
 * @returns {string} a cursor of them all; empty if none has a position
 */
export const formatCursor = (channels) =>
  channels
    .flatMap(({ name, position }) =>
      position ? [`${encodeURIComponent(name)}=${position.epoch}.${position.offset}`] : [],
    )
    .join("&");

/**
 * @param {string} channel
 * @returns {string} a cursor before all that is kept of the channel: its position is in no log
 */
export const beginningOf = (channel) => `${encodeURIComponent(channel)}=0.0`;
