/** The console: puts the client, the cluster and the views together. */
import { Cluster } from "./cluster.js";
import { byId, element } from "./dom.js";
import { FrameTap } from "./frame_tap.js";
import { Heliograph } from "./heliograph.js";
import { Navigation } from "./navigation.js";
import { OperatorSession } from "./operator_session.js";
import { BrowseView } from "./views/browse.js";
import { ChannelsView } from "./views/channels.js";
import { ChartsView } from "./views/charts.js";
import { ClusterView } from "./views/cluster.js";
import { Composer } from "./views/composer.js";
import { ConnectionsView } from "./views/connections.js";
import { closeText, ConnectionView, hasFailed, TRANSPORTS } from "./views/connection.js";
import { FramesView } from "./views/frames.js";
import { LogView } from "./views/log.js";
import { LoginView } from "./views/login.js";
import { MessagesView } from "./views/messages.js";
import { replicaName, troubleOf } from "./views/replica.js";
import { RunView } from "./views/run.js";
import { ShardsView } from "./views/shards.js";
import { TraceView } from "./views/trace.js";

// Relative to this page: the cluster may be served under a path prefix.
const tap = new FrameTap();
const client = new Heliograph({ url: "ws", replay: true, resume: true, WebSocket: tap.WebSocket });
let auth = "open";
const cluster = new Cluster();
const session = new OperatorSession();
const login = new LoginView(session);
const logIn = () => login.open();

const connection = new ConnectionView(client, (token) => cluster.authorize(token));
const replicas = new ClusterView(cluster);
new ChartsView(cluster);
new ShardsView(cluster);
const messages = new MessagesView((user) => composer.addressTo(user));
const composer = new Composer((to, data) => {
  messages.addOutgoing(to, data, client.send(to, data));
});

const [run, log, channels] = [new RunView(client, session), new LogView(client, session), new ChannelsView(client)];
const [connections, browse] = [new ConnectionsView(session, cluster, logIn), new BrowseView(session, logIn)];
const trace = new TraceView(session, logIn);
new FramesView(tap);

new Navigation(byId("navigation"), [
  { name: "messages", title: "Messages", section: byId("messages-view") },
  { name: "runs", title: "Runs", section: byId("run-view"), open: (id) => run.open(id), leave: () => run.leave() },
  { name: "logs", title: "Logs", section: byId("log-view"), open: (id) => log.open(id), leave: () => log.leave() },
  {
    name: "channels",
    title: "Channels",
    section: byId("channels-view"),
    open: (name) => channels.open(name),
    leave: () => channels.leave(),
  },
  {
    name: "connections",
    title: "Connections",
    section: byId("connections-view"),
    open: (subject) => connections.open(subject),
    leave: () => connections.leave(),
  },
  {
    name: "browse",
    title: "Browse",
    section: byId("browse-view"),
    open: (channel) => browse.open(channel),
    leave: () => browse.leave(),
  },
  {
    name: "trace",
    title: "Trace",
    section: byId("trace-view"),
    open: (subject) => trace.open(subject),
    leave: () => trace.leave(),
  },
  { name: "frames", title: "Frames", section: byId("frames-view") },
  { name: "cluster", title: "Cluster", section: byId("cluster-view") },
]);
session.on("change", () => cluster.ask());
session.start();

client.on("message", (message) => {
  messages.addIncoming(message);
  if (message.from) composer.suggest(message.from);
  replicas.flash(message.origin);
  replicas.flash(message.deliveredBy);
});

client.on("lost", () => messages.addNote("error", "Messages are missing here"));

client.on("error", (error) => messages.addNote("error", `${error.code}: ${error.message}`));

let last = client.state;
client.on("state", (state) => {
  composer.setConnected(state.state !== "closed");
  replicas.setHere(state.replica ?? null);
  if (state.state === "connected") {
    const moved = last.state === "connected";
    const words = moved ? ["Moved from ", replicaName(last.replica), " to "] : ["Connected to "];
    messages.addNote("plain", ...words, replicaName(state.replica), ` by ${TRANSPORTS[state.transport]}`);
    byId("invitation").replaceChildren(...invitation(state.user));
  } else if (state.state === "reconnecting" && last.state !== "reconnecting") {
    messages.addNote("plain", `Disconnected: ${closeText(state)}`);
  } else if (state.state === "closed" && last.state !== "closed") {
    if (hasFailed(state)) messages.addNote("error", `Closed: ${closeText(state)}`);
    else messages.addNote("plain", "Disconnected");
  }
  last = state;
});

// The cluster's first answer says how users identify themselves; only then may `?user=` connect.
// Without an answer the page connects all the same: a socket may work.
let begun = false;
function begin() {
  if (begun) return;
  begun = true;
  const user = new URLSearchParams(location.search).get("user")?.trim();
  if (user && auth === "open") connection.connectAs(user);
}

cluster.on("answer", (answer) => {
  auth = answer.auth;
  connection.setAuth(auth);
  connection.setTrouble(troubleIn(answer));
  begin();
});
cluster.on("failure", ({ why, refused }) => {
  if (!refused) connection.setTrouble(`The cluster does not answer (${why})`);
  begin();
});
cluster.start();

/** What of the cluster's state concerns this page. */
function troubleIn({ replica, replicas, error }) {
  const here = replicas.find(({ name }) => name === (client.state.replica ?? replica));
  const trouble = here && troubleOf(here);
  if (trouble) return `${here.name}: ${trouble}`;
  return replicas.length && error ? error : ""; // with none at all, this page may not see them
}

/** What to do while there is nothing to read, for `user`. */
function invitation(user) {
  if (auth !== "open") return ["Write to somebody below."];
  const other = ["alice", "bob"].find((name) => name !== user);
  const address = { href: `?user=${other}${location.hash}`, target: "_blank" };
  const link = element("a", address, `Open a second window as ${other}`);
  return [link, " and write to each other."];
}
