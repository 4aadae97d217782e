import { HttpLink } from "./http_link.js";

/** @import { Transport } from "../heliograph.js" */
/** @import { Credentials } from "./credentials.js" */
/** @import { Query } from "./http_link.js" */
/** @import { Place } from "./link.js" */

const WAIT_S = 25;
const SLACK_MS = 5_000;

/** Long polls, one after the other: each answer says where the next continues. */
export class PollLink extends HttpLink {
  /** @type {Transport} */
  transport = "poll";
  /** @override */
  receivedPath = "received";

  /**
   * @override
   * @param {URL} url
   * @param {Credentials} credentials
   * @param {() => Place} place
   */
  async run(url, credentials, place) {
    /** @type {Query} */
    const query = { ...this.begin(place), wait: "0" }; // the first answers at once
    for (let first = true; !this.ended; first = false) {
      const response = await this.request(url, query, credentials, first);
      const { user, replica, cursor, events } = await response.json();
      if (this.ended) return;
      if (!this.hello) {
        // The cursor is after the events. If one of them is of the user's own channel, it is not where that begins.
        const told = events.some((/** @type {any} */ event) => event.channel === `#${user}`);
        this.welcome({ type: "connected", user, replica, cursor: told ? "" : cursor });
      }
      this.serveBy(replica);
      for (const event of events) {
        if (this.ended) return;
        this.deliver(event);
      }
      query.cursor = cursor;
      query.wait = String(WAIT_S);
      this.withinMs = WAIT_S * 1000 + SLACK_MS;
    }
  }
}
