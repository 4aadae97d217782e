/**
 * The JavaScript client and the console's plain parts, without a server: each exported function is one case, and
 * fails by throwing. Sockets, requests and time are played by hand. `test_client.py` runs them in Chromium.
 */
import { Heliograph } from "/static/heliograph.js";
import { span } from "/static/format.js";
import { LineBuffer } from "/static/line_buffer.js";
import { RunWatch } from "/static/run_watch.js";

function equal(found, wanted, what = "") {
  const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`${what}: found ${a}, wanted ${b}`);
}

/** Another turn of the event loop. A timer would be held back by the browser for milliseconds. */
const turn = () =>
  new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = resolve;
    port2.postMessage(null);
  });

/** Lets everything happen that needs no time. */
const settle = async () => {
  for (let i = 0; i < 30; i += 1) await turn();
};

/** What a client sees of the world. Time passes only when `pass` says so. */
class World {
  now = 0;
  timers = new Map();
  sockets = [];
  requests = [];
  lastTimer = 0;

  constructor() {
    const world = this;
    this.WebSocket = class {
      sent = [];
      closed = false;
      constructor(url) {
        this.url = new URL(url);
        world.sockets.push(this);
      }
      send(text) {
        this.sent.push(JSON.parse(text));
      }
      close() {
        this.closed = true;
      }
      // From here on: what the server does.
      say(...frames) {
        for (const frame of frames) this.onmessage?.({ data: JSON.stringify(frame) });
      }
      greet(more = {}) {
        this.say({ type: "connected", user: "alice", replica: "replica-1", cursor: "", ping: 25, ...more });
      }
      end(code, reason = "") {
        this.onclose?.({ code, reason });
      }
      asked(type) {
        return this.sent.filter((frame) => frame.type === type);
      }
      /** Answers the last `subscribe` to the channel. */
      subscribe(channel, position, recovered = false) {
        const { id } = this.asked("subscribe").findLast((frame) => frame.channel === channel);
        this.say({ type: "subscribed", channel, cursor: cursor(channel, position), recovered, id });
      }
    };
    this.host = new EventTarget();
  }

  client(options = {}) {
    const client = new Heliograph({
      url: "ws://server/ws",
      user: "alice",
      WebSocket: this.WebSocket,
      fetch: (url, request) =>
        new Promise((resolve, reject) => {
          const exchange = { url: new URL(url), headers: request.headers, aborted: false, resolve, reject };
          request.signal?.addEventListener("abort", () => {
            exchange.aborted = true;
            reject(request.signal.reason);
            exchange.stream?.error(request.signal.reason);
          });
          this.requests.push(exchange);
        }),
      setTimeout: (callback, ms) => {
        this.lastTimer += 1;
        this.timers.set(this.lastTimer, { callback, at: this.now + ms });
        return this.lastTimer;
      },
      clearTimeout: (timer) => this.timers.delete(timer),
      random: () => 0.5,
      now: () => this.now,
      host: this.host,
      ...options,
    });
    this.states = [];
    client.on("state", ({ state, transport }) => this.states.push(transport ? `${state} ${transport}` : state));
    return client;
  }

  /** Lets time pass; what falls due happens in its order. */
  async pass(ms) {
    const end = this.now + ms;
    for (;;) {
      await settle();
      const [due] = [...this.timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at);
      if (!due) break;
      this.timers.delete(due[0]);
      this.now = Math.max(this.now, due[1].at);
      due[1].callback();
    }
    this.now = end;
  }

  get socket() {
    return this.sockets.at(-1);
  }

  get request() {
    return this.requests.at(-1);
  }

  /** Opens the event stream that was asked for last; returns how to write to it. */
  stream() {
    let controller;
    const body = new ReadableStream({ start: (it) => (controller = it) });
    this.request.stream = controller;
    this.request.resolve(new Response(body, { headers: { "content-type": "text/event-stream; charset=utf-8" } }));
    const bytes = new TextEncoder();
    return {
      raw: (text) => controller.enqueue(typeof text === "string" ? bytes.encode(text) : text),
      say(...frames) {
        for (const frame of frames) this.raw(`id: x\ndata: ${JSON.stringify(frame)}\n\n`);
      },
      greet() {
        this.raw("retry: 1000\n\n");
        this.say({ type: "connected", user: "alice", session: "s", replica: "replica-2", cursor: "", ping: 25 });
      },
      end: () => controller.close(),
    };
  }

  answer(body, status = 200) {
    this.request.resolve(new Response(JSON.stringify(body), { status }));
  }
}

const cursor = (channel, [epoch, offset]) => `${encodeURIComponent(channel)}=${epoch}.${offset}`;
const message = (channel, position, data) => ({
  type: "message",
  channel,
  data,
  message_id: `${channel}${position ?? data}`,
  sent_at: "2026-01-01T00:00:00Z",
  ...(position && { cursor: cursor(channel, position) }),
});

async function connected(world, options) {
  const client = world.client(options);
  client.connect();
  await settle();
  world.socket.greet();
  await settle();
  return client;
}

export async function subscriptions_go_on_from_the_newest_cursor_on_another_connection() {
  const world = new World();
  const client = await connected(world);
  const heard = [];
  client.subscribe("뉴스", ({ data }) => heard.push(data));
  client.on("message", ({ data }) => heard.push(data));
  await settle();
  world.socket.subscribe("뉴스", ["e", 4]);
  world.socket.say(message("뉴스", ["e", 5], "five"), message("#alice", ["u", 1], "mine"));
  world.socket.say(message("뉴스", ["e", 6], "six"));
  world.socket.end(1006);
  await world.pass(300);
  equal(world.socket.url.searchParams.get("cursor"), cursor("#alice", ["u", 1]), "the own cursor");
  world.socket.greet();
  await settle();
  equal(world.socket.asked("subscribe").map((frame) => frame.cursor), [cursor("뉴스", ["e", 6])]);
  world.socket.subscribe("뉴스", ["e", 6], true);
  world.socket.say(message("뉴스", ["e", 6], "six again"), message("뉴스", ["e", 7], "seven"));
  equal(heard, ["five", "mine", "six", "seven"]);
}

export async function a_successor_is_opened_before_the_old_connection_is_left() {
  const world = new World();
  const client = await connected(world);
  const heard = [];
  client.subscribe("news", ({ data }) => heard.push(data));
  await settle();
  const [old] = world.sockets;
  old.subscribe("news", ["e", 0]);
  old.say({ type: "reconnect", in_ms: 500, cursor: "" });
  await world.pass(499);
  equal(world.sockets.length, 1, "too early");
  await world.pass(1);
  const [, next] = world.sockets;
  old.say(message("news", ["e", 1], 1));
  next.greet({ replica: "replica-2" });
  await settle();
  old.say(message("news", ["e", 2], 2), message("news", null, "ephemeral"));
  next.subscribe("news", ["e", 1], true);
  next.say(message("news", ["e", 2], 2), message("news", null, "ephemeral"), message("news", ["e", 3], 3));
  old.say(message("news", ["e", 3], 3));
  equal(old.closed, false, "left at once");
  await world.pass(1_000);
  equal(old.closed, true, "kept");
  equal(heard, [1, 2, "ephemeral", 3]);
  equal(world.states, ["connecting", "connected websocket", "connected websocket"]);
}

export async function the_old_connection_is_kept_until_the_new_one_has_every_channel() {
  const world = new World();
  const client = await connected(world);
  client.subscribe("news");
  await settle();
  world.socket.subscribe("news", ["e", 0]);
  world.socket.say({ type: "reconnect", in_ms: 0, cursor: "" });
  await world.pass(0);
  world.socket.greet();
  await world.pass(5_000);
  equal(world.sockets[0].closed, false, "left too early");
  world.socket.subscribe("news", ["e", 0], true);
  await world.pass(1_000);
  equal(world.sockets[0].closed, true, "kept");
}

export async function a_loss_is_said_aloud_and_only_then() {
  const world = new World();
  const client = await connected(world);
  const told = [];
  const news = client.subscribe("news");
  news.on("subscribed", ({ recovered, lost }) => told.push([recovered, lost]));
  news.on("lost", ({ channel }) => told.push(`lost on ${channel}`));
  await settle();
  world.socket.subscribe("news", ["e", 7]);
  await news.ready;
  world.socket.say(message("news", ["e", 8], 8));
  world.socket.say({ type: "subscribed", channel: "news", cursor: cursor("news", ["e", 8]), recovered: false });
  world.socket.say({ type: "subscribed", channel: "news", cursor: cursor("news", ["f", 0]), recovered: false });
  world.socket.say({ type: "subscribed", channel: "news", cursor: cursor("news", ["f", 30]), recovered: false });
  const lost = "lost on news";
  equal(told, [[false, false], [false, false], [false, true], lost, [false, true], lost]);
}

export async function a_hole_is_said_aloud_where_the_server_says_nothing_of_it() {
  const world = new World();
  const client = await connected(world);
  const told = [];
  client.on("lost", ({ channel }) => told.push(`lost on ${channel}`));
  client.on("message", ({ data }) => told.push(data));
  const news = client.subscribe("news", ({ data }) => told.push(data));
  news.on("lost", ({ channel }) => told.push(`lost on ${channel}`));
  await settle();
  world.socket.subscribe("news", ["e", 0]);
  world.socket.say(message("news", ["e", 1], "n1"), message("news", ["e", 3], "n3"), message("news", ["f", 4], "f4"));
  world.socket.say(message("#alice", ["u", 1], "u1"), message("#alice", ["u", 6], "u6"), message("#alice", ["u", 7], "u7"));
  const [n, u] = ["lost on news", "lost on #alice"];
  equal(told, ["n1", n, "n3", n, "f4", "u1", u, "u6", "u7"]);
}

export async function a_resume_that_fails_keeps_its_place() {
  const world = new World();
  const client = await connected(world);
  const told = [];
  client.on("lost", () => told.push("lost"));
  client.subscribe("news").on("lost", () => told.push("lost"));
  await settle();
  world.socket.subscribe("news", ["e", 5]);
  world.socket.say(message("#alice", ["u", 1], 1));
  world.socket.end(1006);
  await world.pass(300);
  world.socket.greet({ cursor: cursor("#alice", ["u", 1]) });
  await settle();
  const [{ id }] = world.socket.asked("subscribe");
  world.socket.say({ type: "error", code: "unavailable", message: "Redis is away", id });
  world.socket.say({ type: "error", code: "unavailable", message: "your own channel: Redis is away" });
  await world.pass(2_000);
  equal(world.socket.asked("subscribe").map((frame) => frame.cursor), Array(2).fill(cursor("news", ["e", 5])));
  world.socket.end(1006);
  await world.pass(1_000);
  equal(world.socket.url.searchParams.get("cursor"), cursor("#alice", ["u", 1]));
  equal(told, []);
  world.socket.greet({ cursor: cursor("#alice", ["u", 1]) });
  world.socket.say({ type: "subscribed", channel: "#alice", cursor: cursor("#alice", ["v", 6]), recovered: false });
  equal(told, ["lost"], "what could not be recovered");
}

export async function a_connection_that_never_knew_its_place_says_so_when_it_is_replaced() {
  const world = new World();
  const client = world.client();
  const told = [];
  client.on("lost", ({ channel }) => told.push(channel));
  client.connect();
  await settle();
  world.socket.greet({ cursor: "" });
  world.socket.end(1006);
  await world.pass(300);
  world.socket.greet({ cursor: cursor("#alice", ["u", 4]) });
  equal(told, ["#alice"]);
}

/** A tab's storage. */
class Tab extends Map {
  getItem(key) {
    return this.get(key) ?? null;
  }
  setItem(key, text) {
    this.set(key, text);
  }
}

export async function a_page_goes_on_where_the_last_one_of_its_tab_was() {
  const tab = new Tab();
  const first = new World();
  let client = await connected(first, { resume: true, storage: tab });
  client.subscribe("news");
  client.subscribe("logs:1", null, { resume: false });
  await settle();
  first.socket.subscribe("news", ["e", 3]);
  first.socket.subscribe("logs:1", ["l", 3]);
  first.socket.say(message("#alice", ["u", 1], 1), message("news", ["e", 4], 4));
  first.host.dispatchEvent(new Event("pagehide"));

  const between = new World(); // a page that is left before it is connected, and listens to nothing
  between.client({ resume: true, storage: tab }).connect();
  await settle();
  between.host.dispatchEvent(new Event("pagehide"));

  const next = new World();
  client = next.client({ resume: true, storage: tab });
  const told = [];
  client.on("lost", () => told.push("own lost"));
  const news = client.subscribe("news");
  news.on("subscribed", ({ anew, lost }) => told.push([anew, lost]));
  client.subscribe("logs:1", null, { resume: false });
  client.connect();
  await settle();
  equal(next.socket.url.searchParams.get("cursor"), cursor("#alice", ["u", 1]));
  next.socket.greet();
  await settle();
  equal(next.socket.asked("subscribe").map((frame) => frame.cursor), [cursor("news", ["e", 4]), undefined]);
  next.socket.subscribe("news", ["e", 4], true);
  next.socket.say({ type: "subscribed", channel: "#alice", cursor: cursor("#alice", ["v", 0]), recovered: false });
  equal(told, [[false, false], "own lost"]);

  // Written after a while too, for a page that crashes; and what was left begins anew.
  next.socket.say(message("news", ["e", 5], 5));
  await next.pass(1_000);
  equal(tab.get("heliograph.places.").includes('["news","e",5]'), true);
  news.unsubscribe();
  await settle();
  client.subscribe("news");
  await settle();
  equal(next.socket.asked("subscribe").at(-1).cursor, undefined);
}

export async function another_users_places_are_not_taken_and_storage_may_be_forbidden() {
  const tab = new Tab();
  const world = new World();
  const client = await connected(world, { resume: "chat", storage: tab });
  client.subscribe("news");
  await settle();
  world.socket.subscribe("news", ["e", 3]);
  world.socket.say(message("#alice", ["u", 1], 1));
  client.connect({ user: "bob" });
  await settle();
  equal(world.socket.url.search, "?user=bob");
  client.connect({ token: "of carol" });
  await settle();
  world.socket.onopen();
  equal(world.socket.sent, [{ type: "connect", token: "of carol" }]);
  world.socket.greet({ user: "carol" });
  await settle();
  equal(world.socket.asked("subscribe").map((frame) => frame.cursor), [undefined]);

  const forbidden = { getItem: () => JSON.parse("{"), setItem: () => JSON.parse("{") };
  const other = await connected(new World(), { resume: true, storage: forbidden });
  other.close();
}

export async function a_token_of_somebody_else_begins_anew() {
  const world = new World();
  const client = world.client({ user: undefined, getToken: () => "t" });
  const heard = [];
  client.on("message", ({ data }) => heard.push(data));
  client.on("lost", () => heard.push("lost"));
  client.subscribe("news");
  client.connect();
  await settle();
  world.socket.greet();
  await settle();
  world.socket.subscribe("news", ["e", 3]);
  world.socket.say(message("#alice", ["u", 1], "for alice"));
  world.socket.end(1006);
  await world.pass(300);
  world.socket.greet({ user: "bob", cursor: cursor("#bob", ["b", 0]) });
  await settle();
  equal(world.socket.asked("subscribe").map((frame) => frame.cursor), [undefined]);
  world.socket.say(message("#bob", ["b", 1], "for bob"));
  equal(heard, ["for alice", "for bob"]);
}

export async function a_first_visit_may_begin_with_what_is_kept() {
  const world = new World();
  const client = world.client({ replay: true });
  const heard = [];
  client.on("message", ({ data }) => heard.push(data));
  client.on("lost", () => heard.push("lost"));
  client.subscribe("news", ({ data }) => heard.push(data), { replay: true }).on("lost", () => heard.push("lost"));
  client.connect();
  await settle();
  equal(world.socket.url.search, "?user=alice&replay=true");
  world.socket.greet();
  world.socket.say({ type: "subscribed", channel: "#alice", cursor: cursor("#alice", ["u", 2]), recovered: false });
  world.socket.say(message("#alice", ["u", 3], "kept"));
  await settle();
  equal(world.socket.asked("subscribe").map((frame) => frame.cursor), ["news=0.0"]);
  world.socket.subscribe("news", ["e", 7]);
  world.socket.say(message("news", ["e", 8], "kept too"));
  equal(heard, ["kept", "kept too"]);
  world.socket.end(1006);
  await world.pass(300);
  equal(world.socket.url.searchParams.has("replay"), false, "only at first");

  const byToken = new World();
  byToken.client({ user: undefined, token: "t", replay: true }).connect();
  await settle();
  byToken.socket.onopen();
  equal(byToken.socket.sent, [{ type: "connect", token: "t", replay: true }]);

  const byStream = new World();
  const stream = byStream.client({ replay: true, transports: ["sse"] });
  stream.subscribe("news", null, { replay: true });
  stream.connect();
  await settle();
  equal(byStream.request.url.search, "?user=alice&channels=news&cursor=news%3D0.0&replay=true");
}

const keysOf = (frames) => frames.map(({ idempotency_key }) => idempotency_key);

export async function what_is_kept_is_said_again_with_its_key_when_a_connection_breaks() {
  const world = new World();
  const client = await connected(world);
  const sent = client.send("bob", 1);
  const flash = client.send("bob", 2, { ephemeral: true }).catch((error) => error.code);
  const emitted = client.emit("order", 3).catch((error) => error.code);
  const asked = client.presence("news");
  await settle();
  const first = world.socket;
  first.end(1006);
  equal([await flash, await emitted], ["closed", "closed"]);
  await world.pass(300);
  world.socket.greet({ replica: "replica-2" });
  await settle();
  equal(world.socket.sent.map(({ type }) => type), ["send", "presence"]);
  const [[key], [again]] = [keysOf(first.asked("send")), keysOf(world.socket.asked("send"))];
  equal([key === again, key.length > 20, "idempotency_key" in first.asked("send")[1]], [true, true, false]);
  for (const { type, id } of world.socket.sent) {
    world.socket.say(type === "send" ? { type: "ack", message_id: "m", delivery: "remote", id } : { type, users: {}, id });
  }
  equal([(await sent).message_id, (await sent).sentOn, (await asked).users], ["m", "replica-2", {}]);

  const other = client.publish("news", 4, { idempotencyKey: "mine" });
  await settle();
  equal(keysOf(world.socket.asked("publish")), ["mine"]);
  client.close();
  equal(await other.catch((error) => error.code), "closed");
}

export async function what_is_unavailable_is_said_again_in_its_order_until_its_time_is_over() {
  const world = new World();
  const client = await connected(world);
  const results = [];
  const say = (data, options) =>
    client.publish("news", data, options).then(({ message_id }) => results.push(message_id), ({ code }) => results.push(code));
  for (const data of [1, 2, 3]) say(data);
  await settle();
  const refuse = ({ id }) => world.socket.say({ type: "error", code: "unavailable", message: "Redis is away", id });
  for (const frame of world.socket.asked("publish")) refuse(frame);
  say(4); // waits behind the others
  await settle();
  equal(world.socket.asked("publish").length, 3);
  await world.pass(500);
  const again = world.socket.asked("publish").slice(3);
  equal(again.map(({ data }) => data), [1, 2, 3, 4]);
  equal(keysOf(again).slice(0, 3), keysOf(world.socket.asked("publish").slice(0, 3)));
  for (const { data, id } of again) world.socket.say({ type: "ack", message_id: `m${data}`, id });
  await settle();
  equal(results, ["m1", "m2", "m3", "m4"]);

  world.socket.say({ type: "pong" });
  say(5, { timeout: 2_000 });
  await settle();
  refuse(world.socket.asked("publish").at(-1));
  await world.pass(500);
  refuse(world.socket.asked("publish").at(-1));
  await world.pass(2_000);
  equal(results.at(-1), "unavailable");
  say(6, {});
  await settle();
  world.socket.say({ type: "error", code: "not_allowed", message: "no", id: world.socket.asked("publish").at(-1).id });
  await settle();
  equal(results.at(-1), "not_allowed", "what is refused for good");
}

export async function an_answer_that_does_not_come_is_asked_for_again_and_given_up_in_the_end() {
  const world = new World();
  const client = world.client();
  client.connect();
  await settle();
  world.socket.greet({ ping: 0 });
  const sent = client.send("bob", 1).catch((error) => error);
  await world.pass(12_000);
  const frames = world.socket.asked("send");
  equal([frames.length, new Set(keysOf(frames)).size, new Set(frames.map(({ id }) => id)).size], [3, 1, 1]);
  await world.pass(18_000);
  const { code, message: words } = await sent;
  equal([code, words.includes("may have arrived")], ["timeout", true]);
  const before = world.socket.sent.length;
  await world.pass(60_000);
  equal(world.socket.sent.length, before, "it goes on");
}

export async function a_connection_in_doubt_is_replaced_before_it_is_dead() {
  const world = new World();
  const client = await connected(world);
  const heard = [];
  client.on("message", ({ data }) => heard.push(data));
  const frozen = world.socket;
  await world.pass(6_250);
  equal(frozen.asked("ping").length, 1);
  await world.pass(1_900);
  equal(world.sockets.length, 1, "too early");
  await world.pass(100);
  equal(world.sockets.length, 2, "no other is opened");
  frozen.say(message("#alice", ["u", 1], "still heard"));
  world.socket.greet({ replica: "replica-2" });
  await settle();
  equal([client.state.replica, heard], ["replica-2", ["still heard"]]);
  await world.pass(1_000);
  equal(frozen.closed, true);
  equal(world.states, ["connecting", "connected websocket", "connected websocket"]);
}

export async function a_connection_without_a_sign_of_life_is_given_up() {
  const world = new World();
  const client = await connected(world);
  await world.pass(12_300);
  equal([client.state.state, client.state.reason, world.sockets[0].closed], ["reconnecting", "no pong", true]);

  const alive = new World();
  const other = await connected(alive);
  for (let i = 0; i < 20; i += 1) {
    await alive.pass(6_250);
    alive.socket.say({ type: "pong" });
  }
  equal([other.state.state, alive.sockets.length], ["connected", 1]);
}

export async function a_token_that_is_not_taken_is_replaced_once() {
  const world = new World();
  let asked = 0;
  const getToken = () => `token ${(asked += 1)}`;
  const client = world.client({ user: undefined, getToken });
  client.connect();
  await settle();
  world.socket.end(3500, "the token has expired");
  equal([client.state.state, client.state.code], ["reconnecting", 3005]);
  await world.pass(1_000);
  world.socket.onopen();
  equal(world.socket.sent.at(-1).token, "token 2");
  world.socket.greet();
  await settle();
  world.socket.end(3500, "the token is not valid");
  await world.pass(1_000);
  world.socket.end(3500, "the token is not valid");
  equal([client.state.state, client.state.code, asked], ["closed", 3500, 3]);

  const fixed = world.client({ user: undefined, token: "t" });
  fixed.connect();
  await settle();
  world.socket.end(3500, "the token is not valid");
  equal(fixed.state.state, "closed", "there is no other");
}

export async function a_page_that_is_slow_with_its_token_is_waited_for_and_one_that_hangs_is_asked_again() {
  const world = new World();
  const answers = [];
  const getToken = () => new Promise((resolve) => answers.push(resolve));
  const client = world.client({ user: undefined, getToken });
  client.connect();
  await world.pass(8_000);
  answers[0]("slow");
  await settle();
  equal([client.state.state, world.sockets.length, world.requests.length], ["connecting", 1, 0]);
  world.socket.greet({ ping: 0 });
  world.socket.end(1006);
  await world.pass(10_500);
  equal([client.state.state, client.state.reason], ["reconnecting", "getToken gave nothing within 10 s"]);
  await world.pass(1_000);
  equal([answers.length, world.requests.length], [3, 0]);
}

export async function a_socket_that_the_page_may_not_open_is_a_failure_like_any_other() {
  const world = new World();
  const client = world.client({
    WebSocket: class {
      constructor() {
        throw new DOMException("An insecure WebSocket connection may not be initiated", "SecurityError");
      }
    },
  });
  client.connect();
  await settle();
  equal(world.request.url.pathname, "/sse");
}

export async function every_subscription_is_told_that_it_is_there_or_that_it_is_not() {
  const world = new World();
  const client = await connected(world);
  const first = client.subscribe("news");
  await settle();
  world.socket.subscribe("news", ["e", 0]);
  await first.ready;
  const second = client.subscribe("news");
  const begun = [];
  second.on("subscribed", (how) => begun.push(how));
  await second.ready;
  equal(begun, [{ channel: "news", recovered: true, lost: false, anew: false }]);

  const early = client.subscribe("other");
  early.unsubscribe();
  equal(await early.ready.catch((error) => error.code), "closed");

  world.socket.say({ type: "unsubscribed", channel: "news" });
  const again = client.subscribe("news");
  await settle();
  equal(world.socket.asked("subscribe").map(({ channel }) => channel), ["news", "news"], "asked for again");
  world.socket.subscribe("news", ["e", 2]);
  await again.ready;
}

export async function a_run_that_is_left_and_taken_up_in_one_turn_is_still_known() {
  const world = new World();
  const client = await connected(world);
  const run = client.subscribe("run:1");
  await settle();
  world.socket.subscribe("run:1", ["e", 1]);
  world.socket.say({ type: "initial_state", state: "RUNNING", progress: 7, logs: ["a"] });
  run.unsubscribe();
  const heard = [];
  client.subscribe("run:1", ({ type, progress }) => heard.push([type, progress]));
  await settle();
  world.socket.say({ type: "progress", run_id: "1", state: "RUNNING", progress: 8, message: null });
  equal(heard, [["initial_state", 7], ["progress", 8]]);
  equal(world.socket.sent.length, 1);
}

export async function a_first_poll_that_brings_messages_is_heard_in_full() {
  const world = new World();
  const client = world.client({ transports: ["poll"] });
  const heard = [];
  client.on("message", ({ data }) => heard.push(data));
  client.subscribe("a,b", ({ data }) => heard.push(data));
  client.subscribe("c");
  client.connect();
  await settle();
  equal([...world.request.url.searchParams], [["user", "alice"], ["channels", "c"], ["channel", "a,b"], ["wait", "0"]]);
  const at = (own) => `${cursor("#alice", ["u", own])}&${cursor("a,b", ["e", 1])}`;
  world.answer({
    user: "alice",
    replica: "replica-1",
    cursor: at(2),
    events: [
      message("#alice", ["u", 1], 1),
      message("#alice", ["u", 2], 2),
      { type: "subscribed", channel: "a,b", cursor: cursor("a,b", ["e", 0]), recovered: false },
      message("a,b", ["e", 1], "a,b"),
    ],
  });
  await settle();
  world.answer({ user: "alice", replica: "replica-1", cursor: at(3), events: [message("#alice", ["u", 3], 3)] });
  await settle();
  equal(heard, [1, 2, "a,b", 3]);
}

export async function a_question_about_a_run_has_an_end() {
  const world = new World();
  const client = world.client();
  const asked = client.getRun("1").catch((error) => error.code);
  await settle();
  await world.pass(10_000);
  equal([await asked, world.request.aborted], ["timeout", true]);
  const failed = client.getRun("1").catch((error) => [error.name, error.code]);
  await settle();
  world.request.reject(new TypeError("Failed to fetch"));
  equal(await failed, ["HeliographError", "http"]);
}

export async function a_replay_is_heard_in_full_after_leaving_and_coming_back() {
  const world = new World();
  const client = await connected(world);
  const heard = [];
  const first = client.subscribe("logs:1");
  await settle();
  world.socket.subscribe("logs:1", ["e", 0]);
  world.socket.say(message("logs:1", ["e", 1], 1));
  first.unsubscribe();
  await settle();
  client.subscribe("logs:1", ({ data }) => heard.push(data));
  await settle();
  equal(world.socket.sent.map(({ type }) => type), ["subscribe", "unsubscribe", "subscribe"]);
  equal(world.socket.sent[2].cursor, undefined, "what was left is forgotten");
  world.socket.say(message("logs:1", ["e", 2], "sent before the server knew"));
  world.socket.subscribe("logs:1", ["e", 0]);
  world.socket.say(message("logs:1", ["e", 1], 1), message("logs:1", ["e", 2], 2));
  equal(heard, [1, 2]);
}

export async function coming_and_going_in_one_turn_costs_nothing() {
  const world = new World();
  const client = await connected(world);
  client.subscribe("news").unsubscribe(); // as React's strict mode has it
  client.subscribe("news");
  const second = client.subscribe("news");
  await settle();
  second.unsubscribe();
  await settle();
  equal(world.socket.sent.map(({ type }) => type), ["subscribe"]);
}

export async function a_refusal_reaches_its_subscription_and_is_asked_again_only_where_that_may_help() {
  const world = new World();
  const client = await connected(world);
  const errors = [];
  client.on("error", (error) => errors.push(error.code));
  const [secret, news] = [client.subscribe("secret"), client.subscribe("news")];
  secret.on("error", (error) => errors.push(`secret ${error.code}`));
  news.on("error", (error) => errors.push(`news ${error.code}`));
  await settle();
  const [first, second] = world.socket.asked("subscribe");
  world.socket.say({ type: "error", code: "not_allowed", message: "no", id: first.id });
  world.socket.say({ type: "error", code: "unavailable", message: "not now", id: second.id });
  equal(await secret.ready.catch((error) => error.code), "not_allowed");
  await world.pass(3_000);
  equal(world.socket.asked("subscribe").map(({ channel }) => channel), ["secret", "news", "news"]);
  equal(errors, ["secret not_allowed"]);
}

export async function a_channel_that_the_token_has_subscribed_to_comes_from_the_clients_position() {
  const world = new World();
  const client = await connected(world);
  const heard = [];
  const news = client.subscribe("news", ({ data }) => heard.push(data));
  news.on("error", ({ code }) => heard.push(code));
  await settle();
  world.socket.subscribe("news", ["e", 3]);
  world.socket.end(1006);
  await world.pass(300);
  world.socket.greet();
  await settle();
  const [first] = world.socket.asked("subscribe");
  world.socket.say({ type: "subscribed", channel: "news", cursor: cursor("news", ["e", 4]), recovered: false });
  world.socket.say(message("news", ["e", 5], "too early"));
  world.socket.say({ type: "error", code: "bad_request", message: "subscribed to 'news' already", id: first.id });
  const [left] = world.socket.asked("unsubscribe");
  world.socket.say({ type: "unsubscribed", channel: "news", id: left.id });
  equal(world.socket.asked("subscribe").map((frame) => frame.cursor), Array(2).fill(cursor("news", ["e", 3])));
  world.socket.subscribe("news", ["e", 3], true);
  world.socket.say(message("news", ["e", 4], "four"), message("news", ["e", 5], "five"));
  equal(heard, ["four", "five"]);
}

export async function runs_are_told_apart_and_an_old_connection_does_not_set_them_back() {
  const world = new World();
  const client = await connected(world);
  const heard = [];
  const hear = (run) => ({ type, progress, message: text }) => heard.push([run, type, progress, text]);
  client.subscribe("run:1", hear(1));
  client.subscribe("run:2", hear(2));
  await settle();
  const old = world.socket;
  const state = (progress) => ({ type: "initial_state", state: "RUNNING", progress, logs: [] });
  const update = (run_id, progress) => ({ type: "progress", run_id, state: "RUNNING", progress, message: null });
  old.subscribe("run:2", ["e", 1], true);
  old.say(state(20));
  old.subscribe("run:1", ["e", 1], true);
  old.say(state(10), update("1", 11), update("2", 21));
  old.say({ type: "reconnect", in_ms: 0, cursor: "" });
  await world.pass(0);
  world.socket.greet();
  await settle();
  equal(world.socket.asked("subscribe").map((frame) => frame.cursor), [undefined, undefined]);
  world.socket.subscribe("run:1", ["e", 3], true);
  world.socket.say(state(15));
  old.say(update("1", 12), update("2", 22));
  equal(heard, [
    [2, "initial_state", 20, undefined],
    [1, "initial_state", 10, undefined],
    [1, "progress", 11, null],
    [2, "progress", 21, null],
    [1, "initial_state", 15, undefined],
    [2, "progress", 22, null],
  ]);
  const late = [];
  client.subscribe("run:1", (event) => late.push([event.type, event.progress]));
  await settle();
  equal(late, [["initial_state", 15]]);
}

export async function it_falls_back_to_what_works_and_upgrades_again() {
  const world = new World();
  const client = world.client();
  const heard = [];
  client.subscribe("news", ({ data }) => heard.push(data));
  client.connect();
  await settle();
  world.socket.end(1006);
  await settle();
  equal([world.request.url.pathname, world.request.url.search], ["/sse", "?user=alice&channels=news"]);
  world.request.resolve(new Response("<h1>blocked</h1>", { status: 403 }));
  await settle();
  equal([world.request.url.pathname, world.request.url.search], ["/api/poll", "?user=alice&channels=news&wait=0"]);
  const at = (offset) => cursor("news", ["e", offset]);
  world.answer({
    user: "alice",
    replica: "replica-3",
    cursor: at(1),
    events: [
      { type: "subscribed", channel: "news", cursor: at(0), recovered: false },
      message("news", ["e", 1], 1),
    ],
  });
  await settle();
  equal(client.state, { state: "connected", user: "alice", replica: "replica-3", transport: "poll" });
  equal(world.request.url.search, `?user=alice&channels=news&cursor=${encodeURIComponent(at(1))}&wait=25`);

  // Up: the socket is tried first, and while it is, polling goes on.
  await world.pass(5_000);
  equal(world.sockets.length, 2);
  world.answer({ user: "alice", replica: "replica-3", cursor: at(2), events: [message("news", ["e", 2], 2)] });
  await settle();
  world.socket.greet();
  await settle();
  equal(world.socket.asked("subscribe").map((frame) => frame.cursor), [at(2)]);
  world.socket.subscribe("news", ["e", 2], true);
  world.socket.say(message("news", ["e", 3], 3));
  await world.pass(1_000);
  equal(world.request.aborted, true, "polling goes on");
  equal(heard, [1, 2, 3]);
  equal(world.states, ["connecting", "connected poll", "connected websocket"]);
}

export async function a_socket_that_has_worked_is_given_three_chances() {
  const world = new World();
  const client = await connected(world);
  world.socket.end(1006);
  for (let attempt = 1; attempt <= 3; attempt += 1) {
    await world.pass(3_000);
    equal([world.sockets.length, world.requests.length], [attempt + 1, 0]);
    world.socket.end(1006);
    await settle();
  }
  equal(world.request.url.pathname, "/sse");
  world.stream().greet();
  await settle();
  equal(client.state.transport, "sse");
}

export async function when_nothing_works_it_begins_again_after_a_while() {
  const world = new World();
  const client = world.client();
  client.connect();
  await settle();
  world.socket.end(1006);
  await settle();
  for (const path of ["/sse", "/api/poll"]) {
    equal(world.request.url.pathname, path);
    world.request.reject(new TypeError("Failed to fetch"));
    await settle();
  }
  equal([client.state.state, client.state.retryInMs], ["reconnecting", 150]);
  equal(world.sockets.length, 1);
  await world.pass(150);
  equal(world.sockets.length, 2);
}

export async function what_the_server_refuses_for_good_is_not_tried_by_other_means() {
  const world = new World();
  const client = world.client({ transports: ["sse", "poll"] });
  client.connect();
  await settle();
  world.answer({ error: { code: "invalid_token", message: "the token is not valid" } }, 401);
  await settle();
  equal(client.state, { state: "closed", code: 3500, reason: "the token is not valid" });
  equal(world.requests.length, 1);
}

export async function events_are_read_however_the_stream_is_cut() {
  const world = new World();
  const client = world.client({ transports: ["sse"] });
  const heard = [];
  client.on("message", ({ data }) => heard.push(data));
  client.connect();
  await settle();
  const stream = world.stream();
  stream.greet();
  const data = JSON.stringify(message("#alice", ["e", 1], "우주 🚀"));
  const bytes = new TextEncoder().encode(`:\r\n\r\nid: x\r\ndata: ${data}\r\n\r\n`);
  for (const byte of bytes) {
    stream.raw(Uint8Array.of(byte));
    await turn();
  }
  stream.raw(`data: {"type":"message","channel":"#alice",\ndata: "data":2,"message_id":"2","sent_at":""}\n\n`);
  await settle();
  equal(heard, ["우주 🚀", 2]);
  stream.say({ type: "disconnect", code: 3001, reason: "this replica is shutting down" });
  await settle();
  equal([client.state.state, client.state.code], ["reconnecting", 3001]);
  await world.pass(1_000);
  equal(world.request.url.searchParams.get("cursor"), cursor("#alice", ["e", 1]));
  const next = world.stream();
  next.greet();
  next.say({ type: "disconnect", code: 3503, reason: "disconnected by an operator" });
  await settle();
  equal([client.state.state, client.state.code], ["closed", 3503]);
}

export async function a_silent_stream_is_given_up() {
  const world = new World();
  const client = world.client({ transports: ["sse"] });
  client.connect();
  await settle();
  const stream = world.stream();
  stream.greet();
  await world.pass(29_000);
  stream.raw(":\n\n");
  await world.pass(29_000);
  equal(client.state.state, "connected");
  await world.pass(2_000);
  equal([client.state.reason, world.requests[0].aborted], ["no sign of life", true]);
}

export async function other_channels_over_a_stream_mean_another_stream_and_nothing_is_lost_between() {
  const world = new World();
  const client = world.client({ transports: ["sse"] });
  const heard = [];
  client.subscribe("a", ({ data }) => heard.push(data));
  client.connect();
  await settle();
  const first = world.stream();
  first.greet();
  first.say({ type: "subscribed", channel: "a", cursor: cursor("a", ["e", 0]), recovered: false });
  first.say(message("a", ["e", 1], "a1"));
  await settle();
  client.subscribe("b", ({ data }) => heard.push(data));
  client.subscribe("c");
  await settle();
  equal(world.requests.length, 2);
  equal(world.request.url.searchParams.get("channels"), "a,b,c");
  equal(world.request.url.searchParams.get("cursor"), cursor("a", ["e", 1]));
  first.say(message("a", ["e", 2], "a2"));
  const second = world.stream();
  second.greet();
  second.say({ type: "subscribed", channel: "a", cursor: cursor("a", ["e", 1]), recovered: true });
  second.say(message("a", ["e", 2], "a2"), message("a", ["e", 3], "a3"));
  second.say({ type: "subscribed", channel: "b", cursor: cursor("b", ["e", 0]), recovered: false });
  second.say(message("b", ["e", 1], "b1"));
  await world.pass(1_000);
  equal(heard, ["a1", "a2", "a3", "b1"]);
  equal([world.requests[0].aborted, world.requests[1].aborted], [true, false]);
}

export async function over_http_a_channel_that_is_refused_costs_the_others_nothing() {
  const world = new World();
  const client = world.client({ transports: ["sse"] });
  const errors = [];
  client.subscribe("secret").on("error", ({ code }) => errors.push(`secret ${code}`));
  client.subscribe("news").on("error", ({ code }) => errors.push(`news ${code}`));
  client.connect();
  await settle();
  world.answer({ error: { code: "not_allowed", message: "'secret' is not yours to subscribe to" } }, 403);
  await settle();
  equal(world.request.url.searchParams.get("channels"), "news");
  world.stream().greet();
  await settle();
  equal([client.state.transport, errors, world.requests.length], ["sse", ["secret not_allowed"], 2]);
}

export async function what_runs_out_during_a_poll_is_renewed() {
  const world = new World();
  const client = world.client({ user: undefined, getToken: () => "t", transports: ["poll"] });
  client.connect();
  await settle();
  world.answer({ user: "alice", replica: "replica-1", cursor: "", events: [] });
  await settle();
  world.answer({ error: { code: "invalid_token", message: "the token has expired" } }, 401);
  await settle();
  equal([client.state.state, client.state.code], ["reconnecting", 3005]);
  await world.pass(1_000);
  world.answer({ error: { code: "invalid_token", message: "the token is not valid" } }, 401);
  await settle();
  equal([client.state.state, client.state.code], ["reconnecting", 3005], "the page is asked for another");
  await world.pass(1_000);
  world.answer({ error: { code: "invalid_token", message: "the token is not valid" } }, 401);
  await settle();
  equal([client.state.state, client.state.code], ["closed", 3500], "it cannot be good for ever");
}

export async function sending_without_a_socket_tries_to_get_one_and_says_if_there_is_none() {
  const world = new World();
  const client = world.client();
  client.connect();
  await settle();
  world.socket.end(1006);
  await settle();
  world.stream().greet();
  await settle();
  const refused = client.publish("news", 1).catch((error) => error.code);
  await settle();
  equal(world.sockets.length, 2, "not tried at once");
  world.socket.end(1006);
  equal(await refused, "no_socket");
  equal(client.state.transport, "sse");

  const sent = client.publish("news", 2);
  await settle();
  world.socket.greet();
  await settle();
  const [{ id, data }] = world.socket.asked("publish");
  world.socket.say({ type: "ack", message_id: "m", cursor: "news=e.1", id });
  equal([data, (await sent).message_id], [2, "m"]);
}

function jwt(expiresInS) {
  const claims = JSON.stringify({ sub: "alice", exp: Date.now() / 1000 + expiresInS });
  return `h.${btoa(claims).replaceAll("=", "")}.s`;
}

export async function a_token_is_renewed_in_band_before_it_expires() {
  const world = new World();
  let asked = 0;
  const getToken = () => {
    asked += 1;
    return jwt(100);
  };
  const client = world.client({ user: undefined, getToken });
  client.connect();
  await settle();
  equal([asked, world.socket.url.search], [1, ""]);
  world.socket.onopen();
  equal(world.socket.sent[0].type, "connect");
  world.socket.greet({ ping: 0 });
  await world.pass(75_000);
  equal(asked, 1);
  await world.pass(5_100);
  const [refresh] = world.socket.asked("refresh");
  equal([asked, typeof refresh.token], [2, "string"]);
  world.socket.say({ type: "refreshed", expires_in: 1000, id: refresh.id });
  await world.pass(799_000);
  equal(asked, 2);
  await world.pass(2_000);
  equal([asked, world.sockets.length, client.state.state], [3, 1, "connected"]);
}

export async function a_page_that_has_no_token_to_give_closes_the_client_and_one_that_fails_does_not() {
  const world = new World();
  const gone = world.client({ user: undefined, getToken: () => null });
  gone.connect();
  await settle();
  equal([gone.state.state, gone.state.code, world.sockets.length], ["closed", 3500, 0]);

  let tries = 0;
  const flaky = world.client({
    user: undefined,
    getToken: () => {
      tries += 1;
      if (tries === 1) throw new Error("the page's server is away");
      return "token";
    },
  });
  flaky.connect();
  await settle();
  equal([flaky.state.state, flaky.state.reason], ["reconnecting", "the page's server is away"]);
  await world.pass(1_000);
  equal([tries, world.sockets.length, world.requests.length], [2, 1, 0], "it is no fault of the transport");
}

export async function over_http_a_token_goes_into_a_header_and_a_ticket_is_used_once() {
  const world = new World();
  const byToken = world.client({ user: undefined, token: "t", transports: ["sse"] });
  byToken.connect();
  await settle();
  equal([world.request.headers, world.request.url.search], [{ Authorization: "Bearer t" }, ""]);
  byToken.close();

  let last = 0;
  const getTicket = async () => `ticket-${(last += 1)}`;
  const byTicket = world.client({ user: undefined, getTicket, transports: ["poll"] });
  byTicket.connect();
  await settle();
  equal([world.request.headers, world.request.url.search], [{}, "?ticket=ticket-1&wait=0"]);
  world.answer({ user: "alice", replica: "replica-1", cursor: "", events: [] });
  await settle();
  equal(world.request.url.searchParams.get("ticket"), "ticket-2");
}

export async function somebody_else_begins_anew() {
  const world = new World();
  const client = await connected(world);
  const begun = [];
  client.subscribe("news").on("subscribed", ({ anew }) => begun.push(anew));
  await settle();
  world.socket.subscribe("news", ["e", 5]);
  world.socket.say(message("#alice", ["u", 3], "for alice"));
  client.connect({ user: "bob" });
  await settle();
  equal(world.socket.url.search, "?user=bob");
  world.socket.greet({ user: "bob" });
  await settle();
  equal(world.socket.asked("subscribe").map((frame) => frame.cursor), [undefined]);
  world.socket.subscribe("news", ["e", 5]);
  world.socket.end(1006);
  await world.pass(300);
  world.socket.greet({ user: "bob" });
  await settle();
  world.socket.subscribe("news", ["e", 5], true);
  equal(begun, [true, true, false]);
}

export async function a_subscription_that_the_server_ends_stays_ended_until_it_is_asked_for_again() {
  const world = new World();
  const client = await connected(world);
  const told = [];
  const news = client.subscribe("news", ({ data }) => told.push(data));
  news.on("unsubscribed", () => told.push("ended"));
  await settle();
  world.socket.subscribe("news", ["e", 0]);
  world.socket.say({ type: "unsubscribed", channel: "news" }, message("news", ["e", 1], "too late"));
  client.subscribe("other");
  await settle();
  equal(told, ["ended"]);
  equal(world.socket.asked("subscribe").map(({ channel }) => channel), ["news", "other"]);
}

export async function lines_are_bounded_filtered_and_counted() {
  const lines = new LineBuffer(100);
  for (let i = 0; i < 105; i += 1) lines.add({ text: `line ${i}` });
  equal([lines.total, lines.shown, lines.dropped], [105, 105, 0]);
  lines.setFilter("LINE 10");
  equal([lines.shown, lines.line(0).text, lines.line(1).text], [6, "line 10", "line 100"]);
  for (let i = 105; i < 115; i += 1) lines.add({ text: `line ${i}` });
  equal([lines.total, lines.dropped, lines.shown], [115, 10, 11], "line 10 is there still");
  equal(lines.takeGone(), 0);
  for (let i = 115; i < 125; i += 1) lines.add({ text: `line ${i}` });
  equal([lines.dropped, lines.line(0).text, lines.takeGone()], [20, "line 100", 1]);
  lines.setFilter("");
  equal([lines.shown, lines.line(0).text, lines.line(lines.shown - 1).text], [105, "line 20", "line 124"]);
  lines.clear();
  lines.add({ text: "\u001b[31mred\u001b[0m\ttab\r\n\u0000\u007f" });
  equal([lines.line(0).text, lines.shown], ["red\ttab␍␊␀␡", 1]);
}

export async function a_run_goes_on_where_its_log_was_whatever_tells_of_it() {
  const listeners = {};
  let subscription;
  const client = {
    state: { state: "connected", transport: "websocket" },
    on: (_, listener) => (listeners.state = listener),
    subscribe: () => {
      const heard = {};
      subscription = { heard, on: (type, fn) => (heard[type] = fn), unsubscribe: () => (subscription = null) };
      return subscription;
    },
  };
  const watch = new RunWatch(client);
  const lines = [];
  const sources = [];
  watch.on("lines", (more) => lines.push(...more));
  watch.on("skipped", () => lines.push("gap"));
  watch.on("source", ({ source }) => sources.push(source));
  watch.watch("1");
  subscription.heard.initial_state({ state: "RUNNING", progress: 1, logs: ["a", "b"] });
  subscription.heard.progress({ state: "RUNNING", progress: 2, message: "c" });
  client.getRun = async () => ({ state: "RUNNING", progress: 3, logs: ["a", "b", "c", "d"] });
  client.state = { state: "connected", transport: "sse" };
  listeners.state();
  equal(subscription, null, "still subscribed");
  await new Promise((resolve) => setTimeout(resolve, 700));
  equal([lines, sources.at(-1)], [["a", "b", "c", "d"], "polling"]);
  client.state = { state: "connected", transport: "websocket" };
  listeners.state();
  subscription.heard.initial_state({ state: "END", progress: 100, logs: ["c", "d", "e"] });
  equal([lines, sources.at(-1)], [["a", "b", "c", "d", "e"], "live"]);
  subscription.heard.initial_state({ state: "END", progress: 100, logs: ["x"] });
  equal(lines.slice(-2), ["gap", "x"]);
}

export async function a_scale_of_time_is_short() {
  const found = [0, 0.25, 2.5, 999, 1000, 1500, 10_000, 99_000, 200_000, 1_000_000].map(span);
  equal(found, ["0", "0.3 ms", "2.5 ms", "999 ms", "1 s", "1.5 s", "10 s", "99 s", "3.3 min", "17 min"]);
}
