"""Heliograph: a horizontally scaled WebSocket cluster.

The way of one message, from the socket of alice on replica-1 to the sockets of bob:

1. `transports/websocket.py` reads a text frame from alice's socket.
2. `protocol/plain.py` makes an operation of it (`Send`), or says what is wrong with it.
3. `protocol/session.py` decides: alice is connected, "bob" can be a user, so `Route`. No I/O happens here.
4. `cluster/connection_manager.py`, the router, makes a `Publication` of it and hands it to
5. `hub/hub.py`: bob's connections on this replica. It is encoded once and queued in the outbox of each;
   `hub/outbox.py` writes at the end of the turn, by `server.py`, to the socket. Nobody here has waited for Redis.
6. The router gives an `Envelope` to `cluster/pubsub_manager.py`. One script in Redis (`backends/lua/relay.lua`)
   looks at who holds bob (`cluster/directory.py` keeps that true) and publishes on the shared `events` channel,
   unless replica-1 alone does. Its answer goes back to alice in the `ack`.
7. On every other replica the `PubSubManager` reads the envelope and hands it to `cluster/remote_delivery.py`, which
   gives it to that replica's hub, and has nothing to publish with: what came in over the bus never goes back to it.

Imports go down only: main, cli > server, local_cluster > application > transports > cluster > hub, backends >
protocol > settings, errors, clock, telemetry. `application.py` alone ties concrete parts together.
"""
