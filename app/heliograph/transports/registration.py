"""Where an identified client is let in: from here on the replica, and the cluster, know its connection."""

import logging
from dataclasses import dataclass

import msgspec

from heliograph.auth.authenticator import Authenticator, Identity
from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.cluster.node import Node
from heliograph.errors import BadChannel, BadCursor, ConnectionLimit, ErrorCode, UserBlocked
from heliograph.protocol.actions import JoinChannel, Reject
from heliograph.protocol.codes import CloseCode
from heliograph.telemetry import Telemetry
from heliograph.transports.client_hooks import ClientHooks
from heliograph.transports.remote_client import Disconnected, RemoteClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registrar:
    """Register the clients of a replica."""

    node: Node
    manager: ConnectionManager
    authenticator: Authenticator
    telemetry: Telemetry

    async def register(
        self,
        client: RemoteClient,
        hooks: ClientHooks,
        identity: Identity,
        channels: tuple[str, ...],
        one_request: bool,
    ) -> tuple[JoinChannel, list[JoinChannel | Reject]]:
        """Register the connection of an identified client. Events wait in its outbox until it is greeted.

        `channels`: those that its endpoint subscribes it to; `one_request`: it gets these and its own, all or none.
        Return how it joins its own channel, and the actions for the others.

        Raises:
            Disconnected: it was turned away.
        """
        session, connection = client.session, client.connection
        try:
            own, wanted = session.identified(identity.user, channels, identity.channels, only_these=one_request)
        except (BadCursor, BadChannel) as error:
            client.reject(error, CloseCode.BAD_REQUEST, session.connect.request_id)
        hooks.meta = identity.meta
        others = await hooks.settled(wanted)
        refusal = next((each for each in others if isinstance(each, Reject)), None)
        if one_request and refusal is not None:
            client.refuse(msgspec.structs.replace(refusal, close=CloseCode.BAD_REQUEST))
        if connection.outbox.closed:  # nobody may be told that a user has come who left while a hook was asked
            raise Disconnected(ErrorCode.UNAVAILABLE, "the client has left")
        if self.node.draining:  # asked last: the hooks may have taken long, and who comes late is told of no drain
            client.turn_away(CloseCode.SHUTDOWN, ErrorCode.UNAVAILABLE, "this replica is shutting down")
        client.identified(identity)
        connection.outbox.hold()
        try:
            await self.manager.connect(connection)
        except ConnectionLimit as error:
            self.telemetry.connections_refused += 1
            client.turn_away(CloseCode.CONNECTION_LIMIT, error.code, str(error))
        client.registered = True
        try:
            self.authenticator.check_not_blocked(identity.user)  # a block may have come meanwhile
        except UserBlocked as error:
            connection.outbox.drop_held()
            client.reject(error, CloseCode.FORCED)
        logger.debug("connected", extra=client.about)
        return own, others
