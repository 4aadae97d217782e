const KEPT = 2_000; // frames; the oldest are forgotten
const MOST_CHARACTERS = 20_000; // of one frame: what is longer is cut
const SECRETS = /("(?:token|ticket)"\s*:\s*)"(?:[^"\\]|\\.)*"/g;

/**
 * The frames of this page's own WebSockets, without the credentials in them.
 *
 * @typedef {object} Frame
 * @property {number} number counts all frames
 * @property {Date} at
 * @property {"in" | "out" | "mark"} direction a mark says that a socket has opened or closed
 * @property {string} text
 * @property {number} size characters before it was cut
 */
export class FrameTap {
  /** @type {Frame[]} oldest first */
  frames = [];
  /** @type {(frame: Frame) => void} called for each frame */
  onFrame = () => {};

  #count = 0;

  /** A WebSocket that shows its frames here, for the client's options. */
  get WebSocket() {
    const note = (direction, text) => this.#note(direction, text);
    return class extends WebSocket {
      constructor(url) {
        super(url);
        this.addEventListener("open", () => note("mark", `socket open: ${withoutQuery(url)}`));
        this.addEventListener("close", ({ code, reason }) => note("mark", `socket closed: ${code} ${reason}`));
        this.addEventListener("message", ({ data }) => note("in", String(data)));
      }

      send(text) {
        note("out", String(text));
        super.send(text);
      }
    };
  }

  clear() {
    this.frames = [];
  }

  #note(direction, text) {
    const isSecret = direction === "out" && (text.includes('"token"') || text.includes('"ticket"'));
    // Before the cut: of a secret that begins before it and ends after it, the beginning would be shown.
    const safe = isSecret ? text.replace(SECRETS, '$1"…"') : text;
    const frame = {
      number: ++this.#count,
      at: new Date(),
      direction,
      text: safe.length > MOST_CHARACTERS ? `${safe.slice(0, MOST_CHARACTERS)}…` : safe,
      size: text.length,
    };
    this.frames.push(frame);
    if (this.frames.length > KEPT + KEPT / 10) this.frames.splice(0, this.frames.length - KEPT);
    this.onFrame(frame);
  }
}

const withoutQuery = (url) => String(url).replace(/\?.*/s, "");
