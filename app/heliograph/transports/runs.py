"""`/api/runs/{run_id}`: the latest state of a run, for clients that do not subscribe."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from heliograph.auth.authenticator import Authenticator, credentials_of
from heliograph.cluster.reading import Reading
from heliograph.codecs.plain.cursor import cursor_of
from heliograph.errors import ErrorCode
from heliograph.protocol.decision import Deny
from heliograph.protocol.grants import NO_GRANTS
from heliograph.protocol.identity import check_channel
from heliograph.protocol.policy import Policy
from heliograph.protocol.run import channel_of_run
from heliograph.transports.http import refusal
from heliograph.transports.query import Query
from heliograph.transports.requests import RequestRate
from heliograph.transports.verdicts import verdict_of


class Run(msgspec.Struct, frozen=True):
    """`cursor`: publications after it are newer than this state."""

    run_id: str
    state: str | None
    progress: float
    logs: list[str]
    cursor: str


class RunEndpoint:
    """Answer with the first event that a subscriber of the run would get."""

    def __init__(self, reading: Reading, policy: Policy, authenticator: Authenticator, requests: RequestRate) -> None:
        self._reading = reading
        self._policy = policy
        self._authenticator = authenticator
        self._requests = requests  # by user

    async def serve(self, request: Request) -> Response:
        run_id = request.path_params["run_id"]
        channel = check_channel(channel_of_run(run_id))
        user, grants = None, NO_GRANTS
        if not self._policy.open_mode:
            credentials = credentials_of(request.scope, Query(request.scope))
            identity = await self._authenticator.identify(credentials)
            user, grants = identity.user, identity.channels
            self._requests.take(user)
        verdict = await verdict_of(self._policy.decide_history(user, grants, channel))
        if isinstance(verdict, Deny):
            return refusal(verdict.code, verdict.reason)
        result = await self._reading.state(channel)
        state = result.state
        if state is None:
            return refusal(ErrorCode.NOT_FOUND, f"nothing is known of a run {run_id!r} (finished runs are forgotten)")
        cursor = cursor_of(channel, result.position)
        run = Run(run_id, state.state, state.progress, state.logs, cursor)
        return Response(msgspec.json.encode(run), media_type="application/json")
