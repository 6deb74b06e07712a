"""pg_type, pg_proc, pg_operator, pg_aggregate, pg_cast, pg_opclass, pg_opfamily, pg_am, pg_language, pg_collation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydistdb.sql.catalog.access import PG_PROC, PG_TYPE
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.state import INFORMATION_SCHEMA_OID, OPERATIONS_SCHEMA_OID, PG_CATALOG_OID
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.pg_catalog.acl_columns import with_acls
from pydistdb.sql.pg_catalog.defaults import domain_default
from pydistdb.sql.pg_catalog.define import RowDict, read_lines, rows_of, static_rows
from pydistdb.sql.pg_catalog.objects import OWNER_OID, array, single, vector
from pydistdb.sql.pg_catalog.routines import routine_row, routine_rows
from pydistdb.sql.pg_catalog.type_facts import (
    ARRAY_OF_ROW_TYPE,
    IO_FUNCTIONS,
    OPERATOR_CLASSES,
    ROW_TYPE,
    TYPE_FACTS,
    TypeFacts,
)
from pydistdb.sql.types import domains
from pydistdb.sql.types.base import AggregateFunction, EvalContext, Function, SqlType
from pydistdb.sql.types.reg import COLLATIONS
from pydistdb.sql.types.user import RANK_GAP, TypeEntry

INTERNAL_LANGUAGE_OID = 12
METHOD_OIDS = {"heap": 2, "btree": 403, "hash": 405}

# ---------------------------------------------------------------------------------------------------- pg_type


def _type(facts: TypeFacts, **more: Any) -> RowDict:
    return {
        "oid": facts.oid,
        "typname": facts.name,
        "typnamespace": PG_CATALOG_OID,
        "typowner": OWNER_OID,
        "typlen": facts.length,
        "typbyval": facts.by_value,
        "typtype": facts.kind,
        "typcategory": facts.category,
        "typispreferred": facts.preferred,
        "typisdefined": True,
        "typdelim": facts.delimiter,
        "typrelid": 0,
        "typsubscript": facts.subscript,
        "typelem": facts.element,
        "typarray": facts.array,
        "typinput": facts.input,
        "typoutput": facts.output,
        "typreceive": facts.receive,
        "typsend": facts.send,
        "typmodin": facts.modifier_in,
        "typmodout": facts.modifier_out,
        "typanalyze": facts.analyze,
        "typalign": facts.alignment,
        "typstorage": facts.storage,
        "typnotnull": False,
        "typbasetype": 0,
        "typtypmod": -1,
        "typndims": 0,
        "typcollation": facts.collation,
        **more,
    }


_BUILT_IN = {facts.oid: _type(facts) for facts in TYPE_FACTS.values()}
_BUILT_IN_BY_NAME = {row["typname"]: row for row in _BUILT_IN.values()}


def _row_types(table: Table) -> Iterator[RowDict]:
    """A table's row type and the array of it."""
    if table.row_type_oid:
        yield _type(
            ROW_TYPE,
            oid=table.row_type_oid,
            typname=table.name,
            typnamespace=table.schema,
            typowner=table.owner,
            typrelid=table.oid,
            typarray=table.row_type_oid + 1,
        )
        yield _type(
            ARRAY_OF_ROW_TYPE,
            oid=table.row_type_oid + 1,
            typname="_" + table.name,
            typnamespace=table.schema,
            typowner=table.owner,
            typelem=table.row_type_oid,
        )


_ENUM = TypeFacts(0, "", 4, True, "e", "E", False, ",", 0, 0, 0, 3506, 3507, 3532, 3533, 0, 0, 0, "i", "p", 0)


def _user_type(view: StateView, entry: TypeEntry) -> Iterator[RowDict]:
    """A user's type and the array of it."""
    definition = entry.definition
    owned = {"typnamespace": definition.schema, "typowner": definition.owner}
    more: RowDict = {}
    facts = _ENUM
    if definition.kind == "d":
        facts = _facts_of_base(view, definition.base_oid)._replace(
            kind="d", preferred=False, modifier_in=0, modifier_out=0
        )
        facts = facts._replace(input=2597, receive=2598, subscript=0, element=0)
        more = {
            "typnotnull": definition.not_null,
            "typbasetype": definition.base_oid,
            "typtypmod": definition.base_modifier,
            "typdefault": domain_default(view, EvalContext(), definition),
            "typdefaultbin": domain_default(view, EvalContext(), definition),
        }
    elif definition.kind == "c":
        facts = ROW_TYPE
        more = {"typrelid": definition.relation}
    yield _type(facts, oid=definition.oid, typname=definition.name, typarray=definition.array_oid, **owned | more)
    array = {"oid": definition.array_oid, "typname": entry.array.name, "typelem": definition.oid}
    yield _type(ARRAY_OF_ROW_TYPE, typalign=facts.alignment, **array, **owned)


def _facts_of_base(view: StateView, oid: int) -> TypeFacts:
    """What a domain over this type takes over from it."""
    oid = domains.base_oid(oid)
    entry = view.type_entry(oid)
    if entry is not None:
        return _ENUM if entry.definition.kind == "e" else ROW_TYPE
    return TYPE_FACTS.get(oid, ARRAY_OF_ROW_TYPE)


def _all_row_types(view: StateView) -> Iterator[RowDict]:
    for table in view.tables():
        yield from _row_types(table)
    for entry in view.state.types.values():
        yield from _user_type(view, entry)


def _type_by(column: str, index: dict[Any, RowDict]) -> Any:
    def lookup(view: StateView, context: EvalContext, value: Any) -> Iterator[RowDict]:
        found = [index[value]] if value in index else []
        found += (row for row in _all_row_types(view) if row[column] == value)
        return with_acls(view, PG_TYPE, "typacl", found)

    return lookup


@rows_of("pg_type", lookups={"oid": _type_by("oid", _BUILT_IN), "typname": _type_by("typname", _BUILT_IN_BY_NAME)})
def pg_type(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    yield from with_acls(view, PG_TYPE, "typacl", _BUILT_IN.values())
    yield from with_acls(view, PG_TYPE, "typacl", _all_row_types(view))


def _enum_labels(view: StateView, entries: Iterable[TypeEntry]) -> Iterator[RowDict]:
    for entry in entries:
        for label in entry.definition.labels:
            yield {
                "oid": label.oid,
                "enumtypid": entry.definition.oid,
                "enumsortorder": single(label.rank / RANK_GAP),
                "enumlabel": label.name,
            }


def _enum_labels_of(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    entry = view.type_entry(oid)
    return _enum_labels(view, [] if entry is None else [entry])


@rows_of("pg_enum", lookups={"enumtypid": _enum_labels_of})
def pg_enum(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    yield from _enum_labels(view, view.state.types.values())


# ---------------------------------------------------------------------------------------------------- pg_proc


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
        for row in _procedures_by_oid.values():
            _procedures_by_name.setdefault(row["proname"], []).append(row)
    return _procedures_by_oid


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


# ---------------------------------------------------------------------------------------------------- operators, casts


@rows_of("pg_operator")
def pg_operator(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for operator in functions.all_operators():
        left = operator.left.oid if operator.left is not None else 0
        yield {
            "oid": operator.oid,
            "oprname": operator.name,
            "oprnamespace": PG_CATALOG_OID,
            "oprowner": OWNER_OID,
            "oprkind": "b" if left else "l",
            "oprcanmerge": operator.name == "=",
            "oprcanhash": operator.name == "=",
            "oprleft": left,
            "oprright": operator.right.oid,
            "oprresult": operator.function.return_type.oid,
            "oprcom": _operator_oid(operator.commutator, operator.right.oid, left),
            "oprnegate": _operator_oid(operator.negator, left, operator.right.oid),
            "oprcode": operator.function.oid,
            "oprrest": 0,
            "oprjoin": 0,
        }


def _operator_oid(name: str | None, left: int, right: int) -> int:
    operator = functions.operator_for(name, left, right) if name else None
    return operator.oid if operator is not None else 0


@rows_of("pg_cast")
def pg_cast(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for number, cast in enumerate(functions.all_casts(), 10_000):
        yield {
            "oid": number,
            "castsource": cast.source.oid,
            "casttarget": cast.target.oid,
            "castfunc": cast.function.oid if cast.function is not None else 0,
            "castcontext": cast.context,
            "castmethod": "f" if cast.function is not None else "b",
        }


static_rows(
    "pg_opclass",
    [
        {
            "oid": entry.oid,
            "opcmethod": METHOD_OIDS[entry.method],
            "opcname": entry.name,
            "opcnamespace": PG_CATALOG_OID,
            "opcowner": OWNER_OID,
            "opcfamily": entry.family,
            "opcintype": entry.input_type,
            "opcdefault": entry.default,
            "opckeytype": entry.key_type,
        }
        for entry in OPERATOR_CLASSES
    ],
    by=("oid",),
)
static_rows(
    "pg_opfamily",
    [
        {
            "oid": int(oid),
            "opfmethod": METHOD_OIDS[method],
            "opfname": name,
            "opfnamespace": PG_CATALOG_OID,
            "opfowner": OWNER_OID,
        }
        for oid, method, name in read_lines("operator_families.txt")
    ],
    by=("oid",),
)
static_rows(
    "pg_am",
    [
        {"oid": oid, "amname": name, "amhandler": 0, "amtype": "t" if name == "heap" else "i"}
        for name, oid in METHOD_OIDS.items()
    ],
    by=("oid", "amname"),
)
static_rows(
    "pg_language",
    [
        {
            "oid": oid,
            "lanname": name,
            "lanowner": OWNER_OID,
            "lanispl": False,
            "lanpltrusted": name == "sql",
            "lanplcallfoid": 0,
            "laninline": 0,
            "lanvalidator": 0,
        }
        for oid, name in ((12, "internal"), (13, "c"), (14, "sql"))
    ],
    by=("oid",),
)
static_rows(
    "pg_collation",
    [
        {
            "oid": oid,
            "collname": name,
            "collnamespace": PG_CATALOG_OID,
            "collowner": OWNER_OID,
            "collprovider": "d" if name == "default" else "c",
            "collisdeterministic": True,
            "collencoding": 6 if name == "ucs_basic" else -1,
            "collcollate": {"default": None, "ucs_basic": "C"}.get(name, name),
            "collctype": {"default": None, "ucs_basic": "C"}.get(name, name),
        }
        for name, oid in COLLATIONS.items()
    ],
    by=("oid",),
)
