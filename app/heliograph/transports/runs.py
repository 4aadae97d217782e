"""`/api/runs/{run_id}`: the latest state of a run, for clients that do not subscribe."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from heliograph.auth.authenticator import Authenticator, credentials_of
from heliograph.cluster.reading import Reading
from heliograph.codecs.plain.cursor import cursor_of
from heliograph.errors import ErrorCode
from heliograph.hooks.user_backend import UserBackend
from heliograph.protocol.decision import Ask, Deny, Verdict
from heliograph.protocol.grants import NO_GRANTS
from heliograph.protocol.identity import check_channel
from heliograph.protocol.operations import ReadHistory
from heliograph.protocol.peer import Caller
from heliograph.protocol.policy import Policy
from heliograph.protocol.run import channel_of_run
from heliograph.transports.http import refusal
from heliograph.transports.peers import Peers
from heliograph.transports.query import Query
from heliograph.transports.requests import RequestRate


class Run(msgspec.Struct, frozen=True):
    """`cursor`: publications after it are newer than this state."""

    run_id: str
    state: str | None
    progress: float
    logs: list[str]
    cursor: str


class RunEndpoint:
    """Answer with the first event that a subscriber of the run would get."""

    def __init__(
        self,
        reading: Reading,
        policy: Policy,
        authenticator: Authenticator,
        requests: RequestRate,
        user_backend: UserBackend,
        peers: Peers,
    ) -> None:
        self._reading = reading
        self._policy = policy
        self._authenticator = authenticator
        self._requests = requests  # by user
        self._user_backend = user_backend
        self._peers = peers

    async def serve(self, request: Request) -> Response:
        run_id = request.path_params["run_id"]
        channel = check_channel(channel_of_run(run_id))
        peer = self._peers.of(request.scope, "http")
        user, grants, meta = None, NO_GRANTS, None
        if not self._policy.open_mode:
            credentials = credentials_of(request.scope, Query(request.scope))
            identity = await self._authenticator.identify(credentials, peer)
            user, grants, meta = identity.user, identity.channels, identity.meta
            self._requests.take(user)
        verdict: Verdict | Ask = self._policy.decide_history(user, grants, channel)
        if isinstance(verdict, Ask):
            verdict = await self._user_backend.decide(Caller(peer, user or "", meta), ReadHistory(channel, limit=0))
        if isinstance(verdict, Deny):
            return refusal(verdict.code, verdict.reason)
        result = await self._reading.state(channel)
        state = result.state
        if state is None:
            return refusal(ErrorCode.NOT_FOUND, f"nothing is known of a run {run_id!r} (finished runs are forgotten)")
        cursor = cursor_of(channel, result.position)
        run = Run(run_id, state.state, state.progress, state.logs, cursor)
        return Response(msgspec.json.encode(run), media_type="application/json")
