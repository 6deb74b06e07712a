"""ALTER TABLE, INDEX, VIEW and SEQUENCE: one action per subcommand; RENAME and SET SCHEMA, which are nodes of their own;
CLUSTER and REINDEX.
"""

from __future__ import annotations

from pydistdb.sql import schema_statements, statements
from pydistdb.sql.bind.cutting import Cut
from pydistdb.sql.bind.definitions import Definitions, storage_options
from pydistdb.sql.bind.naming import constant_value, name_of
from pydistdb.sql.bind.options import OptionList, sequence_options
from pydistdb.sql.bind.parse import Node, ParsedStatement, object_kind
from pydistdb.sql.bind.roles import role_spec
from pydistdb.sql.bind.typenames import resolve_type
from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.role_statements import RenameRole
from pydistdb.sql.schema_statements import ConstraintSpec


def alter_table(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """ALTER TABLE with one or more actions (renaming is a node of its own)."""
    if parsed.shard_by is not None:
        return _reshard(node, parsed.shard_by)
    definitions = Definitions(parsed)
    actions = []
    cursor = 0
    for index, wrapper in enumerate(node["cmds"]):
        command = wrapper["AlterTableCmd"]
        if index:  # the actions stand at commas outside brackets
            cursor = definitions.tokens.find("ASCII_44", cursor, depth=0) + 1
        action = _alter_action(definitions, command, cursor)
        if action is None:
            what = command["subtype"].removeprefix("AT_")
            if what.endswith("RowSecurity"):
                return statements.Unsupported("row level security")
            return statements.Unsupported(f"ALTER TABLE action {what}")
        actions.append(action)
    return schema_statements.AlterTable(
        name_of(node["relation"]),
        tuple(actions),
        node.get("missing_ok", False),
        object_kind(node.get("objtype", "OBJECT_TABLE")),
    )


def _reshard(node: Node, shard_by: schema_statements.ShardBy) -> statements.Utility:
    if len(node["cmds"]) > 1 or object_kind(node.get("objtype", "OBJECT_TABLE")) != "table":
        raise FeatureNotSupported("SHARD BY must be the only action of an ALTER TABLE", position=shard_by.position)
    return schema_statements.Reshard(name_of(node["relation"]), shard_by, node.get("missing_ok", False))


_BY_NAME = {
    "AT_SetNotNull": "set_not_null",
    "AT_DropNotNull": "drop_not_null",
    "AT_ValidateConstraint": "validate_constraint",
    "AT_ClusterOn": "cluster_on",
    "AT_SetTableSpace": "set_tablespace",
    "AT_EnableTrigAll": "enable_triggers",
    "AT_EnableTrigUser": "enable_triggers",
    "AT_DisableTrigUser": "enable_triggers",
    "AT_DisableTrigAll": "disable_keys",
    **dict.fromkeys(("AT_EnableTrig", "AT_DisableTrig", "AT_EnableAlwaysTrig", "AT_EnableReplicaTrig"), "trigger"),
    **dict.fromkeys(("AT_EnableRule", "AT_DisableRule", "AT_EnableAlwaysRule", "AT_EnableReplicaRule"), "rule"),
    "AT_DisableRowSecurity": "no_row_security",
    "AT_NoForceRowSecurity": "no_row_security",
}
"""Actions that say no more than what they are about."""

_REMOVALS = {
    "AT_DropColumn": "drop_column",
    "AT_DropConstraint": "drop_constraint",
    "AT_DropIdentity": "drop_identity",
    "AT_DropExpression": "drop_expression",
}
"""Actions with IF EXISTS, and some with CASCADE."""


def _alter_action(definitions: Definitions, command: Node, cursor: int) -> schema_statements.AlterTableAction | None:
    action = schema_statements.AlterTableAction
    name = command.get("name")
    missing_ok = command.get("missing_ok", False)
    match command["subtype"]:
        case subtype if subtype in _BY_NAME:
            return action(_BY_NAME[subtype], name)
        case subtype if subtype in _REMOVALS:
            cascade = command.get("behavior") == "DROP_CASCADE"
            return action(_REMOVALS[subtype], name, missing_ok=missing_ok, cascade=cascade)
        case "AT_AddColumn":
            column = definitions.column(command["def"]["ColumnDef"])
            return action("add_column", column.name, column=column, missing_ok=missing_ok)
        case "AT_ColumnDefault":
            if "def" not in command:
                return action("drop_default", name)
            tokens = definitions.tokens
            text = tokens.phrase(tokens.find("DEFAULT", cursor, depth=0) + 1)
            return action("set_default", name, expression=text)
        case "AT_AlterColumnType":
            column_node = command["def"]["ColumnDef"]
            sql_type = resolve_type(column_node["typeName"], definitions.parsed.position_at, definitions.parsed.catalog)
            using = None
            if "raw_default" in column_node:
                tokens = definitions.tokens
                first = tokens.find("USING", cursor, depth=0) + 1
                using = Cut(tokens.phrase(first), definitions.parsed.position + tokens.starts[first])
            collation = definitions.collation(column_node, sql_type)
            return action("alter_type", name, type=sql_type, expression=using, collation=collation)
        case "AT_AddConstraint":
            constraint = definitions.constraint(command["def"]["Constraint"])
            return action("add_constraint", constraint.name, constraint=constraint)
        case "AT_AlterConstraint":
            node = next(iter(command["def"].values()))
            spec = ConstraintSpec(
                "", node["conname"], deferrable=node.get("deferrable", False), deferred=node.get("initdeferred", False)
            )
            return action("alter_constraint", node["conname"], constraint=spec)
        case "AT_ChangeOwner":
            return action("owner_to", owner=role_spec(command["newowner"]))
        case "AT_SetRelOptions":
            return action("set_options", options=_options(command))
        case "AT_ResetRelOptions":
            return action("set_options", options=tuple((option, None) for option, _ in _options(command)))
        case "AT_DropOids":
            return action("set_options", options=())
        case "AT_SetStatistics":
            name = name if name is not None else str(command["num"])
            return action("set_statistics", name, options=(("", constant_value(command["def"])),))
        case "AT_SetStorage" | "AT_SetCompression" as subtype:
            kind = "set_storage" if subtype == "AT_SetStorage" else "set_compression"
            return action(kind, name, new_name=constant_value(command["def"]))
        case "AT_SetOptions":
            return action("set_column_options", name, options=_options(command))
        case "AT_ResetOptions":
            return action("set_column_options", name, options=tuple((option, None) for option, _ in _options(command)))
        case "AT_ReplicaIdentity":
            identity = command["def"]["ReplicaIdentityStmt"]
            return action("replica_identity", identity["identity_type"], new_name=identity.get("name"))
        case "AT_AddIdentity":
            node = command["def"]["Constraint"]
            return action(
                "add_identity", name, new_name=node["generated_when"], options=sequence_options(node.get("options", []))
            )
        case "AT_SetIdentity":
            return action("set_identity", name, options=sequence_options(command["def"]["List"]["items"]))
        case "AT_DropCluster":
            return action("set_without_cluster")
        case "AT_SetLogged" | "AT_SetUnLogged":
            return action("set_logged", "p" if command["subtype"] == "AT_SetLogged" else "u")
    return None


def _options(command: Node) -> OptionList:
    return tuple(storage_options(command.get("def", {}).get("List", {}).get("items", [])).items())


def rename(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """ALTER … RENAME."""
    match node["renameType"]:
        case "OBJECT_COLUMN":
            kind = object_kind(node.get("relationType", "OBJECT_TABLE"))
            action = schema_statements.AlterTableAction("rename_column", node["subname"], node["newname"])
        case "OBJECT_TABCONSTRAINT":
            kind = "table"
            action = schema_statements.AlterTableAction("rename_constraint", node["subname"], node["newname"])
        case "OBJECT_TABLE" | "OBJECT_INDEX" | "OBJECT_VIEW" | "OBJECT_MATVIEW" | "OBJECT_SEQUENCE":
            kind = object_kind(node["renameType"])
            action = schema_statements.AlterTableAction("rename_table", new_name=node["newname"])
        case "OBJECT_ROLE":
            return RenameRole(node["subname"], node["newname"])
        case _:
            return statements.Unsupported(parsed.kind + " RENAME")
    return schema_statements.AlterTable(name_of(node["relation"]), (action,), node.get("missing_ok", False), kind)


def move_schema(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """ALTER … SET SCHEMA."""
    kind = object_kind(node["objectType"])
    if kind not in ("table", "view", "materialized view", "sequence") or "relation" not in node:
        return statements.Unsupported(parsed.kind + " SET SCHEMA")
    action = schema_statements.AlterTableAction("set_schema", node["newschema"])
    return schema_statements.AlterTable(name_of(node["relation"]), (action,), node.get("missing_ok", False), kind)


def cluster(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """CLUSTER [VERBOSE] [table [USING index]]."""
    table = name_of(node["relation"]) if "relation" in node else None
    return schema_statements.Cluster(table, node.get("indexname"))


_REINDEX = {
    "REINDEX_OBJECT_INDEX": "index",
    "REINDEX_OBJECT_TABLE": "table",
    "REINDEX_OBJECT_SCHEMA": "schema",
    "REINDEX_OBJECT_SYSTEM": "system",
    "REINDEX_OBJECT_DATABASE": "database",
}


def reindex(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """REINDEX."""
    given = {wrapper["DefElem"]["defname"] for wrapper in node.get("params", [])}
    kind = _REINDEX[node["kind"]]
    name = name_of(node["relation"]) if "relation" in node else statements.Name(node.get("name", ""))
    return schema_statements.Reindex(kind, name, "concurrently" in given, "verbose" in given)
