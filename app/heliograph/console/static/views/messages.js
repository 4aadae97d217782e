import { announce, byId, element } from "../dom.js";
import { milliseconds } from "../format.js";
import { body, Feed, head, LATENCY, part } from "./feed.js";
import { replicaName } from "./replica.js";

const DELIVERIES = {
  local: "a connection on this replica",
  remote: "handed to the other replicas",
  stored: "kept for when the user comes back",
  offline: "the user has no connection, and it is not kept",
};

/** The conversation with other users. */
export class MessagesView {
  #feed = new Feed(byId("messages"), byId("jump"));
  #onReply;

  /** @param {(user: string) => void} onReply called when the name of a sender is chosen */
  constructor(onReply) {
    this.#onReply = onReply;
    this.#feed.onAdded = (shown, forgotten) => {
      if (byId("messages").querySelector("article")) byId("welcome").hidden = true;
      if (forgotten) {
        byId("messages-sum").textContent = `last ${shown} of ${(shown + forgotten).toLocaleString()}`;
      }
    };
  }

  /** @param {import("../heliograph.js").Message} message */
  addIncoming(message) {
    const receivedAt = Date.now();
    this.#feed.add(() => {
      const sentAt = new Date(message.sent_at);
      return element(
        "article",
        { "data-direction": "in", "data-message-id": message.message_id },
        head(message.from ? this.#senderButton(message.from) : element("em", {}, "no sender"), sentAt),
        body(message.data),
        element(
          "footer",
          {},
          message.origin ? part("sent on ", replicaName(message.origin)) : part("published from outside"),
          part("→ delivered by ", replicaName(message.deliveredBy)),
          part(element("data", { class: "latency", title: LATENCY }, milliseconds(receivedAt - sentAt))),
        ),
      );
    });
  }

  /**
   * @param {string} to
   * @param {*} data
   * @param {Promise<import("../heliograph.js").Ack>} acknowledged
   */
  async addOutgoing(to, data, acknowledged) {
    const footer = element("footer", {}, part("sending …"));
    const entry = element(
      "article",
      { "data-direction": "out", "data-delivery": "pending" },
      head(part("to ", element("bdi", { class: "name" }, to)), new Date()),
      body(data),
      footer,
    );
    this.#feed.toEnd(); // who writes wants to see it
    this.#feed.add(() => entry);
    try {
      const ack = await acknowledged;
      entry.dataset.messageId = ack.message_id;
      entry.dataset.delivery = ack.delivery;
      footer.replaceChildren(
        part("sent on ", replicaName(ack.sentOn)),
        part(element("strong", { class: "delivery", title: DELIVERIES[ack.delivery] }, ack.delivery)),
        part(element("data", { class: "round-trip", title: "Round trip from sending to the server's answer" },
          milliseconds(ack.rttMs))),
        part(element("span", { class: "message-id mono", title: `Message id ${ack.message_id}` }, ack.message_id)),
      );
      announce(`To ${to}: ${ack.delivery}`);
    } catch (error) {
      entry.dataset.delivery = "failed";
      entry.dataset.code = error.code ?? error.name;
      footer.replaceChildren(part(element("strong", {}, entry.dataset.code), ` ${error.message}`));
      announce(`To ${to}: failed. ${error.message}`);
    }
    this.#feed.settle();
  }

  /**
   * What happened to the connection, in its place between the messages.
   *
   * @param {"plain" | "error"} kind
   * @param {...(Node | string)} words
   */
  addNote(kind, ...words) {
    this.#feed.addNote(kind, ...words);
  }

  #senderButton(user) {
    const button = element("button", { class: "name", type: "button", title: "Reply" }, element("bdi", {}, user));
    button.addEventListener("click", () => this.#onReply(user));
    return button;
  }
}
