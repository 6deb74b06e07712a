"""CREATE TABLE, ALTER TABLE and CREATE INDEX: columns, constraints and actions.

Expressions (CHECK, DEFAULT, GENERATED, USING, index keys) are kept as SQL text, cut out of the statement as written:
the catalog stores them so, and ``bind_expression`` reads them back.
"""

from __future__ import annotations

from dataclasses import replace

from pydistdb.sql import schema_statements, statements
from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.bind.naming import located_name_of, name_of, strings
from pydistdb.sql.bind.options import OptionList, option_value, sequence_options
from pydistdb.sql.bind.parse import Node, ParsedStatement
from pydistdb.sql.bind.sharding import shard_clause
from pydistdb.sql.bind.typenames import COLLATABLE, resolve_type, serial_kind
from pydistdb.sql.errors import (
    DatatypeMismatch,
    FeatureNotSupported,
    InvalidSyntax,
    InvalidTableDefinition,
    UndefinedObject,
)
from pydistdb.sql.schema_statements import ColumnSpec, ConstraintSpec, ForeignKeySpec
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import SqlType

_CONSTRAINT_KINDS = {
    "CONSTR_PRIMARY": "primary",
    "CONSTR_UNIQUE": "unique",
    "CONSTR_CHECK": "check",
    "CONSTR_FOREIGN": "foreign",
}


class Definitions:
    """One statement with its tokens, scanned only when an expression has to be cut out.

    ``points``: errors in expressions are pointed at (Postgres does not in ALTER TABLE and domains)."""

    def __init__(self, parsed: ParsedStatement, *, points: bool = False) -> None:
        self.parsed = parsed
        self._start = parsed.position if points else None
        self._tokens: Tokens | None = None
        self._table_name = parsed.node.get("relation", {}).get("relname", "")

    @property
    def tokens(self) -> Tokens:
        if self._tokens is None:
            self._tokens = Tokens(self.parsed.text, self._start)
        return self._tokens

    def offset(self, location: int) -> int:
        """The parser's location as an offset into the statement's own text."""
        position = self.parsed.position_at(location)
        return 0 if position is None else position - 1 - self.parsed.position

    # -------------------------------------------------------------------------------------------- constraints

    def constraint(self, node: Node) -> ConstraintSpec:
        kind = _CONSTRAINT_KINDS.get(node["contype"])
        position = self.parsed.position_at(node.get("location", -1))
        if kind is None:
            what = node["contype"].removeprefix("CONSTR_").lower()
            raise FeatureNotSupported(f"{what} constraints are not supported", position=position)
        expression = None
        if kind == "check":
            expression = self.tokens.group_after(self.offset(node["location"]), "CHECK")
        return ConstraintSpec(
            kind,
            node.get("conname"),
            strings(node.get("keys", [])),
            expression,
            self.foreign_key(node) if kind == "foreign" else None,
            node.get("indexname"),
            node.get("skip_validation", False),
            position,
            node.get("deferrable", False),
            node.get("initdeferred", False),
            node.get("nulls_not_distinct", False),
            strings(node.get("including", [])),
            node.get("is_no_inherit", False),
        )

    def foreign_key(self, node: Node) -> ForeignKeySpec:
        if node.get("fk_matchtype") == "p":
            raise FeatureNotSupported("MATCH PARTIAL not yet implemented")
        return ForeignKeySpec(
            strings(node.get("fk_attrs", [])),
            name_of(node["pktable"]),
            strings(node.get("pk_attrs", [])),
            node.get("fk_del_action", "a"),
            node.get("fk_upd_action", "a"),
            node.get("fk_matchtype") == "f",
            strings(node.get("fk_del_set_cols", [])),
        )

    # -------------------------------------------------------------------------------------------- columns

    def column(self, node: Node) -> ColumnSpec:
        parsed = self.parsed
        position = parsed.position_at(node.get("location", -1))
        type_node = node.get("typeName")
        if type_node is None:
            raise FeatureNotSupported("columns without a type are not supported", position=position)
        if type_node.get("setof"):
            raise InvalidTableDefinition(f'column "{node.get("colname", "")}" cannot be declared SETOF')
        serial = serial_kind(type_node)
        sql_type = (
            registry.type_by_name(serial) if serial else resolve_type(type_node, parsed.position_at, parsed.catalog)
        )
        assert sql_type is not None
        parts = [wrapper["Constraint"] for wrapper in node.get("constraints", [])]
        stops = frozenset(self.offset(part["location"]) for part in parts if part.get("location", -1) >= 0)
        if "collClause" in node:
            stops |= {self.offset(node["collClause"]["location"])}
        return self._column_of_parts(node, sql_type, serial, parts, stops, position)

    def _column_of_parts(
        self,
        node: Node,
        sql_type: SqlType,
        serial: str,
        parts: list[Node],
        stops: frozenset[int],
        position: int | None,
    ) -> ColumnSpec:
        not_null = bool(serial)
        nullable = False
        default = generated = None
        identity = ""
        identity_options: OptionList = ()
        constraints: list[ConstraintSpec] = []
        name = node.get("colname", "")
        previous, attributes = "", list[str]()
        for part in parts:
            at = self.parsed.position_at(part.get("location", -1))
            match part["contype"]:
                case "CONSTR_NOTNULL":
                    if nullable:
                        raise self._contradiction("conflicting NULL/NOT NULL declarations", name, at)
                    not_null = True
                case "CONSTR_NULL":
                    if not_null:
                        raise self._contradiction(
                            "conflicting NULL/NOT NULL declarations", name, None if serial else at
                        )
                    nullable = True
                case "CONSTR_DEFAULT":
                    if default is not None or serial:
                        raise self._contradiction("multiple default values specified", name, None if serial else at)
                    keyword = self.tokens.find("DEFAULT", self.tokens.index_at(self.offset(part["location"])))
                    default = self.tokens.phrase(keyword + 1, stops)
                case "CONSTR_IDENTITY":
                    if identity:
                        raise self._contradiction("multiple identity specifications", name, at)
                    identity = part["generated_when"]
                    identity_options = sequence_options(part.get("options", []))
                    if nullable:
                        raise self._contradiction("conflicting NULL/NOT NULL declarations", name, at)
                    not_null = True
                case "CONSTR_GENERATED":
                    if part.get("generated_kind", "s") == "v":
                        raise FeatureNotSupported("virtual generated columns are not supported", position=at)
                    if generated is not None:
                        raise self._contradiction("multiple generation clauses specified", name, at)
                    generated = self.tokens.group_after(self.offset(part["location"]), "AS")
                case attribute if attribute.startswith("CONSTR_ATTR_"):
                    if previous not in _DEFERRABLE:
                        raise InvalidSyntax(f"misplaced {_ATTRIBUTES.get(attribute, attribute)} clause", position=at)
                    if attribute == "CONSTR_ATTR_DEFERRED" and "CONSTR_ATTR_NOT_DEFERRABLE" in attributes:
                        raise InvalidSyntax("constraint declared INITIALLY DEFERRED must be DEFERRABLE", position=at)
                    attributes.append(attribute)
                    constraints[-1] = _with_attribute(constraints[-1], attribute)
                    continue
                case _:
                    constraints.append(self.constraint(part))
            previous, attributes = part["contype"], []
            if default is not None and generated is not None:
                raise self._contradiction("both default and generation expression specified", name, at)
            if default is not None and identity:
                raise self._contradiction("both default and identity specified", name, at)
            if identity and generated is not None:
                raise self._contradiction("both identity and generation expression specified", name, at)
        if serial and identity:
            raise self._contradiction("both default and identity specified", name, None)
        collation = self.collation(node, sql_type)
        return ColumnSpec(
            name,
            sql_type,
            not_null,
            default,
            tuple(constraints),
            identity,
            generated,
            serial,
            collation,
            position,
            identity_options,
            compression=node.get("compression", ""),
        )

    def _contradiction(self, problem: str, column: str, position: int | None) -> InvalidSyntax:
        return InvalidSyntax(f'{problem} for column "{column}" of table "{self._table_name}"', position=position)

    def collation(self, node: Node, sql_type: SqlType) -> str | None:
        """The name in a column's COLLATE clause."""
        if "collClause" not in node:
            return None
        if (registry.element_of(sql_type) if sql_type.is_array else sql_type).category not in COLLATABLE:
            raise DatatypeMismatch(
                f"collations are not supported by type {registry.format_type(sql_type.oid)}",
                position=self.parsed.position_at(node["collClause"]["location"]),
            )
        return ".".join(strings(node["collClause"]["collname"]))


_DEFERRABLE = frozenset({"CONSTR_PRIMARY", "CONSTR_UNIQUE", "CONSTR_FOREIGN"})
_ATTRIBUTES = {
    "CONSTR_ATTR_DEFERRABLE": "DEFERRABLE",
    "CONSTR_ATTR_NOT_DEFERRABLE": "NOT DEFERRABLE",
    "CONSTR_ATTR_DEFERRED": "INITIALLY DEFERRED",
    "CONSTR_ATTR_IMMEDIATE": "INITIALLY IMMEDIATE",
}


def _with_attribute(spec: ConstraintSpec, attribute: str) -> ConstraintSpec:
    """A column's constraint with what follows it: DEFERRABLE, INITIALLY DEFERRED …"""
    match attribute:
        case "CONSTR_ATTR_DEFERRABLE":
            return replace(spec, deferrable=True)
        case "CONSTR_ATTR_DEFERRED":
            return replace(spec, deferrable=True, deferred=True)
    return spec


def storage_options(elements: list[Node]) -> dict[str, str]:
    """WITH (name = value, …) as texts; a name alone is switched on."""
    found = {}
    for wrapper in elements:
        element = wrapper["DefElem"]
        value = option_value(element) if "arg" in element else True
        found[element["defname"]] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def create_table(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """CREATE TABLE."""
    for clause, what in (("partspec", "PARTITION BY"), ("inhRelations", "INHERITS"), ("ofTypename", "OF type")):
        if clause in node:
            return statements.Unsupported("CREATE TABLE … " + what)
    check_tablespace(node.get("tablespacename"))
    definitions = Definitions(parsed, points=True)
    columns: list[ColumnSpec] = []
    constraints: list[ConstraintSpec] = []
    like: list[schema_statements.LikeClause] = []
    for wrapper in node.get("tableElts", []):
        for kind, element in wrapper.items():
            if kind == "ColumnDef":
                columns.append(definitions.column(element))
            elif kind == "Constraint":
                constraints.append(definitions.constraint(element))
            else:
                source = located_name_of(element["relation"], parsed)
                like.append(schema_statements.LikeClause(source, element.get("options", 0), len(columns)))
    relation = node["relation"]
    options = storage_options(node.get("options", []))
    written = options.pop("shard_by", None)
    return schema_statements.CreateTable(
        located_name_of(relation, parsed),
        tuple(columns),
        tuple(constraints),
        node.get("if_not_exists", False),
        relation["relpersistence"] == "t",
        parsed.shard_by or (shard_clause(written) if written is not None else None),
        tuple(like),
        options,
        on_commit_action(node, relation["relpersistence"]),
        relation["relpersistence"] == "u",
    )


def check_tablespace(name: str | None) -> None:
    if name not in (None, "", "pg_default"):
        raise UndefinedObject(f'tablespace "{name}" does not exist')


_ON_COMMIT = {"ONCOMMIT_DELETE_ROWS": "delete", "ONCOMMIT_DROP": "drop", "ONCOMMIT_PRESERVE_ROWS": ""}


def on_commit_action(node: Node, persistence: str) -> str:
    """ON COMMIT of CREATE TABLE and CREATE TABLE AS."""
    action = node.get("onCommit", node.get("oncommit", "ONCOMMIT_NOOP"))
    if action not in _ON_COMMIT:
        return ""
    if persistence != "t":
        raise InvalidTableDefinition("ON COMMIT can only be used on temporary tables")
    return _ON_COMMIT[action]
