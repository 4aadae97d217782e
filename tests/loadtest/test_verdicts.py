"""What the audit makes of the verdicts of `heliograph why`."""

from loadtest.verdicts import Verdicts


def test_a_verdict_is_held_against_what_was_received() -> None:
    """Fails if a verdict that is not so passes, or one that does not know is taken for a wrong one."""
    verdicts = Verdicts()
    for is_reached, got in ((True, True), (False, False), (None, True), (True, False), (False, True)):
        verdicts.take("bob", {"result": {"reached": is_reached, "verdict": "so"}}, got)
    verdicts.take("bob", {"error": {"code": 404, "message": "not known"}}, True)
    verdicts.take("bob", {"error": {"code": 100, "message": "broken"}}, True)
    assert (verdicts.agreeing, verdicts.not_known) == (2, 2)
    assert verdicts.wrong == [
        "bob did not get it, and the verdict is: so",
        "bob got it, and the verdict is: so",
        "bob: broken",
    ]
