"""How `lua/_budget.lua` is told what to charge, and says that a user's budget is spent."""

import re

from heliograph.errors import OverBudget
from heliograph.protocol.budget import Budget, Charge, over_budget

_REFUSAL = re.compile(r"BUDGET (\w+) (-?\d+)")


def amount(charge: Charge) -> str:
    """What the script takes."""
    return f"{charge.messages} {charge.size} {charge.to_one}"


def refused(error: Exception, budget: Budget) -> OverBudget | None:
    """What an error of Redis means, if it is the budget's refusal: which limit, and in how many ms there is room."""
    found = _REFUSAL.search(str(error))
    return None if found is None else over_budget(budget, found[1], max(0, int(found[2])) / 1000)
