// What both JavaScript drivers share: it turns commands of the test into calls of the SDK, and the SDK's events into lines.
// ../../driver.py describes the commands and the events.

const POSITION = ({ offset, epoch }) => ({ offset, epoch });

export class Driver {
  /**
   * @param sdks      {json, protobuf}: the class `Centrifuge` of each build of the SDK
   * @param emit      gets each event, an object
   * @param platform  options of the SDK that this platform needs, such as `websocket`
   */
  constructor(sdks, emit, platform = {}) {
    this.sdks = sdks;
    this.emit = emit;
    this.platform = platform;
    this.clients = new Map();
  }

  /** Carry out one command and return its result. It throws the SDK's error: `code` and `message`. */
  async run({ do: what, client: name, ...given }) {
    if (what === "open") return this.open(name, given);
    const { centrifuge, data } = this.clients.get(name);
    switch (what) {
      case "connect": return void centrifuge.connect();
      case "disconnect": return void centrifuge.disconnect();
      case "subscribe": return this.subscribe(name, given);
      case "unsubscribe": return void centrifuge.getSubscription(given.channel).unsubscribe();
      case "publish": return void (await centrifuge.publish(given.channel, data.encode(given.data)));
      case "rpc": return { data: data.decode((await centrifuge.rpc(given.method, data.encode(given.data))).data) };
      case "presence": {
        const { clients } = await centrifuge.presence(given.channel);
        return { clients: Object.fromEntries(Object.entries(clients).map(([id, info]) => [id, this.info(data, info)])) };
      }
      case "presence_stats": {
        const { numClients, numUsers } = await centrifuge.presenceStats(given.channel);
        return { num_clients: numClients, num_users: numUsers };
      }
      case "history": {
        const { limit, since, reverse } = given;
        const found = await centrifuge.history(given.channel, { limit, since, reverse });
        return { ...POSITION(found), publications: found.publications.map((each) => this.publication(data, each)) };
      }
      case "deltas": return { count: centrifuge.getSubscription(given.channel).deltaStats().numDeltaPayloads };
      default: throw new Error(`this driver cannot ${what}`);
    }
  }

  open(name, { url, protocol, transport, emulation, token, tokens }) {
    const data = protocol === "protobuf" ? BYTES : PLAIN;
    const options = { ...this.platform, minReconnectDelay: 50, maxReconnectDelay: 500, name: "sdk-test" };
    if (token) options.token = token;
    if (tokens) options.getToken = this.handOut(tokens, { client: name });
    if (emulation) options.emulationEndpoint = emulation;
    const endpoint = transport ? [{ transport, endpoint: url }] : url;
    const centrifuge = new this.sdks[protocol](endpoint, options);
    this.clients.set(name, { centrifuge, data });
    this.report(centrifuge, data, { client: name });
    centrifuge.on("connected", (context) =>
      this.emit({ client: name, event: "connected", id: context.client, data: data.decode(context.data), transport: context.transport }));
    for (const event of ["connecting", "disconnected"]) {
      centrifuge.on(event, ({ code, reason }) => this.emit({ client: name, event, code, reason }));
    }
    centrifuge.on("message", (context) => this.emit({ client: name, event: "message", data: data.decode(context.data) }));
  }

  subscribe(name, { channel, token, tokens, join_leave: joinLeave, delta }) {
    const { centrifuge, data } = this.clients.get(name);
    const options = { joinLeave, minResubscribeDelay: 50, maxResubscribeDelay: 500 };
    if (token) options.token = token;
    if (tokens) options.getToken = this.handOut(tokens, { client: name, channel });
    if (delta) options.delta = delta;
    const known = centrifuge.getSubscription(channel);
    const subscription = known ?? centrifuge.newSubscription(channel, options);
    if (!known) this.report(subscription, data, { client: name, channel });
    subscription.subscribe();
  }

  /** Report what a client (of its server-side subscriptions) and a subscription have in common. */
  report(source, data, about) {
    source.on("subscribing", ({ channel, code, reason }) => this.emit({ channel, ...about, event: "subscribing", code, reason }));
    source.on("subscribed", (context) => this.emit({
      channel: context.channel, ...about, event: "subscribed",
      recoverable: context.recoverable, positioned: context.positioned,
      was_recovering: context.wasRecovering, recovered: context.recovered,
      position: context.streamPosition && POSITION(context.streamPosition), data: data.decode(context.data),
    }));
    source.on("unsubscribed", ({ channel, code, reason }) => this.emit({ channel, ...about, event: "unsubscribed", code, reason }));
    source.on("publication", (context) =>
      this.emit({ channel: context.channel, ...about, event: "publication", ...this.publication(data, context) }));
    for (const event of ["join", "leave"]) {
      source.on(event, ({ channel, info }) => this.emit({ channel, ...about, event, info: this.info(data, info) }));
    }
    source.on("error", ({ error }) => this.emit({ ...about, event: "error", code: error.code, message: error.message }));
  }

  /** A function that returns one token after the other, and the last one again and again. */
  handOut(tokens, about) {
    let next = 0;
    return async () => {
      this.emit({ ...about, event: "token" });
      return tokens[Math.min(next++, tokens.length - 1)];
    };
  }

  publication(data, { data: body, offset, info, tags }) {
    return { data: data.decode(body), offset: offset ?? 0, info: info ? this.info(data, info) : null, tags: tags ?? {} };
  }

  info(data, { client, user, connInfo, chanInfo }) {
    return { client, user, conn_info: data.decode(connInfo), chan_info: data.decode(chanInfo) };
  }
}

// The JSON build of the SDK takes and gives values, the Protobuf build bytes.
const PLAIN = { encode: (value) => value, decode: (value) => value ?? null };
const BYTES = {
  encode: (value) => new TextEncoder().encode(JSON.stringify(value)),
  decode: (bytes) => (bytes?.length ? JSON.parse(new TextDecoder().decode(bytes)) : null),
};
