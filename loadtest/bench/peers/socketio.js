// Socket.IO on Node.js with its Redis adapter, without polling and without compression.
"use strict";

const { createServer } = require("node:http");
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-adapter");
const Redis = require("ioredis");

const [port] = process.argv.slice(2);
const publishing = new Redis(process.env.REDIS_URL);
const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  perMessageDeflate: false,
  adapter: createAdapter(publishing, publishing.duplicate()),
});

io.on("connection", (socket) => {
  const { publisher, n } = socket.handshake.query;
  if (!publisher) socket.join(["all", `u${n}`]);
  socket.on("say", (data) => io.to("all").emit("said", data));
  socket.on("tell", (user, data) => io.to(user).emit("said", data));
});

http.listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 });
