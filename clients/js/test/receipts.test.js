import assert from "node:assert/strict";
import { test } from "node:test";

import { ReceiptSender } from "../src/client/receipts.js";
import { Heliograph } from "../src/heliograph.js";
import { ManualTime, settled } from "./time.js";

const skip = typeof crypto === "undefined" && "Node 18 has no Web Crypto: the client needs Node 20";

class Socket {
  static all = [];
  sent = [];
  constructor(url) {
    this.url = url;
    Socket.all.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close() {}
  say(...frames) {
    for (const frame of frames) this.onmessage?.({ data: JSON.stringify(frame) });
  }
}

test("receipts are said once a second, the newest of each channel, and later if that is not possible now", () => {
  const time = new ManualTime();
  const said = [];
  let can = true;
  const receipts = new ReceiptSender(time, (due) => can && said.push([...due]) > 0);
  receipts.taken("a", "a=e.1");
  receipts.taken("b", "b=e.1");
  receipts.taken("a", "a=e.2");
  assert.deepEqual(said, []);
  time.pass(1_000);
  assert.deepEqual(said, [
    [
      ["a", "a=e.2"],
      ["b", "b=e.1"],
    ],
  ]);
  time.pass(5_000);
  assert.equal(said.length, 1, "nothing new");
  can = false;
  receipts.taken("a", "a=e.3");
  time.pass(3_000);
  can = true;
  time.pass(1_000);
  assert.deepEqual(said[1], [["a", "a=e.3"]]);
  receipts.taken("a", "a=e.4");
  receipts.flush();
  assert.deepEqual(said[2], [["a", "a=e.4"]]);
  receipts.taken("a", "a=e.5");
  receipts.stop();
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
  socket.say({ type: "message", channel: "news", data: 1, message_id: "o", cursor: "news=f.3" });
  news.unsubscribe();
  await settled();
  socket.sent.splice(0);
  time.pass(1_000);
  assert.deepEqual(socket.sent, [], "it is on that channel no more");
  socket.say({ type: "message", channel: "#alice", data: 1, message_id: "p", cursor: "%23alice=e.6" });
  const errors = [];
  client.on("error", (error) => errors.push(error));
  client.close();
  assert.equal(socket.sent[0].cursor, "%23alice=e.6", "said before it closes");
  await settled();
  assert.deepEqual(errors, []);
  assert.equal(time.pending, 0);
});
