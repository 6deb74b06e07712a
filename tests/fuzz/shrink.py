"""Making a statement that differs smaller: parts are left out, or exchanged for simpler ones, as long as it still differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.fuzz.tree import SIMPLEST, Node

MOST_TRIES = 600


def _candidates(node: Node) -> Iterator[list[str | Node]]:
    """Simpler contents for a node, the simplest first."""
    for text in SIMPLEST.get(node.kind, ()):
        if node.parts != [text]:
            yield [text]
    for part in node.walk():
        if part is not node and part.kind == node.kind:
            yield list(part.parts)


def shrink(statement: Node, still_differs: Callable[[str], bool]) -> str:
    """The text of the smallest statement found."""
    tries = 0
    progress = True
    while progress and tries < MOST_TRIES:
        progress = False
        for node in list(statement.walk()):
            for parts in _candidates(node):
                before, node.parts = node.parts, parts
                tries += 1
                if len(parts) <= len(before) and still_differs(statement.sql()):
                    progress = True
                    break
                node.parts = before
            if tries >= MOST_TRIES:
                break
    return statement.sql()
