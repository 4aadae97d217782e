"""Tokens for the users of a program, signed with the secret that the replicas check them with.

tokens = TokenMaker()  # reads HELIOGRAPH_AUTH__SECRET
tokens.make("alice", channels=["news"])
"""

import base64
import hashlib
import hmac
import time
from typing import Final

import msgspec

from heliograph.client.environment import AuthSettings, auth_settings
from heliograph.errors import BadSetting
from heliograph.protocol.grants import read_grants
from heliograph.protocol.identity import check_channel, check_user_id

LIFE_S: Final = 300.0
LEAST_SECRET_BYTES: Final = 32  # RFC 7518, section 3.2: a replica takes no HS256 token that a shorter one has signed


class TokenMaker:
    """Makes JSON Web Tokens (HS256). May be shared by all threads."""

    def __init__(
        self,
        secret: str | bytes | None = None,
        *,
        life_s: float = LIFE_S,
        audience: str | None = None,
        issuer: str | None = None,
    ) -> None:
        """Read the environment for what is not given.

        Args:
            secret: in the place of `HELIOGRAPH_AUTH__SECRET` or `HELIOGRAPH_AUTH__SECRET_FILE`; 32 bytes or more.
            life_s: a token expires so many seconds after it was made. A client asks for the next one before that.
            audience, issuer: in the place of `HELIOGRAPH_AUTH__AUDIENCE` and `HELIOGRAPH_AUTH__ISSUER`.

        Raises:
            BadSetting: there is no secret, or one that no replica would accept.
        """
        settings: AuthSettings = auth_settings(secret, audience=audience, issuer=issuer)
        if len(settings.secret) < LEAST_SECRET_BYTES:
            raise BadSetting(f"the secret that signs tokens has {len(settings.secret)} bytes; it needs 32 or more")
        self._settings = settings
        self._life_s = life_s

    def make(self, user: str, channels: object = None, *, info: object = None) -> str:
        """Return a token for a user.

        Args:
            user: the user that messages are sent to; of a framework's user, the primary key as text.
            channels: what the token gives beyond the namespaces: a list of channels to listen to, or an object of
                channels and rights (docs/protocol.md).
            info: what presence says of the user's clients, anything that encodes to JSON.

        Raises:
            BadUserId: this can be no user.
            InvalidToken: `channels` is neither.
        """
        claims: dict[str, object] = {"sub": check_user_id(user)}
        if channels is not None:
            read_grants(channels)
            claims["channels"] = channels
        return self._sign(claims, info)

    def make_for_channel(self, user: str, channel: str, *, info: object = None) -> str:
        """Return a subscription token: it opens one channel to a user, whatever the channel's namespace says.

        Args:
            user, channel: the client that connects as this user may subscribe to this channel with it.
            info: what presence says of the client on this channel, anything that encodes to JSON.

        Raises:
            BadUserId, BadChannel: this can be no user, or no channel.
        """
        return self._sign({"sub": check_user_id(user), "channel": check_channel(channel)}, info)

    def _sign(self, claims: dict[str, object], info: object) -> str:
        claims["exp"] = int(time.time() + self._life_s)
        if info is not None:
            claims["info"] = info
        if self._settings.audience is not None:
            claims["aud"] = self._settings.audience
        if self._settings.issuer is not None:
            claims["iss"] = self._settings.issuer
        signed = b".".join(_encoded(msgspec.json.encode(part)) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        signature = hmac.digest(self._settings.secret, signed, hashlib.sha256)
        return b".".join((signed, _encoded(signature))).decode()


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
