r"""Evaluating jsonpath: jsonb_path_query and its kin, ``@?`` and ``@@``.

An accessor takes one item and gives any number; a path's result is the sequence of all of them, in order.  Lax mode takes
arrays apart where an accessor wants something else, and finds nothing where strict mode has an error::

    $.a         of [{"a": 1}, {"a": 2}]       lax: 1, 2        strict: an error (the item is an array)

Conditions know true, false and unknown (None): an error inside a condition is unknown.  Sequences are generators, so that
``exists`` stops at the first item, and what came before an error has been given.

Source: PostgreSQL 15 manual, 9.16.2; jsonpath_exec.c.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.define import define
from pydistdb.sql.functions.json_path_datetime import TYPE_NAMES, PathMoment, compare, moment_of, shown
from pydistdb.sql.functions.regex import compile_regex
from pydistdb.sql.types import numeric
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.json import dump, load
from pydistdb.sql.types.jsonpath import COMPARISONS, LAST_LEVEL, PATTERN_CHECKS, Node, Path, is_predicate, parse_path

_ARITHMETIC: dict[str, Callable[[Decimal, Decimal], Decimal]] = {
    "+": numeric.add,
    "-": numeric.subtract,
    "*": numeric.multiply,
    "/": numeric.divide,
    "%": numeric.modulo,
}
_TESTS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _error(sqlstate: str, message: str) -> DatabaseError:
    return DatabaseError.of(sqlstate, message)


def _is_number(item: Any) -> bool:
    return isinstance(item, int | Decimal) and not isinstance(item, bool)


def _truncated(value: int | Decimal) -> int:
    index = int(value)
    if not -(1 << 31) <= index < 1 << 31:
        raise _error("22033", "jsonpath array subscript is out of integer range")
    return index


class _Run:
    """One evaluation of a path."""

    def __init__(self, path: Path, document: Any, variables: dict[str, Any], context: EvalContext | None) -> None:
        self.lax = path.lax
        self.context = context
        """Of the ``_tz`` functions, which may know the session's time zone."""
        self.root = document
        self.variables = variables
        self.current: Any = document
        self.last = -1
        """The last subscript of the array at hand."""
        self.forgiving = path.lax
        """Structural errors count as nothing found."""

    # ------------------------------------------------------------------------------------------ sequences

    def items(self, node: Node, item: Any, unwrap: bool | None = None) -> Iterator[Any]:
        """What the chain that starts at ``node`` gives for an item."""
        unwrap = self.lax if unwrap is None else unwrap
        if is_predicate(node) or node.kind in COMPARISONS or node.kind in _CONDITIONS:
            yield from self.then(node, self.condition(node, item))
            return
        match node.kind:
            case "root":
                yield from self.then(node, self.root)
            case "current":
                yield from self.then(node, self.current)
            case "last":
                yield from self.then(node, self.last)
            case "null" | "bool" | "number" | "string":
                yield from self.then(node, node.value)
            case "variable":
                if node.value not in self.variables:
                    raise _error("42704", f'could not find jsonpath variable "{node.value}"')
                yield from self.then(node, self.variables[node.value])
            case "each":
                yield from self.each(node, item)
            case "index":
                yield from self.indexed(node, item)
            case "any":
                yield from self.levels(node, item)
            case "type":
                yield from self.then(node, type_name(item))
            case "size":
                if not isinstance(item, list) and not self.lax:
                    if not self.forgiving:
                        raise _error("22039", "jsonpath item method .size() can only be applied to an array")
                    return
                yield from self.then(node, len(item) if isinstance(item, list) else 1)
            case "plus" | "minus":
                yield from self.signed(node, item)
            case kind if kind in _ARITHMETIC:
                yield from self.then(node, self.arithmetic(node, item))
            case _:
                yield from self.on_one(node, item, unwrap)

    def then(self, node: Node, item: Any) -> Iterator[Any]:
        """The rest of the chain, for what this node gave."""
        if node.next is None:
            yield item
        else:
            yield from self.items(node.next, item)

    def on_one(self, node: Node, item: Any, unwrap: bool) -> Iterator[Any]:
        """Accessors that are for the items of an array, if they meet one in lax mode."""
        if unwrap and isinstance(item, list):
            for each in item:
                yield from self.items(node, each, False)
            return
        match node.kind:
            case "key":
                if isinstance(item, dict) and node.value in item:
                    yield from self.then(node, item[node.value])
                elif not self.forgiving:
                    if isinstance(item, dict):
                        raise _error("2203A", f'JSON object does not contain key "{node.value}"')
                    raise _error("2203A", "jsonpath member accessor can only be applied to an object")
            case "any_key":
                if isinstance(item, dict):
                    for key in _ordered(item):
                        yield from self.then(node, item[key])
                elif not self.forgiving:
                    raise _error("2203C", "jsonpath wildcard member accessor can only be applied to an object")
            case "filter":
                if self.filtered(node.arguments[0], item):
                    yield from self.then(node, item)
            case "keyvalue":
                if not isinstance(item, dict):
                    raise _error("2203C", "jsonpath item method .keyvalue() can only be applied to an object")
                for key in _ordered(item):
                    yield from self.then(node, {"key": key, "value": item[key], "id": 0})
            case "datetime":
                yield from self.then(node, moment_of(item, node.value))
            case method:
                yield from self.then(node, _method(method, item))

    def filtered(self, condition: Node, item: Any) -> bool:
        before, self.current = self.current, item
        try:
            return self.condition(condition, item) is True
        finally:
            self.current = before

    def each(self, node: Node, item: Any) -> Iterator[Any]:
        if isinstance(item, list):
            for each in item:
                yield from self.then(node, each)
        elif self.lax:
            yield from self.then(node, item)
        elif not self.forgiving:
            raise _error("22039", "jsonpath wildcard array accessor can only be applied to an array")

    def indexed(self, node: Node, item: Any) -> Iterator[Any]:
        if not isinstance(item, list) and not self.lax:
            if not self.forgiving:
                raise _error("22039", "jsonpath array accessor can only be applied to an array")
            return
        array = item if isinstance(item, list) else [item]
        before, self.last = self.last, len(array) - 1
        try:
            for part in node.arguments:
                first = self.subscript(part.arguments[0], item)
                end = self.subscript(part.arguments[1], item) if len(part.arguments) > 1 else first
                if not self.forgiving and (first < 0 or first > end or end >= len(array)):
                    raise _error("22033", "jsonpath array subscript is out of bounds")
                for position in range(max(first, 0), min(end, len(array) - 1) + 1):
                    yield from self.then(node, array[position])
                    self.last = len(array) - 1
        finally:
            self.last = before

    def subscript(self, node: Node, item: Any) -> int:
        found = list(self.items(node, item))
        if len(found) != 1 or not _is_number(found[0]):
            raise _error("22033", "jsonpath array subscript is not a single numeric value")
        return _truncated(found[0])

    def levels(self, node: Node, item: Any) -> Iterator[Any]:
        first, last = node.value
        if first == 0:
            yield from self.leniently(node, item)
        if isinstance(item, dict | list):
            yield from self.below(node, item, 1, first, last)

    def below(self, node: Node, item: Any, level: int, first: int, last: int) -> Iterator[Any]:
        if level > last:
            return
        children = [item[key] for key in _ordered(item)] if isinstance(item, dict) else item
        for child in children:
            inner = isinstance(child, dict | list)
            if level >= first or (first == LAST_LEVEL and last == LAST_LEVEL and not inner):
                yield from self.leniently(node, child)
            if inner and level < last:
                yield from self.below(node, child, level + 1, first, last)

    def leniently(self, node: Node, item: Any) -> Iterator[Any]:
        """The rest of the chain behind ``**``, where structural errors do not count."""
        before, self.forgiving = self.forgiving, True
        try:
            yield from self.then(node, item)
        finally:
            self.forgiving = before

    # ------------------------------------------------------------------------------------------ arithmetic

    def unwrapped(self, node: Node, item: Any) -> Iterator[Any]:
        """A sequence whose arrays are taken apart in lax mode."""
        for found in self.items(node, item):
            if self.lax and isinstance(found, list):
                yield from found
            else:
                yield found

    def arithmetic(self, node: Node, item: Any) -> Decimal:
        values = []
        for side, argument in zip(("left", "right"), node.arguments, strict=True):
            found = list(self.unwrapped(argument, item))
            if len(found) != 1 or not _is_number(found[0]):
                raise _error("22038", f"{side} operand of jsonpath operator {node.kind} is not a single numeric value")
            values.append(Decimal(found[0]))
        return _ARITHMETIC[node.kind](values[0], values[1])

    def signed(self, node: Node, item: Any) -> Iterator[Any]:
        for found in self.unwrapped(node.arguments[0], item):
            if not _is_number(found):
                sign = "+" if node.kind == "plus" else "-"
                raise _error("2203B", f"operand of unary jsonpath operator {sign} is not a numeric value")
            yield from self.then(node, found if node.kind == "plus" else numeric.negate(Decimal(found)))

    # ------------------------------------------------------------------------------------------ conditions

    def condition(self, node: Node, item: Any) -> bool | None:
        match node.kind:
            case "&&":
                left = self.condition(node.arguments[0], item)
                if left is False:
                    return False
                right = self.condition(node.arguments[1], item)
                return left if right is True else right
            case "||":
                left = self.condition(node.arguments[0], item)
                if left is True:
                    return True
                right = self.condition(node.arguments[1], item)
                return left if right is False else right
            case "not":
                value = self.condition(node.arguments[0], item)
                return None if value is None else not value
            case "is_unknown":
                return self.condition(node.arguments[0], item) is None
            case "exists":
                return self.exists(node.arguments[0], item)
        return self.compared(node, item)

    def exists(self, node: Node, item: Any) -> bool | None:
        try:
            if self.lax:
                return any(True for _ in self.items(node, item))
            return bool(list(self.items(node, item)))
        except DatabaseError as error:
            if not _is_suppressed(error):
                raise
            return None

    def compared(self, node: Node, item: Any) -> bool | None:
        """A comparison of every item on the left with every one on the right."""
        try:
            left = list(self.unwrapped(node.arguments[0], item))
            right = list(self.unwrapped(node.arguments[1], item)) if len(node.arguments) > 1 else [None]
        except DatabaseError as error:
            if not _is_suppressed(error):
                raise
            return None
        found = unknown = False
        for one in left:
            for other in right:
                result = _compare_pair(node, one, other, self.context)
                if result is None:
                    if not self.lax:
                        return None
                    unknown = True
                elif result:
                    if self.lax:
                        return True
                    found = True
        return True if found else None if unknown else False


_CONDITIONS = frozenset({"||", "&&", "not", "is_unknown", "exists", "starts_with", "like_regex"})


def _ordered(document: dict[str, Any]) -> list[str]:
    """Keys as jsonb keeps them: short ones first, then bytewise."""
    return sorted(document, key=lambda key: (len(key.encode()), key.encode()))


def type_name(item: Any) -> str:
    match item:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case PathMoment():
            return TYPE_NAMES[item.kind]
    return "number"


def _compare_pair(node: Node, one: Any, other: Any, context: EvalContext | None) -> bool | None:
    match node.kind:
        case "starts_with":
            return one.startswith(other) if isinstance(one, str) and isinstance(other, str) else None
        case "like_regex":
            return _matches(one, *node.value) if isinstance(one, str) else None
    if isinstance(one, PathMoment) and isinstance(other, PathMoment):
        order = compare(one, other, context)
        return None if order is None else bool(_TESTS[node.kind](order, 0))
    kinds = type_name(one), type_name(other)
    if kinds[0] != kinds[1]:
        if "null" in kinds:
            return node.kind == "<>"
        return None
    if kinds[0] in ("array", "object"):
        return None
    if one is None:
        return node.kind in ("==", "<=", ">=")
    return bool(_TESTS[node.kind](one, other))


def _compiled(pattern: str, flags: str) -> Any:
    """XQuery's flags in Postgres's words: a dot matches no line break unless s is given, ^ and $ are the text's unless m."""
    options = "i" if "i" in flags else ""
    if "s" not in flags:
        options += "n" if "m" in flags else "p"
    elif "m" in flags:
        options += "w"
    return compile_regex(pattern, options)


def _matches(text: str, pattern: str, flags: str) -> bool:
    if "q" in flags:
        return (pattern.lower() in text.lower()) if "i" in flags else pattern in text
    return _compiled(pattern, flags).search(text) is not None


PATTERN_CHECKS.append(lambda pattern, flags: "q" in flags or _compiled(pattern, flags))


def _method(name: str, item: Any) -> Any:
    if name == "double" and isinstance(item, str):
        try:
            value = float(item)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or "_" in item:
            raise _error(
                "22036",
                "string argument of jsonpath item method .double() is not a valid representation of a double "
                "precision number",
            )
        return numeric.parse(f"{value:.15g}", -1, None)
    if not _is_number(item):
        what = "a string or numeric value" if name == "double" else "a numeric value"
        raise _error("22036", f"jsonpath item method .{name}() can only be applied to {what}")
    if name == "double" and not math.isfinite(float(item)):
        raise _error(
            "22036", "numeric argument of jsonpath item method .double() is out of range for type double precision"
        )
    match name:
        case "abs":
            return abs(item)
        case "floor":
            return math.floor(item)
        case "ceiling":
            return math.ceil(item)
    return item


# ------------------------------------------------------------------------------------------------ functions


def _is_suppressed(error: DatabaseError) -> bool:
    return error.sqlstate.startswith("22")


def _run(text: str, path: str, variables: str, silent: bool, context: EvalContext | None) -> Iterator[Any]:
    given = load(variables)
    if not isinstance(given, dict):
        raise DatabaseError.of(
            "22023",
            '"vars" argument is not an object',
            detail='Jsonpath parameters should be encoded as key-value pairs of "vars" object.',
        )
    parsed = parse_path(path)
    run = _Run(parsed, load(text), given, context)
    try:
        for item in run.items(parsed.root, run.root):
            yield shown(item) if isinstance(item, PathMoment) else item
    except DatabaseError as error:
        if not silent or not _is_suppressed(error):
            raise
        yield _FAILED
    except RecursionError:
        raise DatabaseError.of("54001", "stack depth limit exceeded") from None


_FAILED: Any = object()
"""Stands behind the last item, if an error was hidden."""


def _found(text: str, path: str, variables: str, silent: bool, context: EvalContext | None) -> list[Any]:
    return [item for item in _run(text, path, variables, silent, context) if item is not _FAILED]


Zoned = EvalContext | None
"""The context of a ``_tz`` function."""


def path_exists(text: str, path: str, variables: str = "{}", silent: bool = False, zoned: Zoned = None) -> bool | None:
    if parse_path(path).lax:
        first = next(_run(text, path, variables, silent, zoned), _NOTHING)
        return None if first is _FAILED else first is not _NOTHING
    found = list(_run(text, path, variables, silent, zoned))
    return None if _FAILED in found else bool(found)


_NOTHING: Any = object()


def path_match(text: str, path: str, variables: str = "{}", silent: bool = False, zoned: Zoned = None) -> bool | None:
    found = _found(text, path, variables, silent, zoned)
    if len(found) == 1 and (found[0] is None or isinstance(found[0], bool)):
        value: bool | None = found[0]
        return value
    if not silent:
        raise _error("22038", "single boolean result is expected")
    return None


def path_query(text: str, path: str, variables: str = "{}", silent: bool = False, zoned: Zoned = None) -> list[str]:
    return [dump(item) for item in _found(text, path, variables, silent, zoned)]


def path_query_array(text: str, path: str, variables: str = "{}", silent: bool = False, zoned: Zoned = None) -> str:
    return dump(_found(text, path, variables, silent, zoned))


def path_query_first(
    text: str, path: str, variables: str = "{}", silent: bool = False, zoned: Zoned = None
) -> str | None:
    found = _found(text, path, variables, silent, zoned)
    return dump(found[0]) if found else None


def _in_zone(body: Callable[..., Any]) -> Callable[..., Any]:
    def in_zone(context: EvalContext, text: str, path: str, variables: str = "{}", silent: bool = False) -> Any:
        return body(text, path, variables, silent, context)

    return in_zone


for _name, _body in (
    ("exists", path_exists),
    ("match", path_match),
    ("query", path_query),
    ("query_array", path_query_array),
    ("query_first", path_query_first),
):
    define(f"jsonb_path_{_name}(jsonb,jsonpath,jsonb,bool)", _body, defaults=("{}", False))
    define(f"jsonb_path_{_name}_tz(jsonb,jsonpath,jsonb,bool)", _in_zone(_body), context=True, defaults=("{}", False))
define("jsonb_path_exists_opr(jsonb,jsonpath)", lambda text, path: path_exists(text, path, "{}", True))
define("jsonb_path_match_opr(jsonb,jsonpath)", lambda text, path: path_match(text, path, "{}", True))
