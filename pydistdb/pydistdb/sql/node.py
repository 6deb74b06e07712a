"""``@node``: the classes that trees of statements are made of, frozen dataclasses with slots.

That nobody changes a node is checked by mypy, before anything runs.  A dataclass that checks it at run time as well pays for
that in its constructor, which has to go around its own check for every field: three times what an assignment costs, and a
statement makes some hundreds of nodes on its way to a plan::

    @node
    class Not(Expr):
        argument: Expr

    expression.argument = other        error: Property "argument" defined in "Not" is read-only
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def node(cls: type[T]) -> type[T]:
    """The class as a dataclass that compares and hashes by its fields."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
