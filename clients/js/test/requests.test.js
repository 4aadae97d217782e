import assert from "node:assert/strict";
import { test } from "node:test";

import { HeliographError } from "../src/client/error.js";
import { Requests } from "../src/client/requests.js";
import { ManualTime, settled } from "./time.js";

/** A socket that remembers what is written to it. */
const socket = (replica = "replica-1") => {
  const sent = [];
  return { hello: { replica }, sent, send: (text) => sent.push(JSON.parse(text)) };
};
const always = () => true;

test("an answer says who took the request and how long that lasted", async () => {
  const time = new ManualTime();
  const requests = new Requests(time, () => {});
  const answer = requests.add({ type: "emit" }, 1_000, false);
  const link = socket();
  requests.transmit(link, always);
  assert.equal(requests.waiting, false);
  assert.equal(requests.isOn(link), true);
  time.pass(30);
  requests.answer({ type: "ack", id: link.sent[0].id }, link);
  const { sentOn, rttMs } = await answer;
  assert.deepEqual([sentOn, rttMs], ["replica-1", 30]);
  assert.equal(time.pending, 0);
});

test("what is repeatable outlives its connection, and what is not is rejected with it", async () => {
  const requests = new Requests(new ManualTime(), () => {});
  const repeatable = requests.add({ type: "send" }, 1_000, true);
  const once = requests.add({ type: "emit" }, 1_000, false);
  const [first, second] = [socket("one"), socket("two")];
  requests.transmit(first, always);
  requests.lose(first, new HeliographError("closed", "gone"));
  await assert.rejects(once, { code: "closed" });
  requests.transmit(second, always);
  assert.deepEqual(second.sent, [first.sent[0]], "the same frame with the same id");
  requests.answer({ type: "ack", id: second.sent[0].id }, second);
  assert.equal((await repeatable).sentOn, "two");
});

test("after `unavailable` all that is repeatable waits, and keeps its order", async () => {
  const time = new ManualTime();
  const link = socket();
  const requests = new Requests(time, () => requests.transmit(link, always));
  const answers = [1, 2].map((n) => requests.add({ type: "send", n }, 30_000, true));
  requests.transmit(link, always);
  for (const { id } of [...link.sent]) assert.equal(requests.fail(id, new HeliographError("unavailable", "no")), true);
  answers.push(requests.add({ type: "send", n: 3 }, 30_000, true));
  requests.transmit(link, always);
  assert.equal(link.sent.length, 2);
  time.pass(500);
  assert.deepEqual(link.sent.slice(2).map(({ n }) => n), [1, 2, 3]);
  for (const { id } of link.sent.slice(2)) requests.answer({ type: "ack", id }, link);
  await Promise.all(answers);
});

test("a request without an answer is written again, and ends with what the server said last", async () => {
  const time = new ManualTime();
  const link = socket();
  const requests = new Requests(time, () => requests.transmit(link, always));
  const silent = requests.add({ type: "history" }, 12_000, true);
  requests.transmit(link, always);
  time.pass(11_000);
  assert.equal(link.sent.length, 3);
  const refused = requests.add({ type: "send" }, 300, true);
  requests.transmit(link, always);
  requests.fail(link.sent.at(-1).id, new HeliographError("unavailable", "Redis is away"));
  time.pass(1_000);
  await assert.rejects(silent, { code: "timeout", message: "No answer within 12 s; it may have arrived all the same" });
  await assert.rejects(refused, { code: "unavailable", message: "Redis is away" });
});

test("what was never written can be refused alone", async () => {
  const requests = new Requests(new ManualTime(), () => {});
  const written = requests.add({ type: "send" }, 1_000, true);
  requests.transmit(socket(), always);
  const waiting = requests.add({ type: "send" }, 1_000, true);
  requests.failUntried(new HeliographError("no_socket", "none"));
  await assert.rejects(waiting, { code: "no_socket" });
  requests.failAll(new HeliographError("closed", "over"));
  await assert.rejects(written, { code: "closed" });
});

test("what JSON cannot carry is refused at once", async () => {
  const requests = new Requests(new ManualTime(), () => {});
  await assert.rejects(requests.add({ type: "send", data: 1n }, 1_000, true), TypeError);
  await settled();
  assert.equal(requests.waiting, false);
});
