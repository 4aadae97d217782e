import assert from "node:assert/strict";
import { test } from "node:test";

import { Heliograph } from "../src/heliograph.js";
import { Socket } from "./socket.js";
import { ManualTime, settled } from "./time.js";

// tests/e2e/client_cases.js has the many cases, in a browser. These show that the client needs none.

const skip = typeof crypto === "undefined" && "Node 18 has no Web Crypto: the client needs Node 20";

test("a program on Node sends, is told of messages and goes on where it was", { skip }, async () => {
  const time = new ManualTime();
  const { now, random, setTimeout, clearTimeout } = time;
  const client = new Heliograph({
    url: "ws://server/live/ws",
    user: "alice",
    WebSocket: Socket,
    now,
    random,
    setTimeout,
    clearTimeout,
  });
  const heard = [];
  const states = [];
  client.on("message", ({ data, deliveredBy }) => heard.push([data, deliveredBy]));
  client.on("state", ({ state }) => states.push(state));
  await assert.rejects(client.send("bob", 1), { code: "closed" });
  client.connect();
  await settled();

  const [first] = Socket.all;
  assert.equal(first.url, "ws://server/live/ws?user=alice");
  first.say({ type: "connected", user: "alice", replica: "one", cursor: "%23alice=e.4", ping: 25 });
  first.say({ type: "message", channel: "#alice", data: "hello", message_id: "m", cursor: "%23alice=e.5" });
  const sending = client.send("bob", { n: 1 });
  await settled();
  const [{ id, ...frame }] = first.sent;
  assert.match(frame.idempotency_key, /^[0-9a-f]{24}-2$/);
  assert.deepEqual([frame.type, frame.to, frame.data], ["send", "bob", { n: 1 }]);

  first.onclose({ code: 1006, reason: "" });
  time.pass(1_000);
  await settled();
  const second = Socket.all[1];
  assert.equal(new URL(second.url).searchParams.get("cursor"), "%23alice=e.5");
  second.say({ type: "connected", user: "alice", replica: "two", cursor: "", ping: 25 });
  assert.deepEqual(second.sent, [{ id, ...frame }], "sent anew with the same key");
  second.say({ type: "ack", message_id: "n", delivery: "remote", id });
  assert.equal((await sending).sentOn, "two");

  client.close();
  assert.deepEqual(heard, [["hello", "one"]]);
  assert.deepEqual(states, ["connecting", "connected", "reconnecting", "reconnecting", "connected", "closed"]);
});

test("a link that is being opened when the token of the one in use is refused is the only one", { skip }, async () => {
  const time = new ManualTime();
  const { now, random, setTimeout, clearTimeout } = time;
  const getToken = () => "token";
  const client = new Heliograph({ url: "ws://server/ws", getToken, WebSocket: Socket, now, random, setTimeout, clearTimeout });
  const before = Socket.all.length;
  client.connect();
  await settled();
  const hello = { type: "connected", user: "alice", replica: "one", cursor: "", ping: 25 };
  const first = Socket.all[before];
  first.say(hello, { type: "reconnect", in_ms: 10 });
  time.pass(10);
  await settled();
  first.onclose({ code: 3500, reason: "invalid token" });
  time.pass(1_000);
  await settled();
  assert.equal(Socket.all.length, before + 2);
  Socket.all[before + 1].say(hello);
  assert.equal(client.state.state, "connected");
  client.close();
});

test("a message that is too large is rejected, and the others go on", { skip }, async () => {
  const time = new ManualTime();
  const { now, random, setTimeout, clearTimeout } = time;
  const client = new Heliograph({ url: "ws://server/ws", user: "alice", WebSocket: Socket, now, random, setTimeout, clearTimeout });
  const before = Socket.all.length;
  client.connect();
  await settled();
  const hello = { type: "connected", user: "alice", replica: "one", cursor: "", ping: 25 };
  Socket.all[before].say(hello);
  const small = client.send("bob", 1);
  const rejected = assert.rejects(client.send("bob", "가".repeat(30_000)), { code: "bad_request", message: /too large: 90/ });
  const longer = client.send("bob", "x".repeat(40_000));
  await settled();
  Socket.all[before].onclose({ code: 1009, reason: "90 KB" });
  await rejected;
  time.pass(1_000);
  await settled();
  const next = Socket.all[before + 1];
  next.say(hello);
  assert.deepEqual(next.sent.map(({ data }) => data.length ?? data), [1, 40_000]);
  for (const { id } of next.sent) next.say({ type: "ack", message_id: id, id });
  await Promise.all([small, longer]);
  client.close();
});
