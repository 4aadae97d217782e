"""The convention of the server API in the words of a tester that judges by the status alone.

Used by `SCHEMATHESIS_HOOKS`: what is answered with 200 and the error 107 is for it what others answer with 400.
"""

from typing import Any

import schemathesis

BAD_REQUEST = 107
IN_BASE64 = "MQ=="  # the JSON 1


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Called with each request. A document can say of a text that it is base64, but not that JSON is inside."""
    for name in ("b64data", "b64info"):
        if isinstance(case.body, dict) and isinstance(case.body.get(name), str) and case.body[name]:
            case.body[name] = IN_BASE64


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Called with each answer before it is checked."""
    if case.method.upper() != "POST" or response.status_code != 200:
        return
    if response.json().get("error", {}).get("code") == BAD_REQUEST:
        response.status_code = 400
