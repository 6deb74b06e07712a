"""has_table_privilege and its kin, pg_has_role, and functions over aclitems.

Every has_…_privilege comes in six forms: for the current user or for another (by name or oid; "public" is everybody), about an
object by name or by oid.  A name that names nothing is an error, an oid that does is NULL.  Several privileges, with commas
between them, ask whether there is any of them.

Source: PostgreSQL 15 manual, 9.26 (tables 9.69 to 9.71); acl.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydistdb.sql.catalog import acl as acls
from pydistdb.sql.catalog.access import (
    PG_CLASS,
    PG_DATABASE,
    PG_LANGUAGE,
    PG_NAMESPACE,
    PG_PROC,
    PG_TABLESPACE,
    PG_TYPE,
)
from pydistdb.sql.catalog.acl import AclItem
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import (
    DatabaseError,
    InvalidCatalogName,
    InvalidParameterValue,
    InvalidSchemaName,
    UndefinedColumn,
    UndefinedFunction,
    UndefinedObject,
    WrongObjectType,
)
from pydistdb.sql.pg_catalog.functions_access import relation_oid
from pydistdb.sql.pg_catalog.procedures import is_built_in
from pydistdb.sql.pg_catalog.provide import provides, view_of
from pydistdb.sql.types import reg
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.known import TYPES_BY_OID

_LANGUAGES = {"internal": 12, "c": 13, "sql": 14}
_TABLESPACES = {"pg_default": 1663, "pg_global": 1664}
_OPTION_SUFFIX = "WITH GRANT OPTION"


def _wanted(kind: str, privileges: str) -> int:
    """The bits that a list of privileges stands for."""
    rights = acls.RIGHTS[kind]
    bits = 0
    for part in privileges.split(","):
        word = " ".join(part.split()).upper()
        plain = word.removesuffix(_OPTION_SUFFIX).strip()
        if kind == "table" and plain == "RULE":  # there was such a privilege once
            continue
        bit = acls.WORDS.get(plain, 0) & rights
        if not bit:
            raise InvalidParameterValue(f'unrecognized privilege type: "{part.strip()}"')
        bits |= acls.with_options(bit) if word != plain else bit
    return bits


def _role(view: StateView, role: Any) -> int:
    """A role by name or oid; PUBLIC is everybody."""
    if not isinstance(role, str):
        return int(role)
    if role == "public":
        return acls.PUBLIC
    found = view.catalog_state.roles.by_name.get(role)
    if found is None:
        raise UndefinedObject(f'role "{role}" does not exist')
    return found.oid


# ---------------------------------------------------------------------------------------------------- finding objects


def _sequence(context: EvalContext, target: Any) -> int | None:
    oid = relation_oid(context, target)
    table = view_of(context).table_by_oid(oid) if oid is not None else None
    if oid is not None and (table is None or table.kind != "S"):
        if isinstance(target, str):
            raise WrongObjectType(f'"{target}" is not a sequence')
        return None
    return oid


def _schema(context: EvalContext, target: Any) -> int | None:
    view = view_of(context)
    if isinstance(target, str):
        schema = view.schema_named(target)
        if schema is None:
            raise InvalidSchemaName(f'schema "{target}" does not exist')
        return schema.oid
    return int(target) if view.schema_by_oid(target) is not None else None


def _database(context: EvalContext, target: Any) -> int | None:
    state = view_of(context).catalog_state
    if isinstance(target, str):
        database = state.databases_by_name.get(target)
        if database is None:
            raise InvalidCatalogName(f'database "{target}" does not exist')
        return database.descriptor.oid
    return int(target) if target in state.databases else None


def _function(context: EvalContext, target: Any) -> int | None:
    if isinstance(target, str):
        oid = reg.find_procedure(target, context)
        if oid is None:
            raise UndefinedFunction(f'function "{target}" does not exist')
        return oid
    view = view_of(context)
    return int(target) if is_built_in(target) or view.routine_by_oid(target) is not None else None


def _type(context: EvalContext, target: Any) -> int | None:
    if isinstance(target, str):
        oid = reg.find_type(target, context)
        if oid is None:
            raise UndefinedObject(f'type "{target}" does not exist')
        return oid
    return int(target) if target in TYPES_BY_OID else None


def _from_list(kind: str, known: dict[str, int]) -> Callable[[EvalContext, Any], int | None]:
    def find(context: EvalContext, target: Any) -> int | None:
        if isinstance(target, str):
            if target not in known:
                raise UndefinedObject(f'{kind} "{target}" does not exist')
            return known[target]
        return int(target) if target in known.values() else None

    return find


def object_exists(context: EvalContext, kind: str, target: Any) -> bool | None:
    """True if the object exists; None if an oid names nothing; raises for a name that names nothing."""
    return True if _KINDS[kind][1](context, target) is not None else None


# ---------------------------------------------------------------------------------------------------- has_…_privilege

Finder = Callable[[EvalContext, Any], int | None]
_KINDS: dict[str, tuple[int, Finder]] = {
    "table": (PG_CLASS, relation_oid),
    "sequence": (PG_CLASS, _sequence),
    "schema": (PG_NAMESPACE, _schema),
    "database": (PG_DATABASE, _database),
    "function": (PG_PROC, _function),
    "type": (PG_TYPE, _type),
    "language": (PG_LANGUAGE, _from_list("language", _LANGUAGES)),
    "tablespace": (PG_TABLESPACE, _from_list("tablespace", _TABLESPACES)),
}


def _register(kind: str) -> None:
    object_class, find = _KINDS[kind]

    def ask(context: EvalContext, role: Any, target: Any, privileges: str) -> bool | None:
        view = view_of(context)
        number = _role(view, role)
        oid = find(context, target)
        wanted = _wanted(kind, privileges)
        return None if oid is None else bool(view.access.mask(number, object_class, oid, wanted))

    _provide(f"has_{kind}_privilege", ("text", "oid"), ask)


def _provide(name: str, targets: tuple[str, ...], ask: Callable[..., Any]) -> None:
    """Register the forms with and without a role."""

    def of_user(context: EvalContext, *arguments: Any) -> Any:
        return ask(context, context.role, *arguments)

    for target in targets:
        provides(f"{name}({target},text)")(of_user)
        for role in ("name", "oid"):
            provides(f"{name}({role},{target},text)")(ask)


for _kind in _KINDS:
    _register(_kind)


def _any_column(context: EvalContext, role: Any, target: Any, privileges: str) -> bool | None:
    view = view_of(context)
    number = _role(view, role)
    oid = relation_oid(context, target)
    wanted = _wanted("column", privileges)
    if oid is None:
        return None
    if view.access.mask(number, PG_CLASS, oid, wanted):
        return True
    table = view.table_by_oid(oid)
    columns = [] if table is None else [column.number for column in table.columns if not column.dropped]
    return any(view.access.column_mask(number, oid, column, wanted) for column in columns)


def _column(context: EvalContext, role: Any, target: Any, column: Any, privileges: str) -> bool | None:
    view = view_of(context)
    number = _role(view, role)
    oid = relation_oid(context, target)
    wanted = _wanted("column", privileges)
    if oid is None:
        return None
    column_number = _column_number(view, oid, column)
    if column_number is None:
        return None
    return bool(
        view.access.mask(number, PG_CLASS, oid, wanted) or view.access.column_mask(number, oid, column_number, wanted)
    )


def _column_number(view: StateView, oid: int, column: Any) -> int | None:
    """The number of a column that exists; None for a number that names none."""
    table = view.table_by_oid(oid)
    if table is None:
        virtual = view.virtual_by_oid(oid)
        columns = [] if virtual is None else [(i, name) for i, (name, _) in enumerate(virtual.columns, 1)]
        relation = "" if virtual is None else virtual.name
    else:
        columns = [(c.number, c.name) for c in table.columns if not c.dropped]
        relation = table.name
    for number, name in columns:
        if column in (number, name):
            return number
    if isinstance(column, str):
        raise UndefinedColumn(f'column "{column}" of relation "{relation}" does not exist')
    return None


_provide("has_any_column_privilege", ("text", "oid"), _any_column)
_provide("has_column_privilege", ("text,text", "text,int2", "oid,text", "oid,int2"), _column)


def _parameter(context: EvalContext, role: Any, name: str, privileges: str) -> bool:
    """There are no privileges on single parameters: superusers have them all."""
    view = view_of(context)
    for part in privileges.split(","):
        word = " ".join(part.split()).upper().removesuffix(_OPTION_SUFFIX).strip()
        if word not in ("SET", "ALTER SYSTEM"):
            raise InvalidParameterValue(f'unrecognized privilege type: "{part.strip()}"')
    return view.catalog_state.roles.is_superuser(_role(view, role))


_provide("has_parameter_privilege", ("text",), _parameter)

# ---------------------------------------------------------------------------------------------------- pg_has_role

_ROLE_WORDS = {
    "USAGE": "usage",
    "MEMBER": "member",
    **{f"{word} WITH {option} OPTION": "admin" for word in ("USAGE", "MEMBER") for option in ("GRANT", "ADMIN")},
}


def _has_role(context: EvalContext, user: Any, role: Any, privileges: str) -> bool:
    view = view_of(context)
    roles, access = view.catalog_state.roles, view.access
    member = _existing(view, user)
    other = _existing(view, role)
    result = False
    for part in privileges.split(","):
        match _ROLE_WORDS.get(" ".join(part.split()).upper()):
            case "usage":
                result |= access.has_privileges_of(member, other)
            case "member":
                result |= access.is_member_of(member, other)
            case "admin":
                result |= roles.is_admin_of(member, other)
            case _:
                raise InvalidParameterValue(f'unrecognized privilege type: "{part.strip()}"')
    return result


def _existing(view: StateView, role: Any) -> int:
    """Of a role by name it must exist; PUBLIC is none here."""
    if isinstance(role, str) and role not in view.catalog_state.roles.by_name:
        raise UndefinedObject(f'role "{role}" does not exist')
    return _role(view, role)


for _user in ("name", "oid"):
    for _other in ("name", "oid"):
        provides(f"pg_has_role({_user},{_other},text)")(_has_role)
    provides(f"pg_has_role({_user},text)")(
        lambda context, role, privileges: _has_role(context, context.role, role, privileges)
    )

# ---------------------------------------------------------------------------------------------------- aclitem

_DEFAULTS = {
    "c": "column",
    "r": "table",
    "s": "sequence",
    "d": "database",
    "f": "function",
    "l": "language",
    "n": "schema",
    "t": "tablespace",
    "T": "type",
}


def _item(context: EvalContext, text: str) -> AclItem:
    roles = view_of(context).catalog_state.roles

    def oid_of(name: str) -> int:
        role = roles.by_name.get(name)
        if role is not None:
            return role.oid
        if name.isdigit():  # of a role that is gone
            return int(name)
        raise UndefinedObject(f'role "{name}" does not exist')

    return acls.parse_item(text, oid_of)


def _text(context: EvalContext, item: AclItem) -> str:
    return acls.item_text(item, view_of(context).catalog_state.roles.name_of)


@provides("aclexplode(_aclitem)")
def aclexplode(context: EvalContext, items: PgArray) -> Iterator[tuple[int, int, str, bool]]:
    for text in items.items:
        if text is None:
            raise DatabaseError.of("22004", "ACL arrays must not contain null values")
        item = _item(context, text)
        for word in acls.words_of(item.privileges):
            yield item.grantor, item.grantee, word, bool(item.options & acls.WORDS[word])


@provides("acldefault(char,oid)")
def acldefault(context: EvalContext, letter: str, owner: int) -> PgArray:
    kind = _DEFAULTS.get(letter)
    if kind is None:
        raise DatabaseError.of("XX000", f"unrecognized object type abbreviation: {letter}")
    return PgArray.of([_text(context, item) for item in acls.default_acl(kind, owner)])


@provides("makeaclitem(oid,oid,text,bool)")
def makeaclitem(context: EvalContext, grantee: int, grantor: int, privileges: str, grantable: bool) -> str:
    bits = acls.WORDS.get(privileges.strip().upper(), 0)
    if not bits:
        raise InvalidParameterValue(f'unrecognized privilege type: "{privileges}"')
    return _text(context, AclItem(grantee, grantor, bits, bits if grantable else 0))


@provides("aclcontains(_aclitem,aclitem)")
def aclcontains(context: EvalContext, items: PgArray, wanted: str) -> bool:
    sought = _item(context, wanted)
    for text in items.items:
        item = _item(context, text)
        same = (item.grantee, item.grantor) == (sought.grantee, sought.grantor)
        if same and item.bits & sought.bits == sought.bits:
            return True
    return False
