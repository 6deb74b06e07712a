r"""pg_proc and pg_aggregate: every function, aggregate and procedure, built in or made by a user.

The rows of built-in functions are made once, when somebody first asks, and kept by oid and by name; routines of users come
from the catalog at hand (routines.py).  ``function_sources.txt`` has the names that Postgres's C functions have where these
are not those of SQL, which \df+ shows.  The functions with which types are read and written are listed too, though nobody
can call them here, because drivers look them up by oid.

    SELECT prorettype::regtype FROM pg_proc WHERE proname = 'lower'        text: one look-up by name, no scan

Source: PostgreSQL 15 manual, chapter 53.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from pydistdb.sql.catalog.access import PG_PROC
from pydistdb.sql.catalog.state import INFORMATION_SCHEMA_OID, OPERATIONS_SCHEMA_OID, PG_CATALOG_OID
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.pg_catalog.acl_columns import with_acls
from pydistdb.sql.pg_catalog.define import RowDict, read_lines, rows_of
from pydistdb.sql.pg_catalog.objects import OWNER_OID, array, vector
from pydistdb.sql.pg_catalog.routines import routine_row, routine_rows
from pydistdb.sql.pg_catalog.type_facts import IO_FUNCTIONS
from pydistdb.sql.types.base import AggregateFunction, EvalContext, Function, SqlType

INTERNAL_LANGUAGE_OID = 12


def _procedure(oid: int, name: str, returns: int, arguments: list[int], **more: Any) -> RowDict:
    return {
        "oid": oid,
        "proname": name,
        "pronamespace": PG_CATALOG_OID,
        "proowner": OWNER_OID,
        "prolang": INTERNAL_LANGUAGE_OID,
        "procost": 1.0,
        "prorows": 0.0,
        "provariadic": 0,
        "prosupport": 0,
        "prokind": "f",
        "prosecdef": False,
        "proleakproof": False,
        "proisstrict": True,
        "proretset": False,
        "provolatile": "i",
        "proparallel": "s",
        "pronargs": len(arguments),
        "pronargdefaults": 0,
        "prorettype": returns,
        "proargtypes": vector(arguments),
        "prosrc": name,
        **more,
    }


def _function(function: Function | AggregateFunction) -> RowDict:
    arguments = [sql_type.oid for sql_type in function.argument_types]
    more: dict[str, Any] = {}
    if isinstance(function, AggregateFunction):
        more = {"prokind": "a", "proisstrict": False, "prosrc": "aggregate_dummy"}
    else:
        more = {
            "prokind": "w" if function.window else "f",
            "proisstrict": function.strict,
            "proretset": function.returns_set,
            "prorows": 1000.0 if function.returns_set else 0.0,
            "provolatile": function.volatility,
            "pronargdefaults": function.default_count,
        }
        if function.out_columns:
            more |= _out_arguments(arguments, function.out_columns)
    schema = getattr(function, "schema", "pg_catalog")
    if schema != "pg_catalog":
        more["pronamespace"] = OPERATIONS_SCHEMA_OID if schema == "proddb" else INFORMATION_SCHEMA_OID
    if function.variadic:
        more |= _variadic(function.argument_types)
    return _procedure(function.oid, function.name, function.return_type.oid, arguments, **more)


def _out_arguments(arguments: list[int], columns: tuple[tuple[str, SqlType], ...]) -> dict[str, Any]:
    return {
        "proallargtypes": array([*arguments, *(sql_type.oid for _, sql_type in columns)]),
        "proargmodes": array([*("i" * len(arguments)), *("o" * len(columns))]),
        "proargnames": array([*([""] * len(arguments)), *(name for name, _ in columns)]),
    }


def _variadic(arguments: tuple[SqlType, ...]) -> dict[str, Any]:
    last = arguments[-1]
    oids = [sql_type.oid for sql_type in arguments]
    return {
        "provariadic": last.element_oid or last.oid,
        "proallargtypes": array(oids),
        "proargmodes": array([*("i" * (len(oids) - 1)), "v"]),
    }


_procedures_by_oid: dict[int, RowDict] = {}
_procedures_by_name: dict[str, list[RowDict]] = {}


def _procedures() -> dict[int, RowDict]:
    if not _procedures_by_oid:
        for each in IO_FUNCTIONS.values():
            _procedures_by_oid[each.oid] = _procedure(each.oid, each.name, each.return_type, list(each.argument_types))
        for function in functions.all_functions():
            _procedures_by_oid[function.oid] = _function(function)
        for oid, source in read_lines("function_sources.txt"):
            row = _procedures_by_oid.get(int(oid))
            if row is not None:
                row["prosrc"] = source
        for row in _procedures_by_oid.values():
            _procedures_by_name.setdefault(row["proname"], []).append(row)
    return _procedures_by_oid


def built_in_oids() -> Collection[int]:
    return _procedures().keys()


def is_built_in(oid: int) -> bool:
    """Tell whether the system has a function of this oid, input and output functions included."""
    return oid in _procedures()


def _procedure_by_oid(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    row = _procedures().get(oid)
    routine = view.routine_by_oid(oid)
    if row is None and routine is not None:
        row = routine_row(routine)
    return with_acls(view, PG_PROC, "proacl", [] if row is None else [row])


def _procedure_by_name(view: StateView, context: EvalContext, name: Any) -> Iterator[RowDict]:
    _procedures()
    found = list(_procedures_by_name.get(name, ()))
    found += (routine_row(routine) for routine in view.state.routines.values() if routine.name == name)
    return with_acls(view, PG_PROC, "proacl", found)


@rows_of("pg_proc", lookups={"oid": _procedure_by_oid, "proname": _procedure_by_name})
def pg_proc(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    yield from with_acls(view, PG_PROC, "proacl", _procedures().values())
    yield from with_acls(view, PG_PROC, "proacl", routine_rows(view))


_NO_TRANSITION = dict.fromkeys(
    (
        "aggtransfn",
        "aggfinalfn",
        "aggcombinefn",
        "aggserialfn",
        "aggdeserialfn",
        "aggmtransfn",
        "aggminvtransfn",
        "aggmfinalfn",
        "aggsortop",
        "aggtranstype",
        "aggtransspace",
        "aggmtranstype",
        "aggmtransspace",
    ),
    0,
)


@rows_of("pg_aggregate")
def pg_aggregate(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    """What is known of an aggregate; its transition functions have no oids here."""
    for function in functions.all_functions():
        if isinstance(function, AggregateFunction):
            yield {
                **_NO_TRANSITION,
                "aggfnoid": function.oid,
                "aggkind": "o" if function.ordered_set else "n",
                "aggnumdirectargs": function.direct_count,
                "aggfinalextra": False,
                "aggmfinalextra": False,
                "aggfinalmodify": "r",
                "aggmfinalmodify": "r",
            }
