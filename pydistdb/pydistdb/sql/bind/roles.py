"""Statements about roles and privileges: the parser's nodes to the dataclasses of ``sql/role_statements.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydistdb.sql import role_statements as roles
from pydistdb.sql.bind.naming import constant_value, name_of, name_of_parts, strings
from pydistdb.sql.bind.options import setting_text
from pydistdb.sql.bind.parse import Node, ParsedStatement, object_kind
from pydistdb.sql.bind.typenames import resolve_type
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidSyntax
from pydistdb.sql.role_statements import GrantTarget, OptionValue
from pydistdb.sql.statements import Name, RoleSpec, Unsupported, Utility

_SPECS = {
    "ROLESPEC_CURRENT_USER": "current",
    "ROLESPEC_CURRENT_ROLE": "current",
    "ROLESPEC_SESSION_USER": "session",
    "ROLESPEC_PUBLIC": "public",
}
_SCOPES = {"ACL_TARGET_OBJECT": "objects", "ACL_TARGET_ALL_IN_SCHEMA": "schemas", "ACL_TARGET_DEFAULTS": "defaults"}


def role_spec(node: Node) -> RoleSpec:
    """A bare RoleSpec node."""
    kind = _SPECS.get(node["roletype"])
    return RoleSpec("name", node["rolename"]) if kind is None else RoleSpec(kind)


def _specs(nodes: Sequence[Node]) -> tuple[RoleSpec, ...]:
    return tuple(role_spec(node["RoleSpec"]) for node in nodes)


def _options(parsed: ParsedStatement, node: Node) -> tuple[tuple[str, OptionValue], ...]:
    options: dict[str, OptionValue] = {}
    for wrapper in node.get("options", []):
        element = wrapper["DefElem"]
        argument = element.get("arg")
        value: OptionValue = None
        if argument is not None and "List" in argument:
            value = _specs(argument["List"]["items"])
        elif argument is not None:
            value = constant_value(argument)
        if element["defname"] in options:
            position = parsed.position_at(element.get("location", -1))
            raise InvalidSyntax("conflicting or redundant options", position=position)
        options[element["defname"]] = value
    return tuple(options.items())


def _create_role(parsed: ParsedStatement, node: Node) -> Utility:
    kind = node["stmt_type"].removeprefix("ROLESTMT_").lower()
    return roles.CreateRole(node["role"], kind, _options(parsed, node))


def _alter_role(parsed: ParsedStatement, node: Node) -> Utility:
    return roles.AlterRole(role_spec(node["role"]), _options(parsed, node), node.get("action", 1) < 0)


def _settings(node: Node, role: RoleSpec | None, database: str | None) -> Utility:
    change = node["setstmt"]
    name = change.get("name")
    match change["kind"]:
        case "VAR_SET_VALUE":
            values = tuple(setting_text(argument) for argument in change.get("args", []))
            return roles.AlterSettings(role, database, name, values)
        case "VAR_SET_CURRENT":
            return roles.AlterSettings(role, database, name, from_current=True)
        case "VAR_SET_DEFAULT" | "VAR_RESET":
            return roles.AlterSettings(role, database, name)
        case "VAR_RESET_ALL":
            return roles.AlterSettings(role, database, None)
    return Unsupported("ALTER … SET " + str(name))


def _alter_role_settings(parsed: ParsedStatement, node: Node) -> Utility:
    role = role_spec(node["role"]) if "role" in node else None
    return _settings(node, role, node.get("database"))


def _alter_database_settings(parsed: ParsedStatement, node: Node) -> Utility:
    return _settings(node, None, node["dbname"])


def _alter_database(parsed: ParsedStatement, node: Node) -> Utility:
    return roles.AlterDatabase(node["dbname"], _options(parsed, node))


def _drop_role(parsed: ParsedStatement, node: Node) -> Utility:
    return roles.DropRole(_specs(node["roles"]), node.get("missing_ok", False))


def _grant_role(parsed: ParsedStatement, node: Node) -> Utility:
    names = []
    for wrapper in node["granted_roles"]:
        if "cols" in wrapper["AccessPriv"]:
            raise DatabaseError.of("0LP01", "column names cannot be included in GRANT/REVOKE ROLE")
        names.append(wrapper["AccessPriv"]["priv_name"])
    admin = any(option["DefElem"]["defname"] == "admin" for option in node.get("opt", []))
    others = [o["DefElem"]["defname"] for o in node.get("opt", []) if o["DefElem"]["defname"] != "admin"]
    if others:  # Postgres 16's
        raise InvalidSyntax(f'syntax error at or near "{others[0]}"')
    grantor = role_spec(node["grantor"]) if "grantor" in node else None
    return roles.GrantRole(
        node.get("is_grant", False),
        tuple(names),
        _specs(node["grantee_roles"]),
        admin,
        grantor,
        node.get("behavior") == "DROP_CASCADE",
    )


def _target(parsed: ParsedStatement, wrapper: Node) -> GrantTarget:
    if "RangeVar" in wrapper:
        return GrantTarget(name_of(wrapper["RangeVar"]))
    if "ObjectWithArgs" in wrapper:
        node = wrapper["ObjectWithArgs"]
        arguments = None
        if not node.get("args_unspecified"):
            types = [each.get("TypeName") for each in node.get("objargs", [])]
            arguments = tuple(
                resolve_type(each, parsed.position_at, parsed.catalog) for each in types if each is not None
            )
        return GrantTarget(name_of_parts(strings(node["objname"])), arguments)
    if "List" in wrapper:
        return GrantTarget(name_of_parts(strings(wrapper["List"]["items"])))
    if "TypeName" in wrapper:
        return GrantTarget(name_of_parts(strings(wrapper["TypeName"]["names"])))
    if "String" not in wrapper:
        raise FeatureNotSupported("large objects are not supported")
    return GrantTarget(Name(wrapper["String"]["sval"]))


def _grant(parsed: ParsedStatement, node: Node) -> Any:
    privileges = []
    all_columns: tuple[str, ...] = ()
    for wrapper in node.get("privileges", []):
        privilege = wrapper["AccessPriv"]
        if "priv_name" in privilege:
            privileges.append((privilege["priv_name"].upper(), strings(privilege.get("cols", []))))
        else:  # ALL (columns)
            all_columns = strings(privilege.get("cols", []))
    return roles.Grant(
        node.get("is_grant", False),
        _SCOPES[node["targtype"]],
        object_kind(node["objtype"]),
        tuple(_target(parsed, each) for each in node.get("objects", [])),
        tuple(privileges),
        _specs(node["grantees"]),
        node.get("grant_option", False),
        role_spec(node["grantor"]) if "grantor" in node else None,
        node.get("behavior") == "DROP_CASCADE",
        all_columns,
    )


def _default_privileges(parsed: ParsedStatement, node: Node) -> Utility:
    given: dict[str, Any] = {}
    for wrapper in node.get("options", []):
        element = wrapper["DefElem"]
        if element["defname"] in given:
            position = parsed.position_at(element.get("location", -1))
            raise InvalidSyntax("conflicting or redundant options", position=position)
        given[element["defname"]] = element["arg"]["List"]["items"]
    return roles.AlterDefaultPrivileges(
        _specs(given.get("roles", [])), strings(given.get("schemas", [])), _grant(parsed, node["action"])
    )


def _alter_owner(parsed: ParsedStatement, node: Node) -> Utility:
    kind = object_kind(node["objectType"])
    return roles.AlterOwner(kind, _target(parsed, node["object"]), role_spec(node["newowner"]))


def _reassign_owned(parsed: ParsedStatement, node: Node) -> Utility:
    return roles.ReassignOwned(_specs(node["roles"]), role_spec(node["newrole"]))


def _drop_owned(parsed: ParsedStatement, node: Node) -> Utility:
    return roles.DropOwned(_specs(node["roles"]), node.get("behavior") == "DROP_CASCADE")


CONVERTERS: dict[str, Callable[[ParsedStatement, Node], Utility]] = {
    "CreateRoleStmt": _create_role,
    "AlterRoleStmt": _alter_role,
    "AlterRoleSetStmt": _alter_role_settings,
    "AlterDatabaseStmt": _alter_database,
    "AlterDatabaseSetStmt": _alter_database_settings,
    "DropRoleStmt": _drop_role,
    "GrantRoleStmt": _grant_role,
    "GrantStmt": _grant,
    "AlterDefaultPrivilegesStmt": _default_privileges,
    "AlterOwnerStmt": _alter_owner,
    "ReassignOwnedStmt": _reassign_owned,
    "DropOwnedStmt": _drop_owned,
}
