"""pg_operator, pg_cast, pg_opclass, pg_opfamily, pg_am, pg_language, pg_collation: what nobody can change here.

Operators and casts are those that the functions' registry knows, so the tables tell what the database can do.  Operator
classes and families come from the package's data files, for tools that look up which one an index uses.

Source: PostgreSQL 15 manual, chapter 53.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydistdb.sql.catalog.state import PG_CATALOG_OID
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.pg_catalog.define import RowDict, read_lines, rows_of, static_rows
from pydistdb.sql.pg_catalog.objects import OWNER_OID
from pydistdb.sql.pg_catalog.type_facts import METHOD_OIDS, OPERATOR_CLASSES
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.reg import COLLATIONS

LANGUAGES = {"internal": 12, "c": 13, "sql": 14}


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
        listed = cast.function is not None and functions.function_by_oid(cast.function.oid) is not None
        yield {
            "oid": number,
            "castsource": cast.source.oid,
            "casttarget": cast.target.oid,
            "castfunc": cast.function.oid if listed and cast.function is not None else 0,
            "castcontext": cast.context,
            "castmethod": "f" if listed else "b",
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
        for name, oid in LANGUAGES.items()
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
