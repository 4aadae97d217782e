"""Arguments and refusals of `lua/_budget.lua`, which charges users' budgets."""

import re

from heliograph.errors import OverBudget
from heliograph.protocol.budget import Budget, Charge, over_budget

_REFUSAL = re.compile(r"BUDGET (\w+) (-?\d+)")


def amount(charge: Charge) -> str:
    """Return the script's argument."""
    return f"{charge.messages} {charge.size} {charge.to_one}"


def refused(error: Exception, budget: Budget) -> OverBudget | None:
    """Read an error of Redis as a budget's refusal: which limit, and in how many ms there is room; else None."""
    found = _REFUSAL.search(str(error))
    return None if found is None else over_budget(budget, found[1], max(0, int(found[2])) / 1000)
