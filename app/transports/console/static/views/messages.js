import { announce, byId, element } from "../dom.js";
import { clock, milliseconds } from "../format.js";
import { replicaName } from "./replica.js";

const KEPT = 500;
// Nearer to the end than this counts as being there.
const END_PX = 48;
const HIDDEN_FLUSH_MS = 250;

const DELIVERIES = {
  local: "a connection on this replica",
  remote: "handed to the other replicas",
  stored: "kept for when the user comes back",
  offline: "the user has no connection, and it is not kept",
};

/**
 * The conversation, newest at the end.
 *
 * Entries are made and added once a frame, and only those that will be kept: a burst of thousands
 * costs no more than the last few hundred.
 */
export class MessagesView {
  /** @type {Array<() => HTMLElement>} what the next frame adds */
  #queue = [];
  #scheduled = false;
  #atEnd = true;
  #unseen = 0;
  #forgotten = 0;
  #onReply;

  /** @param {(user: string) => void} onReply called when the name of a sender is chosen */
  constructor(onReply) {
    this.#onReply = onReply;
    const log = byId("messages");
    log.addEventListener("scroll", () => {
      this.#atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < END_PX;
      if (this.#atEnd) this.#unseen = 0;
      this.#showJump();
    });
    // The keyboard of a phone, a growing text field, a turned device: the end stays in view.
    new ResizeObserver(() => {
      if (this.#atEnd) this.#toEnd();
    }).observe(log);
    byId("jump").addEventListener("click", () => this.#toEnd());
  }

  /** @param {import("../heliograph.js").Message} message */
  addIncoming(message) {
    const receivedAt = Date.now();
    this.#add(() => {
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
          part(element("data", { class: "latency", title: "From sending to arrival, by the clocks of both machines" },
            milliseconds(receivedAt - sentAt))),
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
    this.#atEnd = true; // who writes wants to see it
    this.#add(() => entry);
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
    if (this.#atEnd) this.#toEnd();
  }

  /**
   * What happened to the connection, in its place between the messages.
   *
   * @param {"plain" | "error"} kind
   * @param {...(Node | string)} words
   */
  addNote(kind, ...words) {
    const at = new Date();
    this.#add(() => element("p", { class: "note", "data-kind": kind }, time(at), " ", ...words));
  }

  #senderButton(user) {
    const button = element("button", { class: "name", type: "button", title: "Reply" }, element("bdi", {}, user));
    button.addEventListener("click", () => this.#onReply(user));
    return button;
  }

  #add(make) {
    this.#queue.push(make);
    if (this.#queue.length > KEPT) {
      this.#queue.shift();
      this.#forgotten += 1;
    }
    if (this.#scheduled) return;
    this.#scheduled = true;
    // A hidden page gets no animation frames.
    if (document.hidden) setTimeout(() => this.#flush(), HIDDEN_FLUSH_MS);
    else requestAnimationFrame(() => this.#flush());
  }

  #flush() {
    this.#scheduled = false;
    const log = byId("messages");
    const added = this.#queue.map((make) => make());
    this.#queue = [];
    log.append(...added);
    while (log.childElementCount > KEPT) {
      log.firstElementChild.remove();
      this.#forgotten += 1;
    }
    if (added.some((entry) => entry.matches("article"))) byId("welcome").hidden = true;
    if (this.#atEnd) {
      this.#toEnd();
    } else {
      this.#unseen += added.length;
      this.#showJump();
    }
    this.#showForgotten();
  }

  #toEnd() {
    const log = byId("messages");
    log.scrollTop = log.scrollHeight;
  }

  #showJump() {
    byId("jump").hidden = this.#atEnd;
    byId("jump").textContent = this.#unseen ? `↓ ${this.#unseen} new` : "↓ Newest";
  }

  #showForgotten() {
    if (!this.#forgotten) return;
    byId("messages-sum").textContent = `last ${KEPT} of ${(KEPT + this.#forgotten).toLocaleString()}`;
  }
}

const part = (...children) => element("span", {}, ...children);

function time(date) {
  return element("time", { datetime: Number.isNaN(date.getTime()) ? null : date.toISOString() }, clock(date));
}

const head = (who, date) => element("header", {}, who, time(date));

function body(data) {
  if (typeof data === "string") return element("p", { class: "data", dir: "auto" }, data);
  return element("pre", { class: "data mono", dir: "ltr" }, JSON.stringify(data, null, 2));
}
