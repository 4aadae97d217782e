import assert from "node:assert/strict";
import { test } from "node:test";

import { TransportSelector } from "../src/client/transport_selector.js";

const selector = (random = 0) => new TransportSelector(["websocket", "sse", "poll"], () => random);

test("a transport that cannot be established gives way to the next, and the last to the first after a wait", () => {
  const choice = selector();
  assert.equal(choice.current, "websocket");
  assert.equal(choice.failed("websocket"), true);
  assert.equal(choice.failed("sse"), true);
  assert.equal(choice.current, "poll");
  assert.equal(choice.failed("poll"), false, "all have failed: it is time to wait");
  assert.equal(choice.current, "websocket");
});

test("a transport that has worked is given up after the third failure", () => {
  const choice = selector();
  choice.connected("websocket");
  assert.deepEqual([choice.failed("websocket"), choice.failed("websocket")], [false, false]);
  assert.equal(choice.current, "websocket");
  assert.equal(choice.failed("websocket"), true);
  assert.equal(choice.current, "sse");
});

test("the failure of a transport that is not the current one changes nothing", () => {
  const choice = selector();
  choice.connected("poll");
  assert.equal(choice.failed("websocket"), false);
  assert.equal(choice.current, "poll");
});

test("better transports take turns, more and more rarely", () => {
  const choice = selector();
  choice.connected("poll");
  assert.equal(choice.canUpgrade, true);
  assert.equal(choice.upgradeInMs, 2_500);
  assert.deepEqual([choice.upgrade(), choice.upgrade(), choice.upgrade()], ["websocket", "sse", "websocket"]);
  assert.equal(choice.upgradeInMs, 20_000);
  for (let i = 0; i < 20; i += 1) choice.upgrade();
  assert.equal(choice.upgradeInMs, 60_000);
  choice.connected("websocket");
  assert.equal(choice.canUpgrade, false);
  choice.connected("sse");
  assert.equal(choice.upgradeInMs, 2_500, "another transport begins with short waits");
});
