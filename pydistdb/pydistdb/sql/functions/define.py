"""How a function gets from a Python body to a row of pg_proc.

Postgres's facts about its own functions (oid, types, strictness, volatility …) are kept as data in ``pg_proc.txt``,
``pg_operator.txt`` and ``pg_cast.txt``; a module of this package names a signature and gives the body::

    @implements("int4pl(int4,int4)")
    def int4_add(left: int, right: int) -> int: ...

    define("int4lt(int4,int4)", operator.lt, inline="({0} < {1})")

A signature without a row there is our mistake and stops the import.  Operators and casts come by themselves: each is
there as soon as its function is.

Polymorphic functions whose body depends on the actual types give ``specialize``, a maker of bodies: it gets the actual
argument types and the result type and returns the body.

Source: PostgreSQL 15, catalogs pg_proc, pg_operator, pg_cast, pg_aggregate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

from pydistdb.sql.errors import InternalError
from pydistdb.sql.types.base import AggregateFunction, Function, SqlType
from pydistdb.sql.types.known import TYPES_BY_NAME

AnyFunction = Function | AggregateFunction
Body = Callable[..., Any]
BodyMaker = Callable[[tuple[SqlType, ...], SqlType], Body]
_B = TypeVar("_B", bound=Body)

OPERATIONS_SCHEMA = "proddb"
"""Of the operators' functions, which are PyDistDB's own."""

FUNCTIONS_BY_NAME: dict[str, list[AnyFunction]] = {}
FUNCTIONS_BY_OID: dict[int, AnyFunction] = {}


class Facts(NamedTuple):
    """A row of pg_proc (with what pg_aggregate adds to it)."""

    oid: int
    name: str
    argument_types: tuple[SqlType, ...]
    return_type: SqlType
    kind: str
    """f function, a aggregate, w window function."""
    strict: bool
    volatility: str
    returns_set: bool
    variadic: bool
    default_count: int
    out_columns: tuple[tuple[str, SqlType], ...]
    aggregate: str
    """For aggregates: n normal, o ordered-set, h hypothetical-set, and the number of direct arguments."""
    argument_names: tuple[str, ...]


def read_table(name: str) -> list[list[str]]:
    """Read one of the data files: a row per line, columns between tabs."""
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()]


_ROWS: dict[str, list[str]] = {row[1]: row for row in read_table("pg_proc.txt")}


@lru_cache(maxsize=1)
def names_in_postgres() -> frozenset[str]:
    return frozenset(signature.partition("(")[0] for signature in _ROWS)


def types_named(names: str) -> tuple[SqlType, ...]:
    return tuple([TYPES_BY_NAME[name] for name in names.split(",")]) if names else ()


def facts(signature: str) -> Facts:
    """Look up Postgres's function of this signature, ``name(type,type)`` with catalog type names."""
    row = _ROWS[signature]
    name, _, arguments = signature[:-1].partition("(")
    columns = []
    for column in row[9].split(",") if row[9] else ():
        column_name, _, type_name = column.partition(" ")
        columns.append((column_name, TYPES_BY_NAME[type_name]))
    return Facts(
        oid=int(row[0]),
        name=name,
        argument_types=types_named(arguments),
        return_type=TYPES_BY_NAME[row[2]],
        kind=row[3],
        strict=row[4] == "s",
        volatility=row[5],
        returns_set=row[6] == "r",
        variadic=row[7] == "v",
        default_count=int(row[8]),
        out_columns=tuple(columns),
        aggregate=row[10],
        argument_names=tuple(row[11].split(",")) if row[11] else (),
    )


def add(function: AnyFunction) -> None:
    """Enter a function; two of one oid are a mistake.

    Those of other schemas than pg_catalog are found by their qualified names alone."""
    assert function.oid not in FUNCTIONS_BY_OID, f"{function.name} has the oid of another function: {function.oid}"
    FUNCTIONS_BY_OID[function.oid] = function
    schema = getattr(function, "schema", "pg_catalog")
    name = function.name if schema != OPERATIONS_SCHEMA else f"{schema}.{function.name}"
    FUNCTIONS_BY_NAME.setdefault(name, []).append(function)


def _must_specialize(name: str) -> Body:
    def body(*arguments: Any) -> Any:
        raise InternalError(f"function {name} was called before its types were settled")

    return body


def define(
    signature: str,
    body: Body | None = None,
    *,
    context: bool = False,
    inline: str | None = None,
    specialize: BodyMaker | None = None,
    defaults: Sequence[Any] = (),
) -> Function:
    """Enter Postgres's function of this signature with a Python body (or a maker of bodies)."""
    fact = facts(signature)
    assert fact.default_count == len(defaults), signature
    specialize_function: Callable[[tuple[SqlType, ...], SqlType], Function] | None = None
    if specialize is not None:
        make = specialize

        def specialize_function(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Function:
            return replace(
                generic,
                argument_types=argument_types,
                return_type=return_type,
                implementation=make(argument_types, return_type),
                specialize=None,
            )

    generic = Function(
        oid=fact.oid,
        name=fact.name,
        argument_types=fact.argument_types,
        return_type=fact.return_type,
        implementation=body or _must_specialize(fact.name),
        strict=fact.strict,
        volatility=fact.volatility,
        variadic=fact.variadic,
        returns_set=fact.returns_set,
        out_columns=fact.out_columns,
        needs_context=context,
        inline=inline,
        default_count=fact.default_count,
        argument_names=fact.argument_names,
        default_values=tuple(defaults),
        window=fact.kind == "w",
        specialize=specialize_function,
    )
    add(generic)
    return generic


def implements(*signatures: str, context: bool = False, inline: str | None = None) -> Callable[[_B], _B]:
    """Decorate the body of one or several of Postgres's functions."""

    def decorate(body: _B) -> _B:
        for signature in signatures:
            define(signature, body, context=context, inline=inline)
        return body

    return decorate


def specializes(*signatures: str, context: bool = False) -> Callable[[BodyMaker], BodyMaker]:
    """Decorate the maker of bodies of one or several polymorphic functions."""

    def decorate(make: BodyMaker) -> BodyMaker:
        for signature in signatures:
            define(signature, specialize=make, context=context)
        return make

    return decorate


class AggregateBody(NamedTuple):
    """What an aggregate does: see AggregateFunction for the parts."""

    initial: Callable[[], Any]
    accumulate: Callable[..., Any]
    finish: Callable[..., Any]
    combine: Callable[[Any, Any], Any] | None = None
    batch: Callable[[list[Any]], Any] | None = None
    strict: bool = True
    needs_context: bool = False


AggregateMaker = Callable[[tuple[SqlType, ...], SqlType], AggregateBody]


def define_aggregate(
    signature: str, body: AggregateBody | None = None, *, specialize: AggregateMaker | None = None
) -> AggregateFunction:
    """Enter Postgres's aggregate of this signature with its parts, or with a maker of them."""
    fact = facts(signature)
    specialize_function: Callable[[tuple[SqlType, ...], SqlType], AggregateFunction] | None = None
    if specialize is not None:
        make = specialize

        def specialize_function(argument_types: tuple[SqlType, ...], return_type: SqlType) -> AggregateFunction:
            return _aggregate(fact, make(argument_types, return_type), argument_types, return_type)

    if body is None:
        missing = _must_specialize(fact.name)
        body = AggregateBody(missing, missing, missing)
    function = replace(
        _aggregate(fact, body, fact.argument_types, fact.return_type),
        specialize=specialize_function,
    )
    add(function)
    return function


def _aggregate(
    fact: Facts, body: AggregateBody, argument_types: tuple[SqlType, ...], return_type: SqlType
) -> AggregateFunction:
    return AggregateFunction(
        oid=fact.oid,
        name=fact.name,
        argument_types=argument_types,
        return_type=return_type,
        initial=body.initial,
        accumulate=body.accumulate,
        finish=body.finish,
        combine=body.combine,
        strict=body.strict,
        batch=body.batch,
        variadic=fact.variadic,
        ordered_set=fact.aggregate[:1] in ("o", "h"),
        direct_count=int(fact.aggregate[1:] or 0),
        hypothetical=fact.aggregate[:1] == "h",
        needs_context=body.needs_context,
    )
