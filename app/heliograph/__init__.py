"""Heliograph: a horizontally scaled WebSocket cluster.

The way of one message, from the socket of alice on replica-1 to the sockets of bob:

1. `server/websocket.py` reads a text frame from alice's socket and hands it to `transports/websocket.py`.
2. `protocol/plain.py` makes an operation of it (`Send`), or says what is wrong with it.
3. `protocol/session.py` decides: alice is connected, "bob" can be a user, so it may go to the router. No I/O happens
   here. `transports/driver.py`, which all endpoints share, carries out what it says.
4. `cluster/connection_manager.py`, the router, makes a `Draft` of it for bob's channel, `#bob`. Log first: one
   script (`backends/redis_log.py`, `backends/lua/append.lua`) gives it its place, keeps it in the channel's stream
   and publishes it on the shared `events` channel. It looks at who holds bob (`cluster/directory.py` keeps that
   true): if replica-1 alone does, nothing is published, and replica-1 goes on with step 6 by itself. The call goes
   out with those before it as one command (`backends/scripts.py`, `backends/call_batch.py`), at the end of this turn
   of the loop (`backends/link.py`), and a callback is given its answer, which becomes alice's `ack`.
5. On every replica a connection of the `PubSubManager` (`cluster/pubsub_manager.py`, `backends/wire.py`) brings the
   envelope, and it goes to `cluster/remote_delivery.py`, which has nothing to publish with: what came in over the bus
   never goes back to it.
6. `cluster/channels.py` knows where this replica stands in `#bob`. `protocol/sequence.py` lets through what is next,
   drops what was there before, and has a missing range read from the log. Bob's sockets stay open meanwhile.
7. `hub/hub.py` has the connections that listen. The message is encoded once and put into the outbox of each (of a
   channel that many listen to, joined with what else the turn brings: `hub/batch.py`). `hub/outbox.py` writes at the
   end of the turn, to the transport of `server/websocket.py`. Alice has her `ack` by now.

An ephemeral message is local first: in step 4 the router gives it to the hub at once, and `backends/lua/relay.lua`
publishes it without keeping it. Everything else is the same.

Programs that are no replica run the same script: `publish/`.

Imports go down only: main, cli > server, local_cluster > application > transports > cluster, publish > hub,
backends > protocol > settings, errors, clock, logs, telemetry, tasks, answers. `application.py` alone ties
the concrete parts together.
"""
