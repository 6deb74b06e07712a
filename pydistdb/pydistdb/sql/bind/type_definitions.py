"""CREATE TYPE, CREATE DOMAIN and their ALTERs: from the parser's nodes to statements.

    CREATE TYPE mood AS ENUM ('sad', 'ok')                  CreateType("mood", "enum", ("sad", "ok"))
    ALTER TYPE mood ADD VALUE 'happy' AFTER 'ok'            AlterType("mood", (add_value happy after ok,))

Source: PostgreSQL 15 manual, CREATE TYPE, ALTER TYPE, CREATE DOMAIN, ALTER DOMAIN.
"""

from __future__ import annotations

from pydistdb.sql import statements, type_statements
from pydistdb.sql.bind.definitions import Definitions
from pydistdb.sql.bind.naming import name_of, name_of_parts, strings
from pydistdb.sql.bind.parse import Node, ParsedStatement
from pydistdb.sql.bind.typenames import COLLATABLE, resolve_type
from pydistdb.sql.errors import DatatypeMismatch, FeatureNotSupported, InvalidSyntax, UndefinedObject
from pydistdb.sql.schema_statements import ConstraintSpec
from pydistdb.sql.statements import Name
from pydistdb.sql.type_statements import AlterTypeAction

TYPE_RENAMES = frozenset({"OBJECT_TYPE", "OBJECT_DOMAIN", "OBJECT_DOMCONSTRAINT", "OBJECT_ATTRIBUTE"})


def _type_name(items: list[Node]) -> Name:
    return name_of_parts(strings(items))


def create_enum(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return type_statements.CreateType(_type_name(node["typeName"]), "enum", strings(node.get("vals", [])))


def alter_enum(parsed: ParsedStatement, node: Node) -> statements.Utility:
    name = _type_name(node["typeName"])
    if "oldVal" in node:
        return type_statements.AlterType(
            name, (AlterTypeAction("rename_value", node["oldVal"], node.get("newVal", "")),)
        )
    action = AlterTypeAction(
        "add_value",
        node.get("newVal", ""),
        neighbor=node.get("newValNeighbor"),
        after=node.get("newValIsAfter", False),
        if_exists=node.get("skipIfNewValExists", False),
    )
    return type_statements.AlterType(name, (action,))


def create_composite(parsed: ParsedStatement, node: Node) -> statements.Utility:
    definitions = Definitions(parsed)
    attributes = tuple(definitions.column(each["ColumnDef"]) for each in node.get("coldeflist", []))
    for attribute, each in zip(attributes, node.get("coldeflist", []), strict=True):
        if attribute.serial:
            name = each["ColumnDef"]["typeName"]["names"][-1]["String"]["sval"]
            raise UndefinedObject(f'type "{name}" does not exist')
    return type_statements.CreateType(name_of(node["typevar"]), "composite", attributes=attributes)


# ------------------------------------------------------------------------------------------------ domains


def create_domain(parsed: ParsedStatement, node: Node) -> statements.Utility:
    definitions = Definitions(parsed)
    sql_type = resolve_type(node["typeName"], lambda location: None, parsed.catalog)
    parts = [wrapper["Constraint"] for wrapper in node.get("constraints", [])]
    stops = frozenset(definitions.offset(part["location"]) for part in parts)
    collation = None
    if "collClause" in node:
        stops |= {definitions.offset(node["collClause"]["location"])}
        collation = ".".join(strings(node["collClause"]["collname"]))
        if sql_type.category not in COLLATABLE:
            raise DatatypeMismatch(
                f"collations are not supported by type {sql_type.name}",
                position=parsed.position_at(node["collClause"]["location"]),
            )
    default: str | None = None
    nullability: bool | None = None
    checks: list[ConstraintSpec] = []
    for part in parts:
        position = parsed.position_at(part["location"])
        match part["contype"]:
            case "CONSTR_DEFAULT":
                if default is not None:
                    raise InvalidSyntax("multiple default expressions")
                tokens = definitions.tokens
                first = tokens.index_at(definitions.offset(part["location"])) + 1
                default = tokens.phrase(first, stops)
            case "CONSTR_NOTNULL" | "CONSTR_NULL":
                not_null = part["contype"] == "CONSTR_NOTNULL"
                if nullability is not None and nullability != not_null:
                    raise InvalidSyntax("conflicting NULL/NOT NULL constraints")
                nullability = not_null
            case "CONSTR_CHECK":
                if part.get("is_no_inherit"):
                    raise InvalidSyntax("check constraints for domains cannot be marked NO INHERIT")
                checks.append(definitions.constraint(part))
            case "CONSTR_UNIQUE":
                raise InvalidSyntax("unique constraints not possible for domains")
            case "CONSTR_PRIMARY":
                raise InvalidSyntax("primary key constraints not possible for domains")
            case "CONSTR_EXCLUSION":
                raise InvalidSyntax("exclusion constraints not possible for domains")
            case "CONSTR_FOREIGN":
                raise InvalidSyntax("foreign key constraints not possible for domains")
            case _:
                raise FeatureNotSupported(
                    "specifying constraint deferrability not supported for domains", position=position
                )
    return type_statements.CreateDomain(
        _type_name(node["domainname"]), sql_type, default, bool(nullability), tuple(checks), collation
    )


_DOMAIN_ACTIONS = {"N": "drop_not_null", "O": "set_not_null", "X": "drop_constraint", "V": "validate_constraint"}


def alter_domain(parsed: ParsedStatement, node: Node) -> statements.Utility:
    definitions = Definitions(parsed)
    name = _type_name(node["typeName"])
    match node["subtype"]:
        case "T" if "def" not in node:
            action = AlterTypeAction("drop_default")
        case "T":
            tokens = definitions.tokens
            action = AlterTypeAction("set_default", expression=tokens.rest(tokens.find("DEFAULT", depth=0) + 1))
        case "C":
            part = node["def"]["Constraint"]
            if part["contype"] == "CONSTR_NOTNULL":
                action = AlterTypeAction("set_not_null")
            elif part["contype"] != "CONSTR_CHECK":
                what = {"CONSTR_UNIQUE": "unique", "CONSTR_PRIMARY": "primary key", "CONSTR_FOREIGN": "foreign key"}
                raise InvalidSyntax(f"{what.get(part['contype'], 'such')} constraints not possible for domains")
            else:
                spec = definitions.constraint(part)
                action = AlterTypeAction("add_constraint", spec.name or "", constraint=spec)
        case subtype:
            action = AlterTypeAction(
                _DOMAIN_ACTIONS[subtype],
                node.get("name", ""),
                if_exists=node.get("missing_ok", False),
                cascade=node.get("behavior") == "DROP_CASCADE",
            )
    return type_statements.AlterType(name, (action,), "domain")


# ------------------------------------------------------------------------------------------------ composite types


def alter_composite(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """ALTER TYPE … ADD, DROP, ALTER ATTRIBUTE."""
    definitions = Definitions(parsed)
    actions: list[AlterTypeAction] = []
    for wrapper in node["cmds"]:
        command = wrapper["AlterTableCmd"]
        cascade = command.get("behavior") == "DROP_CASCADE"
        name = command.get("name", "")
        match command["subtype"]:
            case "AT_AddColumn":
                column = definitions.column(command["def"]["ColumnDef"])
                actions.append(AlterTypeAction("add_attribute", column.name, column=column, cascade=cascade))
            case "AT_DropColumn":
                missing_ok = command.get("missing_ok", False)
                actions.append(AlterTypeAction("drop_attribute", name, if_exists=missing_ok, cascade=cascade))
            case "AT_AlterColumnType":
                column = definitions.column(command["def"]["ColumnDef"])
                actions.append(AlterTypeAction("alter_attribute", name, column=column, cascade=cascade))
            case "AT_ChangeOwner":
                actions.append(AlterTypeAction("owner_to", command["newowner"].get("rolename", "")))
            case subtype:
                return statements.Unsupported(f"ALTER TYPE action {subtype.removeprefix('AT_')}")
    return type_statements.AlterType(name_of(node["relation"]), tuple(actions))


# ------------------------------------------------------------------------------------------------ names and owners


def rename_type(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """ALTER TYPE or DOMAIN … RENAME, of the type itself, a constraint or an attribute."""
    new_name = node["newname"]
    match node["renameType"]:
        case "OBJECT_ATTRIBUTE":
            cascade = node.get("behavior") == "DROP_CASCADE"
            action = AlterTypeAction("rename_attribute", node["subname"], new_name, cascade=cascade)
            return type_statements.AlterType(name_of(node["relation"]), (action,))
        case "OBJECT_DOMCONSTRAINT":
            action = AlterTypeAction("rename_constraint", node["subname"], new_name)
            kind = "domain"
        case kind:
            action = AlterTypeAction("rename", new_name=new_name)
            kind = kind.removeprefix("OBJECT_").lower()
    return type_statements.AlterType(_type_name(node["object"]["List"]["items"]), (action,), kind)


def move_type(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """ALTER TYPE or DOMAIN … SET SCHEMA."""
    action = AlterTypeAction("set_schema", node["newschema"])
    kind = node["objectType"].removeprefix("OBJECT_").lower()
    return type_statements.AlterType(_type_name(node["object"]["List"]["items"]), (action,), kind)
