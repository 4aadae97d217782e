"""Is there one order of all publications that agrees with everything that was seen?

Each reader has seen some publications one after the other. The log has kept them one after the other. And time has
passed: what was acknowledged before another one began stands before that. If there is an order that agrees with all
of this, the channel is one list to which everybody appends. Positions are not looked at here: this proof does not
need the cluster's own numbers.

Publications are the nodes of a graph, and "stands before" its edges. There is such an order unless the graph has a
circle. Time would need an edge for each pair; a chain of nodes that stand for moments says the same with few.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from loadtest.auditing.history import Number

Node = Number | int  # a publication, or a moment


class Order:
    """Collects what stands before what."""

    def __init__(self) -> None:
        self._after: dict[Node, set[Node]] = defaultdict(set)
        self._nodes: set[Node] = set()

    def add_sequence(self, numbers: Iterable[Number]) -> None:
        """Somebody saw these, one after the other."""
        before: Number | None = None
        for number in numbers:
            self._nodes.add(number)
            if before is not None and before != number:
                self._after[before].add(number)
            before = number

    def add_times(self, begun: Mapping[Number, float], acknowledged: Mapping[Number, float]) -> None:
        """What was acknowledged before another one was begun stands before it. Of equal times nothing is known."""
        moments = sorted(
            [(at, 0, number) for number, at in begun.items()]
            + [(at, 1, number) for number, at in acknowledged.items()]
        )
        moment = 0
        for _, is_answer, number in moments:
            self._nodes.add(number)
            if is_answer:
                self._after[moment].add(moment + 1)
                moment += 1
                self._after[number].add(moment)
            else:
                self._after[moment].add(number)

    def circle(self) -> list[Number]:
        """Return publications of which each was seen, or acknowledged, before the next; empty if there are none."""
        waits_for: dict[Node, int] = defaultdict(int)
        for afters in self._after.values():
            for node in afters:
                waits_for[node] += 1
        free = [node for node in {*self._nodes, *self._after} if not waits_for[node]]
        while free:
            for node in self._after.get(free.pop(), ()):
                waits_for[node] -= 1
                if not waits_for[node]:
                    free.append(node)
        left = {node for node, count in waits_for.items() if count}
        if not left:
            return []
        return [node for node in self._walk(left) if not isinstance(node, int)]

    def _walk(self, left: set[Node]) -> Sequence[Node]:
        """Return a circle among what waits for each other: walk backwards until a node comes again."""
        before: dict[Node, Node] = {}
        for node in left:
            for after in self._after.get(node, ()):
                if after in left:
                    before[after] = node
        path: list[Node] = []
        seen: dict[Node, int] = {}
        node = next(iter(left))
        while node not in seen:
            seen[node] = len(path)
            path.append(node)
            node = before[node]
        return path[seen[node] :][::-1]
