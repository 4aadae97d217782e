"""The convention of the server API in the words of a tester that judges by the status alone.

Used by `SCHEMATHESIS_HOOKS`: what is answered with 200 and the error 107 is for it what others answer with 400.
"""

from typing import Any

import schemathesis

BAD_REQUEST = 107


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Called with each answer before it is checked."""
    if case.method.upper() != "POST" or response.status_code != 200:
        return
    if response.json().get("error", {}).get("code") == BAD_REQUEST:
        response.status_code = 400
