"""Calls of VARIADIC "any" functions with the array itself: ``format('%s, %s', VARIADIC names)``.

How many values there are is known only when the function runs, so the body for that many is made then (and kept)::

    concat(VARIADIC ARRAY['a', 'b'])     the body of concat(text, text)

Source: PostgreSQL 15 manual, 38.5.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from pydistdb.sql.functions import registry as functions
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import Function, SqlType

_WITHOUT_ARRAY = frozenset({"format"})
"""A NULL array is no values here; elsewhere it makes the result NULL."""


@lru_cache(maxsize=1024)
def spread(oid: int, argument_types: tuple[SqlType, ...], result: SqlType) -> Function | None:
    """The function taking its last arguments as an array; None if it is none that takes any values."""
    generic = functions.function_by_oid(oid)
    if not isinstance(generic, Function) or not generic.variadic or generic.argument_types[-1].oid != registry.ANY.oid:
        return None
    if not argument_types[-1].is_array:
        return None
    element = registry.element_of(argument_types[-1])
    bodies: dict[int, Callable[..., Any]] = {}

    def body(*arguments: Any) -> Any:
        *first, array = arguments
        if array is None and generic.name not in _WITHOUT_ARRAY:
            return None
        items = () if array is None else array.items
        made = bodies.get(len(items))
        if made is None:
            types = (*argument_types[:-1], *(element,) * len(items))
            concrete = generic if generic.specialize is None else functions.specialize(generic, types, result)
            assert isinstance(concrete, Function)
            made = bodies[len(items)] = concrete.implementation
        return made(*first, *items)

    return replace(generic, argument_types=argument_types, return_type=result, implementation=body, specialize=None)
