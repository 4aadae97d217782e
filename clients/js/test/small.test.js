import assert from "node:assert/strict";
import { test } from "node:test";

import { Backoff } from "../src/client/backoff.js";
import { Bookmark } from "../src/client/bookmark.js";
import { mayReconnect } from "../src/client/codes.js";
import { Credentials, NoCredentials } from "../src/client/credentials.js";
import { Emitter } from "../src/client/emitter.js";
import { endpointOf } from "../src/client/endpoint.js";
import { formatCursor, positionIn, positionOf } from "../src/client/position.js";
import { RecentIds } from "../src/client/recent_ids.js";
import { ManualTime } from "./time.js";

test("delays are drawn from 0 to a ceiling that doubles up to its limit", () => {
  const backoff = new Backoff(() => 0.5, 100, 400);
  assert.deepEqual([1, 2, 3, 4, 5].map(() => backoff.next()), [50, 100, 200, 200, 200]);
  backoff.reset();
  assert.equal(backoff.next(), 50);
});

test("close codes from 3500 to 3999 and from 4500 on are for good", () => {
  assert.deepEqual([1006, 3005, 3499, 4000, 4499].map(mayReconnect), [true, true, true, true, true]);
  assert.deepEqual([3500, 3507, 3999, 4500].map(mayReconnect), [false, false, false, false]);
});

test("a cursor names the channels whatever they are called", () => {
  const channels = [
    { name: "뉴스=1&2", position: { epoch: "a.b", offset: 7 } },
    { name: "none", position: null },
    { name: "#bob", position: { epoch: "e", offset: 12 } },
  ];
  const cursor = formatCursor(channels);
  assert.deepEqual(positionOf(cursor, "뉴스=1&2"), { epoch: "a.b", offset: 7 });
  assert.deepEqual(positionOf(cursor, "#bob"), { epoch: "e", offset: 12 });
  assert.equal(positionOf(cursor, "none"), null);
  assert.deepEqual(positionIn("%23bob=e.12"), { epoch: "e", offset: 12 });
});

test("endpoints stand beside the WebSocket's, under its path and with its encryption", () => {
  assert.equal(endpointOf("wss://example.org/live/ws", "ws").href, "wss://example.org/live/ws");
  assert.equal(endpointOf("https://example.org/live/ws", "ws").href, "wss://example.org/live/ws");
  assert.equal(endpointOf("wss://example.org/live/ws", "http", "api/poll").href, "https://example.org/live/api/poll");
  assert.equal(endpointOf("ws://localhost:8080/ws", "http", "sse").href, "http://localhost:8080/sse");
});

test("the last ids are known, and the oldest is forgotten", () => {
  const ids = new RecentIds(2);
  assert.deepEqual(["a", "b", "a", "c", "a"].map((id) => ids.add(id)), [true, true, false, true, true]);
});

test("a listener that throws stops nobody, and one that is taken off hears nothing", (context) => {
  const later = [];
  context.mock.method(globalThis, "queueMicrotask", (callback) => later.push(callback));
  const emitter = new Emitter();
  const heard = [];
  emitter.on("it", () => {
    throw new Error("of the page");
  });
  const off = emitter.on("it", (value) => heard.push(value));
  emitter.emit("it", 1);
  off();
  emitter.emit("other", 2);
  assert.deepEqual(heard, [1]);
  assert.equal(later.length, 1);
  assert.throws(later[0], { message: "of the page" }, "the error surfaces as uncaught");
});

const lasting = (seconds) => `x.${btoa(JSON.stringify({ exp: Date.now() / 1000 + seconds }))}.x`;

test("a token goes into the first frame or a header, a ticket and a name into the URL", async () => {
  const time = new ManualTime();
  const token = new Credentials({ token: "t" }, time);
  assert.deepEqual(await token.forSocket(), { query: {}, token: "t" });
  assert.deepEqual(await token.forRequest(), { query: {}, headers: { Authorization: "Bearer t" } });
  const ticket = new Credentials({ getTicket: () => "once" }, time);
  assert.deepEqual(await ticket.forSocket(), { query: { ticket: "once" } });
  assert.deepEqual(await new Credentials({ user: "bob" }, time).forRequest(), { query: { user: "bob" }, headers: {} });
});

test("a token is renewed after four fifths of its life, and asked for again when that is over", async () => {
  const time = new ManualTime();
  let asked = 0;
  const credentials = new Credentials({ getToken: () => lasting(100 + (asked += 1)) }, time);
  await credentials.forRequest(true);
  assert.ok(Math.abs(credentials.renewInMs() - 80_800) < 1_000);
  assert.deepEqual([credentials.renewInMs(10), credentials.renewInMs(null)], [8_000, null]);
  await credentials.forRequest(false);
  assert.equal(asked, 1);
  time.pass(82_000);
  await credentials.forRequest(false);
  assert.equal(asked, 2);
});

test("a page that gives nothing has no credentials, and one that hangs is given up", async () => {
  const time = new ManualTime();
  await assert.rejects(new Credentials({ getToken: () => null }, time).token(), NoCredentials);
  const late = new Credentials({ getToken: () => new Promise(() => {}) }, time).token();
  time.pass(10_000);
  await assert.rejects(late, { message: "getToken gave nothing within 10 s" });
});

test("places are written once for all that was heard, and are those of one user", () => {
  const time = new ManualTime();
  const kept = new Map();
  const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
  const bookmark = new Bookmark(storage, "one", time);
  bookmark.belongTo("alice");
  const channel = { name: "news", position: { epoch: "e", offset: 1 } };
  bookmark.writeSoon(() => [channel]);
  channel.position = { epoch: "e", offset: 2 };
  bookmark.writeSoon(() => [channel]);
  assert.equal(kept.size, 0);
  time.pass(1_000);
  const next = new Bookmark(storage, "one", time);
  assert.deepEqual([next.user, next.placeIn("news")], ["alice", { epoch: "e", offset: 2 }]);
  assert.equal(new Bookmark(storage, "two", time).placeIn("news"), null);
  next.belongTo("bob");
  assert.equal(next.placeIn("news"), null);
});

test("storage that is broken or full costs the places and nothing else", () => {
  const storage = {
    getItem: () => "no JSON",
    setItem: () => {
      throw new Error("full");
    },
  };
  const bookmark = new Bookmark(storage, "", new ManualTime());
  bookmark.write([{ name: "news", position: { epoch: "e", offset: 1 } }]);
  assert.deepEqual(bookmark.placeIn("news"), { epoch: "e", offset: 1 });
});
