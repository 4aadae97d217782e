"""Who may call the server API: programs with its key, and operators in the console."""

from typing import Protocol

from starlette.requests import Request

from heliograph.auth.operators import Operator, Operators
from heliograph.errors import UserBlocked
from heliograph.transports.api_key import has_key
from heliograph.transports.operator_cookie import secret_of


class ApiCallers(Protocol):
    """Decides whether a request may call the server API."""

    async def admit(self, request: Request) -> "Operator | bool":
        """Return True for a program with the key, the operator whose cookie the request has, or False."""
        ...


class Programs:
    """Programs with the key `key`; nobody if it is empty."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    async def admit(self, request: Request) -> Operator | bool:
        return has_key(request.headers, self._key)


class ProgramsAndOperators:
    """Both. For where the console is on."""

    def __init__(self, key: bytes, operators: Operators) -> None:
        self._key = key
        self._operators = operators

    async def admit(self, request: Request) -> Operator | bool:
        if has_key(request.headers, self._key):
            return True
        try:
            return await self._operators.recognise(secret_of(request)) or False
        except UserBlocked:
            return False
