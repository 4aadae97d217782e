// A program that compiles with `strict`: every part of what is public, with its types. A test compiles it against the
// package as npm packs it. The lines after `@ts-expect-error` are those that must not compile.
import {
  Heliograph,
  HeliographError,
  type Ack,
  type Message,
  type Options,
  type RunEvent,
  type State,
  type Subscription,
} from "@heliograph/client";

interface Order {
  id: number;
  paid: boolean;
}

const options: Options = {
  url: "wss://live.example.org/ws",
  getToken: async () => (await fetch("/my/token")).text(),
  resume: true,
  transports: ["websocket", "sse"],
};
const heliograph = new Heliograph(options);

const off: () => void = heliograph.on("state", ({ state, transport, retryInMs }: State) => {
  if (state === "reconnecting") console.log(`again in ${retryInMs ?? 0} ms`);
  else console.log(state, transport?.toUpperCase());
});
heliograph.on("message", ({ from, data, sent_at }) => console.log(from?.trim(), data, sent_at.slice(0, 10)));
heliograph.on("lost", ({ channel }) => console.warn(`messages are missing on ${channel}`));
heliograph.on("error", (error) => console.error(error.code, error.message));

const orders: Subscription = heliograph.subscribe("orders", (message) => {
  const order: Order = message.data;
  console.log(order.paid, message.cursor?.length);
});
orders.on("subscribed", ({ recovered, lost, anew }) => console.log(recovered && !lost, anew));
orders.on("join", ({ user }) => console.log(user));

heliograph.subscribe("run:42", (event) => {
  if (event.type === "initial_state") console.log(event.logs.join("\n"));
  else console.log(event.run_id, event.message?.trimEnd());
});
heliograph.subscribe<RunEvent>("build:7", ({ state, progress }) => console.log(state, progress.toFixed()));

export async function order(to: string): Promise<Ack | null> {
  try {
    await orders.ready;
    const { users } = await heliograph.presence("orders");
    const { publications, more } = await heliograph.history("orders", { limit: 10 });
    const newest: Omit<Message, "deliveredBy"> | undefined = publications.at(-1);
    console.log(Object.values(users).reduce((sum, count) => sum + count, 0), newest?.message_id, more === true);
    const run = await heliograph.getRun("42");
    await heliograph.emit("order", { id: run?.progress ?? 0 });
    await heliograph.publish("orders", { id: 1, paid: false }, { ephemeral: true });
    const ack = await heliograph.send(to, "hello", { idempotencyKey: "one", timeout: 60_000 });
    return ack.delivery === "offline" ? null : ack;
  } catch (error) {
    if (error instanceof HeliographError && error.code === "timeout") return null;
    throw error;
  } finally {
    orders.unsubscribe();
    off();
  }
}

heliograph.connect({ user: "alice" });
heliograph.close();

// @ts-expect-error there is no such transport
new Heliograph({ transports: ["carrier pigeon"] });
// @ts-expect-error there is no such event
heliograph.on("mesage", () => {});
// @ts-expect-error a run has no data
heliograph.subscribe("run:42", ({ data }) => console.log(data));
// @ts-expect-error it is a promise
heliograph.send("bob", "hello").delivery;
// @ts-expect-error what is not public is not seen
heliograph.state = { state: "connected" };
