"""Where a client replaces the token with which it connected."""

from heliograph.auth.authenticator import Authenticator, Credentials
from heliograph.clock import seconds_until
from heliograph.errors import ErrorCode, InvalidToken, KeysUnavailable, TokenNotCurrent, UserBlocked
from heliograph.protocol.actions import Action, LeaveChannel, RefreshToken, Reject
from heliograph.protocol.codes import ErrorNumber
from heliograph.protocol.events import Refreshed, Unsubscribed
from heliograph.transports.expiry import Expiry
from heliograph.transports.remote_client import RemoteClient


async def refresh_token(
    client: RemoteClient, authenticator: Authenticator, expiry: Expiry, action: RefreshToken
) -> list[Action]:
    """Replace the token with a new one. A bad token changes nothing: the old one stays.

    Return what follows: the channels that the client leaves, and those that it joins.
    """
    try:
        identity = await authenticator.identify(Credentials(action.token))
    except (InvalidToken, KeysUnavailable, UserBlocked) as error:
        number = ErrorNumber.TOKEN_EXPIRED if isinstance(error, TokenNotCurrent) else None
        return [Reject(error.code, f"not refreshed: {error}", action.request_id, number=number)]
    session, connection = client.session, client.connection
    if identity.user != session.user:
        text = "not refreshed: the token is another user's"
        return [Reject(ErrorCode.NOT_ALLOWED, text, action.request_id)]
    expiry.set(identity.expires_at)
    connection.info = identity.info or connection.info
    lost, granted = session.renewed(identity.channels)
    client.send(Refreshed(seconds_until(identity.expires_at), action.request_id, session.id))
    left = [LeaveChannel(channel, Unsubscribed(channel=channel)) for channel in lost]
    return [*left, *granted]
