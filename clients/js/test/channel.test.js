import assert from "node:assert/strict";
import { test } from "node:test";

import { Channel } from "../src/client/channel.js";
import { Subscription } from "../src/client/subscription.js";

const at = (offset, epoch = "e") => ({ cursor: `news=${epoch}.${offset}` });
const [link, other] = [{}, {}];

test("what comes twice, by the old connection and the new one, is known the second time", () => {
  const channel = new Channel("news");
  assert.equal(channel.begin({ ...at(4), recovered: false }), false);
  assert.equal(channel.accept(at(5), true), "new");
  assert.equal(channel.accept(at(5), false), "known");
  assert.equal(channel.accept(at(4), true), "known");
  assert.equal(channel.resumeCursor, "news=e.5");
});

test("a gap that the server did not tell of is late", () => {
  const channel = new Channel("news", { position: { epoch: "e", offset: 5 } });
  assert.equal(channel.accept(at(7), true), "late");
  assert.equal(channel.accept(at(8), true), "new");
});

test("after another epoch the old connection says nothing new", () => {
  const channel = new Channel("news", { position: { epoch: "e", offset: 5 } });
  assert.equal(channel.accept(at(1, "f"), true), "late");
  assert.equal(channel.accept(at(6, "e"), false), "known");
});

test("what could not be recovered is lost, and only that", () => {
  const channel = new Channel("news", { position: { epoch: "e", offset: 5 } });
  assert.equal(channel.begin({ ...at(9), recovered: true }), false);
  assert.deepEqual(channel.position, { epoch: "e", offset: 5 }, "what comes after it is still to come");
  assert.equal(channel.begin({ ...at(9), recovered: false }), true);
  assert.deepEqual(channel.position, { epoch: "e", offset: 9 });
});

test("a channel without a position begins now, or with all that is kept", () => {
  assert.equal(new Channel("a b").resumeCursor, "");
  assert.equal(new Channel("a b", { replay: true }).resumeCursor, "a%20b=0.0");
});

test("a run counts the updates of the connection that gave its state, and keeps a bounded log", () => {
  const channel = new Channel("run:42");
  assert.equal(channel.advanceRun({ state: "RUNNING", progress: 1, message: "early" }, link), false);
  channel.beginRun({ state: "RUNNING", progress: 40, logs: ["started"] }, link);
  assert.equal(channel.advanceRun({ state: "RUNNING", progress: 45, message: "half" }, link), true);
  assert.equal(channel.advanceRun({ state: "RUNNING", progress: 30, message: "old" }, other), false);
  assert.deepEqual(channel.run, { state: "RUNNING", progress: 45, logs: ["started", "half"] });
  for (let i = 0; i < 2_500; i += 1) channel.advanceRun({ state: "RUNNING", progress: 50, message: String(i) }, link);
  assert.ok(channel.run.logs.length <= 2_000);
  assert.equal(channel.run.logs.at(-1), "2499");
  assert.equal(channel.resumeCursor, "", "its state is given anew");
});

test("a subscription is ready once, fails with the reason, and ends for good", async () => {
  const released = [];
  const one = new Subscription("news", null, (it) => released.push(it));
  one.hear("subscribed", { channel: "news", recovered: true, lost: false, anew: true });
  await one.ready;
  one.unsubscribe();
  assert.deepEqual(released, [one]);

  const two = new Subscription("news", null, () => {});
  two.hear("unsubscribed", { channel: "news" });
  await assert.rejects(two.ready, { name: "HeliographError", code: "not_allowed" });
});
