"""The cookie of an operator: set at login, and believed only in requests that the console's own page makes.

Browsers send a cookie with what other pages of the same site ask for too. So it counts only with a header that a page
of another origin cannot send, as no answer here allows that header to other origins; and not where the browser itself
says that the request is from elsewhere.
"""

from http.cookies import SimpleCookie
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

NAME: Final = "heliograph_operator"
HEADER: Final = "X-Heliograph-Console"


def secret_of(request: Request) -> str:
    """Return the secret in the request's cookie; empty without one, or if it does not count."""
    return request.cookies.get(NAME, "") if is_from_console(request) else ""


def is_from_console(request: Request) -> bool:
    """Return whether the console's own page has made the request, or a program that says so."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    return HEADER in request.headers and site == "same-origin"


def set_cookie(response: Response, request: Request, secret: str, for_s: int) -> None:
    """Have the browser keep the secret for so many seconds, out of the reach of scripts; 0: forget it.

    There is no path in it: the browser takes that of the request's folder, so that it comes with requests to the API
    only, under whichever path the cluster stands. The page's origin says whether it is encrypted, which no proxy
    hides.
    """
    cookie: SimpleCookie = SimpleCookie()
    cookie[NAME] = secret
    cookie[NAME]["httponly"] = True
    cookie[NAME]["samesite"] = "Strict"
    cookie[NAME]["max-age"] = for_s
    if request.headers.get("origin", "").startswith("https://") or request.url.scheme == "https":
        cookie[NAME]["secure"] = True
    response.headers.append("Set-Cookie", cookie[NAME].OutputString())
