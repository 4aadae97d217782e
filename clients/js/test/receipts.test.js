import assert from "node:assert/strict";
import { test } from "node:test";

import { ReceiptSender } from "../src/client/receipts.js";
import { Heliograph } from "../src/heliograph.js";
import { Socket } from "./socket.js";
import { ManualTime, settled } from "./time.js";

const skip = typeof crypto === "undefined" && "Node 18 has no Web Crypto: the client needs Node 20";

test("receipts are said once a second, the newest of each channel, until they are noted", async () => {
  const time = new ManualTime();
  const said = [];
  const answers = [];
  const receipts = new ReceiptSender(time, (due) => {
    said.push([...due]);
    return new Promise((resolve) => answers.push(resolve));
  });
  const pass = async (answer) => {
    answers.shift()?.(answer);
    await settled();
    time.pass(1_000);
  };
  receipts.taken("a", "a=e.1");
  receipts.taken("b", "b=e.1");
  receipts.taken("a", "a=e.2");
  assert.deepEqual(said, []);
  time.pass(1_000);
  const both = [
    ["a", "a=e.2"],
    ["b", "b=e.1"],
  ];
  assert.deepEqual(said.splice(0), [both]);
  receipts.taken("a", "a=e.3");
  time.pass(5_000);
  assert.deepEqual(said, [], "one at a time");
  await pass("later");
  const newer = [
    ["a", "a=e.3"],
    ["b", "b=e.1"],
  ];
  assert.deepEqual(said.splice(0), [newer], "what was not noted, unless there is something newer");
  await pass("noted");
  assert.equal(time.pending, 0, "nothing new");
  receipts.taken("a", "a=e.4");
  receipts.flush();
  assert.deepEqual(said.splice(0), [[["a", "a=e.4"]]]);
  await pass("refused");
  assert.deepEqual([said, time.pending], [[], 0], "it never will be noted");
  receipts.taken("a", "a=e.5");
  receipts.flush();
  receipts.stop();
  await pass("later");
  assert.equal(time.pending, 0);
});

test("a receipt that is refused because of one channel is said for the others", async () => {
  const time = new ManualTime();
  const said = [];
  const receipts = new ReceiptSender(time, async (due) => {
    said.push([...due.values()].join("&"));
    return due.has("old") ? "refused" : "noted";
  });
  receipts.taken("a", "a=e.1");
  receipts.taken("old", "old=d.9");
  time.pass(1_000);
  await settled();
  assert.deepEqual(said, ["a=e.1&old=d.9", "a=e.1", "old=d.9"]);
  assert.equal(time.pending, 0);
});

test("a client says what the page has taken, for its device, on the channels that it is on", { skip }, async () => {
  const time = new ManualTime();
  const { now, random, setTimeout, clearTimeout } = time;
  const times = { now, random, setTimeout, clearTimeout };
  const who = { url: "ws://server/ws", getToken: () => "t", device: "phone", receipts: true };
  const client = new Heliograph({ ...who, ...times, WebSocket: Socket });
  client.connect();
  await settled();
  const [socket] = Socket.all;
  socket.onopen();
  assert.deepEqual(socket.sent.shift(), { type: "connect", token: "t", device: "phone" });
  socket.say({ type: "connected", user: "alice", replica: "one", cursor: "%23alice=e.4", ping: 25 });
  const news = client.subscribe("news", () => {});
  await settled();
  const [{ id }] = socket.sent.splice(0);
  socket.say({ type: "subscribed", channel: "news", cursor: "news=f.1", recovered: false, id });
  socket.say({ type: "message", channel: "#alice", data: 1, message_id: "m", cursor: "%23alice=e.5" });
  socket.say({ type: "message", channel: "#alice", data: 1, message_id: "x" });
  socket.say({ type: "message", channel: "news", data: 1, message_id: "n", cursor: "news=f.2" });
  time.pass(1_000);
  const [{ id: first, ...frame }] = socket.sent.splice(0);
  assert.deepEqual(frame, { type: "received", cursor: "%23alice=e.5&news=f.2" });
  socket.say({ type: "received", id: first });
  await settled();
  socket.say({ type: "message", channel: "news", data: 1, message_id: "o", cursor: "news=f.3" });
  news.unsubscribe();
  await settled();
  socket.sent.splice(0);
  time.pass(1_000);
  await settled();
  assert.deepEqual(socket.sent, [], "it is on that channel no more");
  socket.say({ type: "message", channel: "#alice", data: 1, message_id: "p", cursor: "%23alice=e.6" });
  time.pass(1_000);
  const [{ id: busy }] = socket.sent.splice(0);
  socket.say({ type: "error", code: "unavailable", message: "later", id: busy });
  await settled();
  time.pass(1_000);
  assert.equal(socket.sent.splice(0)[0].cursor, "%23alice=e.6", "said again after `unavailable`");
  socket.onclose({ code: 1006, reason: "" });
  await settled();
  time.pass(2_000);
  await settled();
  const next = Socket.all[1];
  next.onopen();
  next.sent.splice(0);
  next.say({ type: "connected", user: "alice", replica: "two", cursor: "", ping: 25 });
  time.pass(1_000);
  const { id: lost, ...again } = next.sent.find(({ type }) => type === "received");
  assert.deepEqual(again, { type: "received", cursor: "%23alice=e.6" }, "said again on the next connection");
  next.say({ type: "received", id: lost });
  await settled();
  next.sent.splice(0);
  next.say({ type: "message", channel: "#alice", data: 1, message_id: "q", cursor: "%23alice=e.7" });
  const errors = [];
  client.on("error", (error) => errors.push(error));
  client.close();
  assert.equal(next.sent[0].cursor, "%23alice=e.7", "said before it closes");
  await settled();
  assert.deepEqual(errors, []);
  assert.equal(time.pending, 0);
});

for (const transport of ["sse", "poll"]) {
  test(`over ${transport} receipts are posted`, { skip }, async () => {
    const time = new ManualTime();
    const { now, random, setTimeout, clearTimeout } = time;
    const posts = [];
    const statuses = [503, 200];
    const hello = { type: "connected", user: "alice", replica: "one", cursor: "%23alice=e.4", ping: 25 };
    const message = { type: "message", channel: "#alice", data: 1, message_id: "m", cursor: "%23alice=e.5" };
    const never = new Promise(() => {});
    let polls = 0;
    const fetch = async (url, { method, body, headers }) => {
      const { pathname } = new URL(url);
      if (method === "POST") {
        posts.push([pathname, JSON.parse(body), headers.Authorization]);
        return new Response("{}", { status: statuses.shift() });
      }
      if (transport === "poll") {
        polls += 1;
        if (polls > 2) return never;
        const events = polls === 2 ? [message] : [];
        return Response.json({ user: "alice", replica: "one", cursor: `%23alice=e.${3 + polls}`, events });
      }
      const stream = new ReadableStream({
        start(controller) {
          const text = [hello, message].map((frame) => `data: ${JSON.stringify(frame)}\n\n`).join("");
          controller.enqueue(new TextEncoder().encode(text));
        },
      });
      return new Response(stream, { headers: { "content-type": "text/event-stream" } });
    };
    const who = { url: "http://server/live/ws", getToken: () => "t", device: "tv", receipts: true };
    const client = new Heliograph({ ...who, transports: [transport], fetch, now, random, setTimeout, clearTimeout });
    const heard = [];
    client.on("message", ({ data }) => heard.push(data));
    client.connect();
    for (let i = 0; i < 50 && !heard.length; i += 1) await settled();
    assert.deepEqual(heard, [1]);
    time.pass(1_000);
    for (let i = 0; i < 5; i += 1) await settled();
    const expected = ["/live/api/received", { cursor: "%23alice=e.5", device: "tv" }, "Bearer t"];
    assert.deepEqual(posts, [expected]);
    time.pass(1_000);
    for (let i = 0; i < 5; i += 1) await settled();
    assert.deepEqual(posts, [expected, expected], "once more, as it was not noted");
    time.pass(3_000);
    assert.equal(posts.length, 2);
    client.close();
  });
}
