import { ABNORMAL } from "./codes.js";
import { Refused, HttpLink } from "./http_link.js";

/** @import { Transport } from "../heliograph.js" */
/** @import { Credentials } from "./credentials.js" */
/** @import { Place } from "./link.js" */

const SLACK_MS = 5_000;

/**
 * One stream of server-sent events. Read by `fetch`, because an `EventSource` can neither carry a token
 * nor tell why it was refused.
 */
export class StreamLink extends HttpLink {
  /** @type {Transport} */
  transport = "sse";
  /** @override */
  receivedPath = "api/received";

  #buffer = "";
  /** @type {string[]} */
  #data = [];

  /**
   * @override
   * @param {URL} url
   * @param {Credentials} credentials
   * @param {() => Place} place
   */
  async run(url, credentials, place) {
    const response = await this.request(url, this.begin(place), credentials, true);
    if (!response.body || !response.headers.get("content-type")?.startsWith("text/event-stream")) {
      throw new Refused(ABNORMAL, "not an event stream");
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (this.ended) return;
      if (done) throw new Refused(ABNORMAL, "the stream has ended");
      this.#take(value);
      if (this.ended) return;
      // The server says something every `ping` seconds, if only a comment.
      const ping = this.hello?.ping ?? 0;
      if (ping > 0) this.expectWithin(ping * 1000 + SLACK_MS, "no sign of life");
    }
  }

  /** @param {string} text any piece of the stream */
  #take(text) {
    const lines = (this.#buffer + text).split(/\r\n|\n|\r(?!$)/);
    this.#buffer = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") this.#dispatch();
      else if (line.startsWith("data:")) this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      // `id`, the whole cursor, is the sum of what the messages say themselves; `retry` is for an EventSource.
      if (this.ended) return;
    }
  }

  #dispatch() {
    if (!this.#data.length) return;
    const text = this.#data.join("\n");
    this.#data = [];
    let frame;
    try {
      frame = JSON.parse(text);
    } catch (error) {
      this.garbled(/** @type {Error} */ (error));
      return;
    }
    if (frame?.type === "connected" && !this.hello) this.welcome(frame);
    else if (frame?.type === "disconnect") throw new Refused(frame.code, frame.reason);
    else this.deliver(frame);
  }
}
