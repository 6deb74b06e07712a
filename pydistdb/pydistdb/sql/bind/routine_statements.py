"""CREATE, ALTER, DROP of functions and procedures, COMMENT on them, and CALL: from the parser's nodes to statements.

Bodies are kept as text.  For the SQL standard's forms that is what stands behind RETURN, or between BEGIN ATOMIC and END.
"""

from __future__ import annotations

from typing import Any

from pydistdb.sql import statements, type_statements
from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.bind.naming import constant_value, name_of_parts, strings
from pydistdb.sql.bind.options import setting_text
from pydistdb.sql.bind.parse import Node, ParsedStatement, object_kind
from pydistdb.sql.bind.typenames import resolve_type
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidSyntax, UndefinedObject
from pydistdb.sql.statements import RoutineName, TypeReference
from pydistdb.sql.type_statements import ArgumentSpec

_MODES = {
    "FUNC_PARAM_DEFAULT": "i",
    "FUNC_PARAM_IN": "i",
    "FUNC_PARAM_OUT": "o",
    "FUNC_PARAM_INOUT": "b",
    "FUNC_PARAM_VARIADIC": "v",
    "FUNC_PARAM_TABLE": "t",
}


def _offset(parsed: ParsedStatement, location: int) -> int:
    position = parsed.position_at(location)
    return 0 if position is None else position - 1 - parsed.position


def type_reference(parsed: ParsedStatement, node: Node) -> TypeReference:
    """A type, or a name that may turn out to be that of a table."""
    position = parsed.position_at(node.get("location", -1))
    name = name_of_parts(strings(node["names"]))
    is_array = bool(node.get("arrayBounds"))
    try:
        plain = {key: value for key, value in node.items() if key != "setof"}
        return TypeReference(name, resolve_type(plain, parsed.position_at, parsed.catalog), is_array, position)
    except UndefinedObject:
        return TypeReference(name, None, is_array, position)


def create_routine(parsed: ParsedStatement, node: Node) -> statements.Utility:
    tokens = Tokens(parsed.text)
    cutting = Tokens(parsed.text, parsed.position)
    arguments = tuple(_argument(parsed, cutting, each["FunctionParameter"]) for each in node.get("parameters", []))
    body, form = None, ""
    options = _options(parsed, node.get("options", []))
    if "as" in options:
        body = options.pop("as")
    if "sql_body" in node:
        if body is not None:
            raise DatabaseError.of("42P13", "duplicate function body specified")
        body, form = _standard_body(tokens, node["sql_body"])
    returns = node.get("returnType")
    return type_statements.CreateRoutine(
        name_of_parts(strings(node["funcname"])),
        "p" if node.get("is_procedure") else "f",
        arguments,
        type_reference(parsed, returns) if returns is not None else None,
        returns is not None and returns.get("setof", False),
        body,
        form,
        node.get("replace", False),
        options,
        _body_position(parsed, tokens, body) if not form else None,
    )


def _body_position(parsed: ParsedStatement, tokens: Tokens, body: str | None) -> int | None:
    """The position (from 1) of the body's first character."""
    for name, start, end in zip(tokens.names, tokens.starts, tokens.ends, strict=True):
        written = parsed.text[start:end]
        if name != "SCONST" or body is None:
            continue
        mark = written[: written.index("$", 1) + 1] if written.startswith("$") else "'"
        if written == f"{mark}{body}{mark}":
            return parsed.position + start + len(mark) + 1
    return None


def _argument(parsed: ParsedStatement, tokens: Tokens, node: Node) -> ArgumentSpec:
    default = None
    if "defexpr" in node:
        first = tokens.index_at(_offset(parsed, node["location"]))
        depth = tokens.depths[first]
        marks = [
            index
            for index in range(first, len(tokens.names))
            if tokens.names[index] in ("DEFAULT", "ASCII_61", "COLON_EQUALS") and tokens.depths[index] == depth
        ]
        default = tokens.phrase(marks[0] + 1)
    return ArgumentSpec(node.get("name", ""), _MODES[node["mode"]], type_reference(parsed, node["argType"]), default)


def _standard_body(tokens: Tokens, node: Node) -> tuple[str, str]:
    if "ReturnStmt" in node:
        return tokens.rest(tokens.find("RETURN", depth=0) + 1), "return"
    first = tokens.find("ATOMIC", depth=0) + 1
    last = len(tokens.names) - 1
    while tokens.names[last] != "END_P":
        last -= 1
    return tokens.between(first, last), "atomic"


def _options(parsed: ParsedStatement, elements: list[Node]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for wrapper in elements:
        element = wrapper["DefElem"]
        name = element["defname"]
        if name in options and name != "set":
            position = parsed.position_at(element.get("location", -1))
            raise InvalidSyntax("conflicting or redundant options", position=position)
        argument = element.get("arg", {})
        if name == "as":
            parts = strings(argument["List"]["items"])
            if len(parts) > 1:
                raise DatabaseError.of("42P13", 'only one AS item needed for language "sql"')
            options[name] = parts[0]
        elif name == "set":
            options[name] = (*options.get(name, ()), _setting(argument["VariableSetStmt"]))
        elif name in ("support", "transform", "window"):
            if name != "window" or constant_value(argument):
                options[name] = True
        else:
            options[name] = constant_value(argument)
    return options


def _setting(node: Node) -> tuple[str | None, tuple[str, ...] | None]:
    """SET and RESET of a function: the name (None: all) and the values, None to take the setting away."""
    match node["kind"]:
        case "VAR_SET_VALUE":
            return node["name"], tuple(setting_text(argument) for argument in node.get("args", []))
        case "VAR_SET_DEFAULT" | "VAR_RESET":
            return node["name"], None
        case "VAR_RESET_ALL":
            return None, None
    raise FeatureNotSupported("SET … FROM CURRENT of functions is not supported")


def routine_name(parsed: ParsedStatement, node: Node) -> RoutineName:
    """``f(int, text)``, or ``f`` alone."""
    name = name_of_parts(strings(node["objname"]))
    if node.get("args_unspecified"):
        return RoutineName(name, None)
    arguments = tuple(type_reference(parsed, each["TypeName"]) for each in node.get("objargs", []))
    return RoutineName(name, arguments)


def drop_routines(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return type_statements.DropRoutines(
        object_kind(node["removeType"]),
        tuple(routine_name(parsed, each["ObjectWithArgs"]) for each in node["objects"]),
        node.get("missing_ok", False),
        node.get("behavior") == "DROP_CASCADE",
    )


def alter_routine(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return type_statements.AlterRoutine(
        object_kind(node["objtype"]),
        routine_name(parsed, node["func"]),
        options=_options(parsed, node.get("actions", [])),
    )


def change_routine(
    parsed: ParsedStatement, kind: str, target: Node, *, new_name: str = "", new_schema: str = ""
) -> statements.Utility:
    """RENAME TO, SET SCHEMA, OWNER TO."""
    name = routine_name(parsed, target["ObjectWithArgs"])
    return type_statements.AlterRoutine(object_kind(kind), name, new_name=new_name, new_schema=new_schema)


def call(parsed: ParsedStatement, node: Node) -> statements.Utility:
    function = node["funccall"]
    arguments: list[tuple[str, str]] = []
    if function.get("args"):
        tokens = Tokens(parsed.text, parsed.position)
        opening = tokens.find("ASCII_40")
        for first, argument in zip(tokens.items(opening), function["args"], strict=True):
            name = argument.get("NamedArgExpr", {}).get("name", "")
            if name:
                first += 2
            elif function.get("func_variadic") and tokens.names[first] == "VARIADIC":
                first += 1
            arguments.append((name, tokens.phrase(first)))
    return type_statements.Call(
        name_of_parts(strings(function["funcname"])),
        tuple(arguments),
        function.get("func_variadic", False),
        parsed.position_at(function.get("location", -1)),
    )
