"""Facts about types, operator classes and I/O functions that clients ask for and nothing else here needs."""

from __future__ import annotations

from typing import NamedTuple

from pydistdb.sql.pg_catalog.define import read_lines
from pydistdb.sql.types import domains
from pydistdb.sql.types.known import TYPES_BY_OID


class TypeFacts(NamedTuple):
    """A row of pg_type: oids of functions are 0 where a type has none."""

    oid: int
    name: str
    length: int
    by_value: bool
    kind: str
    category: str
    preferred: bool
    delimiter: str
    subscript: int
    element: int
    array: int
    input: int
    output: int
    receive: int
    send: int
    modifier_in: int
    modifier_out: int
    analyze: int
    alignment: str
    storage: str
    collation: int


def _facts(line: list[str]) -> TypeFacts:
    numbers = {0, 2, *range(8, 18), 20}
    flags = {3, 6}
    values = [
        int(text) if position in numbers else text == "t" if position in flags else text
        for position, text in enumerate(line)
    ]
    return TypeFacts(*values)  # type: ignore[arg-type]


TYPE_FACTS: dict[int, TypeFacts] = {facts.oid: facts for facts in map(_facts, read_lines("types.txt"))}

ROW_TYPE = TypeFacts(0, "", -1, False, "c", "C", False, ",", 0, 0, 0, 2290, 2291, 2402, 2403, 0, 0, 0, "d", "x", 0)
"""What the row types of tables have in common (record_in and so on)."""
ARRAY_OF_ROW_TYPE = TypeFacts(
    0, "", -1, False, "b", "A", False, ",", 6179, 0, 0, 750, 751, 2400, 2401, 0, 0, 3816, "d", "x", 0
)
ENUM = TypeFacts(0, "", 4, True, "e", "E", False, ",", 0, 0, 0, 3506, 3507, 3532, 3533, 0, 0, 0, "i", "p", 0)


def facts_of_type(oid: int) -> TypeFacts:
    """How values of a type are kept in Postgres, of users' types too; a domain takes that over from its base."""
    oid = domains.base_oid(oid)
    facts = TYPE_FACTS.get(oid)
    if facts is not None:
        return facts
    sql_type = TYPES_BY_OID.get(oid)
    category = "A" if sql_type is None else sql_type.category
    return ENUM if category == "E" else ROW_TYPE if category == "C" else ARRAY_OF_ROW_TYPE


class OperatorClass(NamedTuple):
    oid: int
    method: str
    name: str
    family: int
    input_type: int
    default: bool
    key_type: int


OPERATOR_CLASSES: tuple[OperatorClass, ...] = tuple(
    OperatorClass(int(oid), method, name, int(family), int(input_type), default == "t", int(key_type))
    for oid, method, name, family, input_type, default, key_type in read_lines("operator_classes.txt")
)
METHOD_OIDS = {"heap": 2, "btree": 403, "hash": 405, "gin": 2742}
_DEFAULT_CLASSES = {(entry.method, entry.input_type): entry.oid for entry in OPERATOR_CLASSES if entry.default}
_VARCHAR_OID, _TEXT_OID, _ANYARRAY_OID = 1043, 25, 2277
ANYELEMENT_OID = 2283


def operator_class(type_oid: int, method: str = "btree") -> int:
    """The oid of a type's default operator class; 0 if it has none."""
    if type_oid == _VARCHAR_OID:
        type_oid = _TEXT_OID
    sql_type = TYPES_BY_OID.get(type_oid)
    if sql_type is not None and sql_type.is_array and (method, type_oid) not in _DEFAULT_CLASSES:
        type_oid = _ANYARRAY_OID
    return _DEFAULT_CLASSES.get((method, type_oid), 0)


def is_default_class(name: str, method: str = "btree") -> bool:
    """Whether an operator class is its type's default."""
    name = name.removeprefix("pg_catalog.")
    return any(entry.name == name and entry.method == method and entry.default for entry in OPERATOR_CLASSES)


def operator_class_named(name: str, method: str = "btree") -> int:
    """The oid of an operator class; 0 if there is none of that name."""
    name = name.removeprefix("pg_catalog.")
    return next((entry.oid for entry in OPERATOR_CLASSES if entry.name == name and entry.method == method), 0)


def key_type(class_name: str, type_oid: int) -> int:
    """The type of what a gin index keeps for a column of a type: its tokens'; for arrays that of their elements."""
    name = class_name.removeprefix("pg_catalog.")
    wanted = operator_class_named(name, "gin") if name else operator_class(type_oid, "gin")
    found = next((entry.key_type for entry in OPERATOR_CLASSES if entry.oid == wanted), 0)
    if found == ANYELEMENT_OID:
        return TYPES_BY_OID[type_oid].element_oid
    return found or type_oid


class IoFunction(NamedTuple):
    """A type's input or output function: listed in pg_proc, since drivers look there."""

    oid: int
    name: str
    return_type: int
    argument_types: tuple[int, ...]


IO_FUNCTIONS: dict[int, IoFunction] = {
    int(oid): IoFunction(int(oid), name, int(return_type), tuple(map(int, arguments.split())))
    for oid, name, return_type, arguments in read_lines("io_functions.txt")
}
