import { announce, byId, element } from "../dom.js";
import { milliseconds } from "../format.js";
import { addressOf } from "../navigation.js";
import { body, Feed, head, LATENCY, part } from "./feed.js";
import { replicaName } from "./replica.js";

const STATES = {
  joining: "Not joined yet",
  refused: "Not joined: the server has refused it",
  ended: "Not joined any more: the server has ended it",
};
const PRESENCE_MS = 10_000; // in a namespace without join and leave events, presence is polled

/** The joined channels: their messages, and who is on them. */
export class ChannelsView {
  #client;
  /** @type {Map<string, JoinedChannel>} */
  #joined = new Map();
  /** @type {?JoinedChannel} */
  #front = null;
  #open = false;

  /** @param {import("../heliograph.js").Heliograph} client */
  constructor(client) {
    this.#client = client;
    client.on("state", () => this.#showComposer());
    byId("channel-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = byId("channel-name").value.trim();
      byId("channel-name").value = "";
      location.hash = addressOf("channels", name);
    });
    const form = byId("channel-composer");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#publish();
    });
    byId("channel-text").addEventListener("keydown", (event) => {
      // While an input method composes (Korean, Japanese, …), Enter belongs to it.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    });
    byId("channel-text").addEventListener("input", () => this.#complain(""));
    setInterval(() => {
      if (this.#open && !document.hidden) this.#front?.askWhoIsHere();
    }, PRESENCE_MS);
  }

  /**
   * @param {string} name empty: whatever was in front before
   * @returns {string} what is in front now
   */
  open(name) {
    this.#open = true;
    if (name && !this.#joined.has(name)) this.#join(name);
    const channel = this.#joined.get(name) ?? this.#front;
    if (channel) this.#bringToFront(channel);
    else byId("channel-name").focus({ preventScroll: true });
    return this.#front?.name ?? "";
  }

  leave() {
    this.#open = false;
  }

  #join(name) {
    const channel = new JoinedChannel(this.#client, name, {
      changed: () => {
        this.#showPeople(channel);
        this.#showComposer();
      },
      leave: () => this.#leaveChannel(channel),
    });
    this.#joined.set(name, channel);
    byId("joined").append(channel.tab);
    byId("channel-feeds").append(channel.panel);
    byId("channel-welcome").hidden = true;
  }

  #leaveChannel(channel) {
    channel.end();
    this.#joined.delete(channel.name);
    if (channel !== this.#front) return;
    this.#front = null;
    const next = [...this.#joined.values()].at(-1);
    location.hash = addressOf("channels", next?.name);
    if (next) return;
    byId("channel-welcome").hidden = false;
    byId("people-here").hidden = true;
    this.#showComposer();
  }

  #bringToFront(channel) {
    this.#front = channel;
    for (const each of this.#joined.values()) each.setFront(each === channel);
    byId("channel-text").placeholder = `Publish on ${channel.name}`;
    channel.askWhoIsHere();
    this.#showPeople(channel);
    this.#showComposer();
  }

  #showPeople(channel) {
    if (channel !== this.#front) return;
    const { users, note } = channel;
    byId("people-here").hidden = false;
    byId("people-sum").textContent = users ? String(users.size) : "";
    byId("people-note").textContent = note;
    const me = this.#client.state.user;
    byId("members").replaceChildren(
      ...[...(users ?? [])]
        .sort(([a], [b]) => a.localeCompare(b))
        .map(([user, connections]) =>
          element(
            "li",
            { "data-user": user },
            element("bdi", { class: "name" }, user),
            connections > 1 ? element("span", { class: "aside", title: "connections" }, ` ×${connections}`) : "",
            user === me ? element("span", { class: "badge" }, "you") : "",
          ),
        ),
    );
  }

  async #publish() {
    const text = byId("channel-text");
    const channel = this.#front;
    const data = text.value;
    if (byId("channel-send").disabled || !channel || !data.trim()) return;
    text.value = "";
    text.focus();
    try {
      await this.#client.publish(channel.name, data);
    } catch (error) {
      if (!text.value) text.value = data;
      this.#complain(`${error.code ?? error.name}: ${error.message}`);
    }
  }

  #showComposer() {
    const closed = this.#client.state.state === "closed";
    byId("channel-send").disabled = closed || !this.#front || this.#front.state === "refused";
  }

  #complain(problem) {
    byId("channel-problem").textContent = problem;
    byId("channel-problem").hidden = !problem;
    byId("channel-text").setAttribute("aria-invalid", String(Boolean(problem)));
  }
}

class JoinedChannel {
  /** @type {?Map<string, number>} who is here, with how many connections; null: unknown */
  users = null;
  /** Why they are unknown. */
  note = "";
  /** @type {"joining" | "joined" | "refused" | "ended"} */
  state = "joining";

  #client;
  #changed;
  #feed;
  #subscription;
  #unread = 0;
  #isFront = false;
  #link;
  #count = element("span", { class: "unread", hidden: true });
  #log = element("div", { class: "log", role: "log", "aria-relevant": "additions", tabindex: "0" });

  constructor(client, name, { changed, leave }) {
    this.#client = client;
    this.#changed = changed;
    this.name = name;
    const jump = element("button", { class: "jump", type: "button", hidden: true });
    this.#log.setAttribute("aria-label", name);
    this.panel = element("div", { class: "log-frame", "data-channel": name }, this.#log, jump);
    this.#feed = new Feed(this.#log, jump);
    this.#link = element("a", { href: addressOf("channels", name) }, element("bdi", {}, name), this.#count);
    const close = element("button", { type: "button", class: "close", title: "Leave" }, "×");
    close.setAttribute("aria-label", `Leave ${name}`);
    close.addEventListener("click", leave);
    this.tab = element("li", { "data-state": this.state }, this.#link, close);
    this.#subscribe();
  }

  end() {
    this.#subscription.unsubscribe();
    this.tab.remove();
    this.panel.remove();
  }

  setFront(front) {
    this.#isFront = front;
    this.panel.hidden = !front;
    this.tab.classList.toggle("is-front", front);
    if (front) this.#link.setAttribute("aria-current", "true");
    else this.#link.removeAttribute("aria-current");
    if (front) this.#setUnread(0);
  }

  async askWhoIsHere() {
    if (this.#client.state.transport !== "websocket" || this.state !== "joined") return;
    try {
      const { users } = await this.#client.presence(this.name);
      if (this.state !== "joined") return;
      this.users = new Map(Object.entries(users));
      this.note = "";
    } catch (error) {
      if (error.code !== "not_allowed") return; // not now: it is asked again
      this.users = null;
      this.note = "This namespace does not keep who is on its channels.";
    }
    this.#changed();
  }

  #subscribe() {
    // What is kept, each time: what an earlier page has shown is not on this one. A run tells its state by itself.
    const how = { replay: !this.name.startsWith("run:"), resume: false };
    this.#subscription = this.#client.subscribe(this.name, (event) => this.#hear(event), how);
    this.#subscription.on("subscribed", () => {
      if (this.state !== "joined") this.#feed.addNote("plain", "Joined");
      this.#setState("joined");
      this.askWhoIsHere();
    });
    this.#subscription.on("lost", () => this.#feed.addNote("error", "Messages are missing here"));
    this.#subscription.on("error", (error) => {
      this.#feed.addNote("error", `Not joined. ${error.code}: ${error.message}`);
      this.#setState("refused");
    });
    this.#subscription.on("unsubscribed", () => {
      this.#feed.addNote("error", "The server has ended the subscription");
      this.#setState("ended");
    });
    this.#subscription.on("join", ({ user }) => this.#move(user, true));
    this.#subscription.on("leave", ({ user }) => this.#move(user, false));
  }

  #setState(state) {
    this.state = state;
    this.tab.dataset.state = state;
    this.#link.title = state === "joined" ? "" : STATES[state];
    if (state !== "joined") {
      this.users = null;
      this.note = STATES[state];
    }
    this.#changed();
  }

  #move(user, came) {
    const verb = came ? "joined" : "left";
    if (user !== this.#client.state.user) {
      this.#feed.addNote("plain", element("bdi", { class: "name" }, user), ` ${verb}`);
      if (this.#isFront) announce(`${user} ${verb}`);
    }
    if (came && !this.users?.has(user)) this.users?.set(user, 1);
    else if (!came) this.users?.delete(user);
    this.#changed();
  }

  #hear(event) {
    const receivedAt = Date.now();
    this.#feed.add(() => entry(event, receivedAt, event.from === this.#client.state.user));
    if (!this.#isFront) this.#setUnread(this.#unread + 1);
  }

  #setUnread(count) {
    this.#unread = count;
    this.#count.hidden = count === 0;
    this.#count.textContent = count > 99 ? "99+" : String(count);
  }
}

/** A message; of a run's channel, what it says of the run. */
function entry(event, receivedAt, own) {
  if (event.type !== "message") {
    const { state, progress, message, logs } = event;
    return element("article", { "data-direction": "in" }, body({ state, progress, message, logs: logs?.length }));
  }
  const sentAt = new Date(event.sent_at);
  const who = event.from ? element("bdi", { class: "name" }, event.from) : element("em", {}, "no sender");
  return element(
    "article",
    { "data-direction": own ? "out" : "in", "data-message-id": event.message_id },
    head(who, sentAt),
    body(event.data),
    element(
      "footer",
      {},
      event.origin ? part("sent on ", replicaName(event.origin)) : part("published from outside"),
      part("→ ", replicaName(event.deliveredBy)),
      part(element("data", { title: LATENCY }, milliseconds(receivedAt - sentAt))),
    ),
  );
}
