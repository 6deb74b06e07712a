"""What Postgres says of the objects that are built in: descriptions of functions, operators, types and the like.

``descriptions.txt`` has a line ``class oid text`` for each of Postgres 15 that is here too, in its words (see NOTICE); it is read
when somebody first asks (psql's ``\\df+``, ``\\do``, ``\\da``, ``\\dT+``)::

    built_in_descriptions()[(1255, 1317)]      length     (pg_proc, text's length)

Source: PostgreSQL 15, catalog pg_description.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import cache

from pydistdb.sql.catalog.state import PG_CATALOG_OID, PG_TOAST_OID
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.pg_catalog import extensions
from pydistdb.sql.pg_catalog.define import read_lines
from pydistdb.sql.pg_catalog.operators import LANGUAGES
from pydistdb.sql.pg_catalog.procedures import built_in_oids
from pydistdb.sql.pg_catalog.type_facts import METHOD_OIDS, TYPE_FACTS
from pydistdb.sql.types.reg import COLLATIONS

_OF_EXTENSIONS = {
    (extensions.PG_EXTENSION_OID, extensions.EXTENSION_OID): extensions.COMMENT,
    (extensions.PG_EXTENSION_OID, extensions.STATEMENTS_OID): extensions.STATEMENTS_COMMENT,
}


@cache
def built_in_descriptions() -> Mapping[tuple[int, int], str]:
    """By the oid of the system table and the object's."""
    present: dict[str, Container[int]] = {
        "1247": TYPE_FACTS,
        "1255": built_in_oids(),
        "2601": METHOD_OIDS.values(),
        "2612": LANGUAGES.values(),
        "2615": (PG_CATALOG_OID, PG_TOAST_OID),
        "2617": {operator.oid for operator in functions.all_operators()},
        "3456": COLLATIONS.values(),
    }
    found = dict(_OF_EXTENSIONS)
    for class_oid, oid, text in read_lines("descriptions.txt"):
        if int(oid) in present[class_oid]:
            found[int(class_oid), int(oid)] = text
    return found


@cache
def _by_oid() -> Mapping[int, list[tuple[int, str]]]:
    found: dict[int, list[tuple[int, str]]] = {}
    for (class_oid, oid), text in built_in_descriptions().items():
        found.setdefault(oid, []).append((class_oid, text))
    return found


def descriptions_of(oid: int) -> Sequence[tuple[int, str]]:
    """What is said of the objects that have this oid, with the oids of their system tables."""
    return _by_oid().get(oid, ())
