// The driver of the JavaScript SDK in Node: commands on standard input, events and results on standard output.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { createRequire } from "node:module";

// The packages are installed elsewhere: the first argument is the directory with their package.json.
const installed = createRequire(pathToFileURL(`${process.argv[2]}/package.json`));
const { Centrifuge } = installed("centrifuge");
const { Centrifuge: CentrifugeProtobuf } = installed("centrifuge/build/protobuf");
const { WebSocket } = installed("ws");
const { EventSource } = installed("eventsource");
const { Driver } = await import("./driver.js");

const write = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const driver = new Driver({ json: Centrifuge, protobuf: CentrifugeProtobuf }, write, {
  websocket: WebSocket,
  eventsource: EventSource,
});

for await (const line of createInterface({ input: process.stdin })) {
  const { id, ...command } = JSON.parse(line);
  driver.run(command).then(
    (result) => write({ id, result: result ?? {} }),
    ({ code, message }) => write({ id, error: { code: code ?? 0, message } }),
  );
}
process.exit(0);
