"""CREATE and ALTER FUNCTION and PROCEDURE, in the language SQL.

The descriptor keeps the body's text.  CREATE binds it against the transaction's catalog, in which the new function is there
already, so that it may call itself; what the last statement returns must fit the declared result.  The body of a polymorphic
function is only parsed: each call binds it for its own types.  Bodies of the SQL
standard's forms depend on what they use, string bodies on nothing, as in Postgres.

Source: PostgreSQL 15 manual, CREATE FUNCTION; functioncmds.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from pydistdb.sql import bind
from pydistdb.sql.bind.polymorphic import COMPATIBLE, SIMPLE, is_polymorphic
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import PG_NAMESPACE, PG_PROC
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Argument, Routine, Table
from pydistdb.sql.catalog.drop_plan import drop_found_routines
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.recording import RecordingView, direct_uses
from pydistdb.sql.catalog.routine_names import find_routine, missing_routine, signature
from pydistdb.sql.catalog.stored_texts import calls_renamed, follow
from pydistdb.sql.catalog.temporary import place
from pydistdb.sql.catalog.type_names import row_type_owner
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, UndefinedObject, WrongObjectType
from pydistdb.sql.routines import RECORD_OID, VOID_OID, input_arguments, output_arguments
from pydistdb.sql.settings import join_identifiers, split_identifiers
from pydistdb.sql.statements import Name, TypeReference
from pydistdb.sql.type_statements import AlterRoutine, ArgumentSpec, CreateRoutine, DropRoutines
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.known import ANYARRAY, ANYCOMPATIBLEARRAY, POLYMORPHIC

MOST_ARGUMENTS = 100
_KNOWN_LANGUAGES = frozenset({"plpgsql", "c", "internal", "plpython3u", "plperl", "plperlu", "pltcl", "pltclu"})
_KIN = (
    "anyelement, anyarray, anynonarray, anyenum, anyrange, or anymultirange",
    "anycompatible, anycompatiblearray, anycompatiblenonarray, anycompatiblerange, or anycompatiblemultirange",
)
_WORDS = {"f": "function", "p": "procedure"}


def _invalid(message: str, **more: Any) -> DatabaseError:
    return DatabaseError.of("42P13", message, **more)


async def create_routine(ddl: DdlContext, statement: CreateRoutine) -> str:
    tag = f"CREATE {_WORDS[statement.kind].upper()}"
    schema = await place(ddl, statement.name, False)
    _check_language(statement)
    arguments = _arguments(ddl, statement.arguments)
    return_type, row_of = _result(ddl, statement, arguments)
    for oid in (return_type, *(argument.type_oid for argument in arguments)):
        ddl.require_type(oid)
    _check_polymorphic(statement, arguments, return_type)
    routine = Routine(
        0,
        clip(statement.name.name),
        schema.oid,
        ddl.database_oid,
        arguments,
        return_type,
        statement.body or "",
        statement.returns_set,
        statement.kind,
        statement.form,
        row_of,
    )
    routine = with_options(routine, statement.options)
    old = _same_signature(ddl, routine)
    if old is not None:
        if not statement.replace:
            word = _WORDS[old.kind]
            raise DatabaseError.of("42723", f'{word} "{routine.name}" already exists with same argument types')
        ddl.require_owner(PG_PROC, old.oid, _WORDS[old.kind], old.name)
        _check_replacement(ddl, old, routine)
        routine = replace(routine, oid=old.oid, version=old.version + 1, owner=old.owner)
    else:
        routine = replace(routine, oid=await ddl.store.allocate_oids(), owner=ddl.role)
    put_routine(ddl, routine)
    recording = _check_body(ddl, routine, statement.body_position)
    if routine.form:
        uses = [*direct_uses(recording.tables_found()), *(oid for oid in recording.routine_oids if oid != routine.oid)]
        put_routine(ddl, replace(routine, depends_on=tuple(uses)))
    return tag


def put_routine(ddl: DdlContext, routine: Routine) -> None:
    ddl.apply([(keys.routine_key(routine.database, routine.oid), routine)])


def _check_language(statement: CreateRoutine) -> None:
    language = statement.options.get("language")
    if language is None:
        if not statement.form:
            raise _invalid("no language specified")
        return
    language = str(language).lower()
    if language == "sql":
        if statement.body is None:
            raise _invalid("no function body specified")
        return
    if language in _KNOWN_LANGUAGES:
        raise FeatureNotSupported(
            f"{_WORDS[statement.kind]}s in language {language} are not supported", hint="Use LANGUAGE sql."
        )
    raise UndefinedObject(f'language "{language}" does not exist')


# ---------------------------------------------------------------------------------------------------- signature


def _arguments(ddl: DdlContext, specs: Sequence[ArgumentSpec]) -> tuple[Argument, ...]:
    if len(specs) > MOST_ARGUMENTS:
        raise DatabaseError.of("54023", f"functions cannot have more than {MOST_ARGUMENTS} arguments")
    result: list[Argument] = []
    with_default = False
    for spec in specs:
        sql_type = _argument_type(ddl, spec)
        default_oid = 0
        _check_name(spec, result)
        if result and result[-1].mode == "v" and spec.mode not in "ot":
            raise _invalid("VARIADIC parameter must be the last input parameter")
        if spec.mode == "v" and not (sql_type.is_array or sql_type.oid in (ANYARRAY.oid, ANYCOMPATIBLEARRAY.oid)):
            raise _invalid("VARIADIC parameter must be an array")
        if spec.default is not None:
            if spec.mode in "ot":
                raise _invalid("only input parameters can have default values")
            default_oid = _check_default(ddl, spec, sql_type)
            with_default = True
        elif with_default and spec.mode not in "ot":
            raise _invalid("input parameters after one with a default value must also have defaults")
        result.append(Argument(spec.name, sql_type.oid, spec.mode, spec.default, default_oid))
    return tuple(result)


def _argument_type(ddl: DdlContext, spec: ArgumentSpec) -> SqlType:
    reference = spec.type
    if reference.type is None:
        relation = ddl.view.relation(reference.name.name, reference.name.schema)
        if isinstance(relation, Table) and not reference.is_array:
            raise FeatureNotSupported("arguments of a table's row type are not supported")
        raise UndefinedObject(f"type {ddl.written(reference.name)} does not exist")
    if reference.type.category == "P" and reference.type.oid not in POLYMORPHIC:
        raise _invalid(f"SQL functions cannot have arguments of type {reference.type.name}")
    return reference.type


def _check_name(spec: ArgumentSpec, before: Sequence[Argument]) -> None:
    for other in before:
        both_ways = spec.mode in "bot" and other.mode in "bot"
        inputs = spec.mode in "ibv" and other.mode in "ibv"
        if spec.name and other.name == spec.name and (both_ways or inputs or "t" in (spec.mode, other.mode)):
            raise _invalid(f'parameter name "{spec.name}" used more than once')


def _check_default(ddl: DdlContext, spec: ArgumentSpec, sql_type: SqlType) -> int:
    """Bind a default; tells its own type if the argument is polymorphic."""
    assert spec.default is not None
    default = bind.bind_scalar(spec.default, ddl.view, ddl.context, sql_type)
    return default.type.oid if is_polymorphic([sql_type]) else 0


def _result(ddl: DdlContext, statement: CreateRoutine, arguments: Sequence[Argument]) -> tuple[int, int]:
    """(pg_proc.prorettype, the table whose row type it is)."""
    outputs = [argument for argument in arguments if argument.mode in "obt"]
    if statement.kind == "p":
        return (RECORD_OID if outputs else VOID_OID), 0
    implied = outputs[0].type_oid if len(outputs) == 1 else RECORD_OID
    if any(argument.mode == "t" for argument in arguments):
        return implied, 0
    if statement.returns is None:
        if not outputs:
            raise _invalid("function result type must be specified")
        return implied, 0
    oid, row_of = _result_type(ddl, statement.returns)
    if outputs and oid != implied:
        raise _invalid(f"function result type must be {registry.format_type(implied)} because of OUT parameters")
    return oid, row_of


def _check_polymorphic(statement: CreateRoutine, arguments: Sequence[Argument], return_type: int) -> None:
    """A polymorphic result must follow from the arguments; what a body of the standard's forms means would not be known."""
    inputs = {argument.type_oid for argument in arguments if argument.mode in "ibv"}
    for oid in (return_type, *(argument.type_oid for argument in arguments if argument.mode in "ot")):
        for family in (SIMPLE, COMPATIBLE):
            if oid in family and not inputs & family:
                name, kin = registry.format_type(oid), _KIN[family is COMPATIBLE]
                raise _invalid(
                    "cannot determine result data type",
                    detail=f"A result of type {name} requires at least one input of type {kin}.",
                )
    if statement.form and inputs & POLYMORPHIC:
        raise _invalid("SQL function with unquoted function body cannot have polymorphic arguments")


def _result_type(ddl: DdlContext, reference: TypeReference) -> tuple[int, int]:
    if reference.type is not None:
        if reference.type.category == "P" and reference.type.oid not in {VOID_OID, RECORD_OID, *POLYMORPHIC}:
            raise _invalid(f"SQL functions cannot return type {reference.type.name}")
        table = row_type_owner(ddl, reference.type)
        return reference.type.oid, 0 if table is None else table.oid
    relation = ddl.view.relation(reference.name.name, reference.name.schema)
    if isinstance(relation, Table) and relation.row_type_oid and not reference.is_array:
        return relation.row_type_oid, relation.oid
    raise UndefinedObject(f'type "{ddl.written(reference.name)}" does not exist')


def with_options(routine: Routine, options: dict[str, Any]) -> Routine:
    """The routine with the options of CREATE or ALTER."""
    changes: dict[str, Any] = {}
    for name, value in options.items():
        match name:
            case "language":
                pass
            case "volatility":
                changes["volatility"] = str(value)[0]
            case "strict":
                changes["strict"] = bool(value)
            case "security":
                changes["security_definer"] = bool(value)
            case "leakproof":
                changes["leakproof"] = bool(value)
            case "parallel":
                if value not in ("safe", "restricted", "unsafe"):
                    raise DatabaseError.of("42601", 'parameter "parallel" must be SAFE, RESTRICTED, or UNSAFE')
                changes["parallel"] = value[0]
            case "cost":
                if float(value) <= 0:
                    raise DatabaseError.of("22023", "COST must be positive")
                changes["cost"] = float(value)
            case "rows":
                if float(value) <= 0:
                    raise DatabaseError.of("22023", "ROWS must be positive")
                if not routine.returns_set:
                    raise DatabaseError.of("22023", "ROWS is not applicable when function does not return a set")
                changes["rows"] = float(value)
            case "set":
                for setting, values in value:
                    changes["search_path"] = _search_path(setting, values)
            case _:
                raise FeatureNotSupported(f"{name.upper()} of functions is not supported")
    if routine.kind == "p" and changes.keys() - {"security_definer", "search_path"}:
        raise _invalid("invalid attribute in procedure definition")
    if routine.returns_set and not routine.rows:
        changes.setdefault("rows", 1000.0)
    return replace(routine, **changes)


def _search_path(setting: str | None, values: tuple[str, ...] | None) -> str | None:
    """The text of SET search_path TO …; None for RESET."""
    if setting is not None and setting.lower() != "search_path":
        raise FeatureNotSupported(f"SET {setting} of functions is not supported", hint="Functions can SET search_path.")
    return None if values is None else join_identifiers(values)


def _same_signature(ddl: DdlContext, routine: Routine) -> Routine | None:
    wanted = [argument.type_oid for argument in input_arguments(routine)]
    for other in ddl.view.state.routines_by_name.get((routine.schema, routine.name), ()):
        if [argument.type_oid for argument in input_arguments(other)] == wanted:
            return other
    return None


def _check_replacement(ddl: DdlContext, old: Routine, new: Routine) -> None:
    """What OR REPLACE must leave alone."""
    if old.kind != new.kind:
        word = _WORDS[old.kind]
        raise WrongObjectType("cannot change routine kind", detail=f'"{old.name}" is a {word}.')
    hint = f"Use DROP {_WORDS[old.kind].upper()} {signature(ddl, old)} first."
    if (old.return_type, old.returns_set) != (new.return_type, new.returns_set):
        raise _invalid(
            "cannot change return type of existing function"
            if old.kind == "f"
            else "cannot change whether a procedure has output parameters",
            hint=hint,
        )
    old_out = [(argument.name, argument.type_oid) for argument in output_arguments(old)]
    if len(old_out) > 1 and old_out != [(argument.name, argument.type_oid) for argument in output_arguments(new)]:
        raise _invalid(
            "cannot change return type of existing function",
            detail="Row type defined by OUT parameters is different.",
            hint=hint,
        )
    for before, after in zip(input_arguments(old), input_arguments(new), strict=True):
        if before.name and before.name != after.name:
            raise _invalid(f'cannot change name of input parameter "{before.name}"', hint=hint)
        if before.default is not None and after.default is None:
            raise _invalid("cannot remove parameter defaults from existing function", hint=hint)


def _check_body(ddl: DdlContext, routine: Routine, position: int | None) -> RecordingView:
    """Bind the body, and tell what it uses; string bodies only if check_function_bodies is on."""
    recording = RecordingView(ddl.view)
    if not routine.form and ddl.context.settings.get("check_function_bodies") == "off":
        return recording
    function = ddl.view.function_of(routine)
    if routine.search_path is not None:
        names = split_identifiers("search_path", routine.search_path)
        recording = RecordingView(ddl.view.with_path([ddl.current_role.name if n == "$user" else n for n in names]))
    try:
        if is_polymorphic(function.argument_types):
            bind.parse_routine_body(function)  # what it means depends on the call
        else:
            bind.bind_routine_body(function, recording, ddl.context, with_positions=position is not None)
    except DatabaseError as error:
        error.position = None if position is None or error.position is None else error.position + position - 1
        if error.where is None and error.sqlstate == "42P13":
            error.where = f'SQL function "{routine.name}"'
        raise
    return recording


# ---------------------------------------------------------------------------------------------------- ALTER, DROP


async def alter_routine(ddl: DdlContext, statement: AlterRoutine) -> str:
    routine = find_routine(ddl, statement.routine, statement.kind)
    if routine is None:
        raise missing_routine(ddl, statement.routine, statement.kind)
    ddl.require_owner(PG_PROC, routine.oid, statement.kind, routine.name)
    old = routine
    if statement.new_name:
        routine = replace(routine, name=clip(statement.new_name))
        _check_free(ddl, routine)
    elif statement.new_schema:
        schema = ddl.target_schema(Name(routine.name, statement.new_schema))
        if schema.oid != routine.schema:
            routine = replace(routine, schema=schema.oid)
            _check_free(ddl, routine)
    else:
        routine = with_options(routine, statement.options)
    put_routine(ddl, replace(routine, version=routine.version + 1))
    if (routine.name, routine.schema) != (old.name, old.schema):
        before, after = (ddl.view.state.schemas[each.schema].name for each in (old, routine))
        variants = calls_renamed(before, old.name, after, routine.name)
        await follow(ddl, old.name, variants, f"rename {statement.kind} {old.name}")
    return f"ALTER {statement.kind.upper()}"


def _check_free(ddl: DdlContext, routine: Routine) -> None:
    if _same_signature(ddl, routine) is not None:
        schema = ddl.view.state.schemas[routine.schema].name
        word = _WORDS[routine.kind]
        raise DatabaseError.of("42723", f'{word} {signature(ddl, routine)} already exists in schema "{schema}"')


async def drop_routines(ddl: DdlContext, statement: DropRoutines) -> str:
    found: list[Routine] = []
    for name in statement.routines:
        routine = find_routine(ddl, name, statement.kind, missing_ok=statement.missing_ok)
        if routine is not None:
            role = ddl.view.role
            if role is not None and not ddl.view.access.owns(role, PG_NAMESPACE, routine.schema):
                ddl.require_owner(PG_PROC, routine.oid, statement.kind, routine.name)
            found.append(routine)
        elif not statement.missing_ok:
            raise missing_routine(ddl, name, statement.kind)
        else:
            _tell_missing(ddl, statement.kind, name.name, name.arguments)
    await drop_found_routines(ddl, found, statement.cascade)
    return f"DROP {statement.kind.upper()}"


def _tell_missing(ddl: DdlContext, kind: str, name: Name, arguments: tuple[TypeReference, ...] | None) -> None:
    if name.schema is not None and ddl.view.schema_named(name.schema) is None:
        ddl.tell(f'schema "{name.schema}" does not exist, skipping')
        return
    types = "" if arguments is None else ",".join(_as_written(each) for each in arguments)
    ddl.tell(f"{kind} {ddl.written(name)}({types}) does not exist, skipping")


def _as_written(reference: TypeReference) -> str:
    """A type as the parser names it: ``pg_catalog.int4``."""
    text = reference.name.name if reference.name.schema is None else f"{reference.name.schema}.{reference.name.name}"
    return text + ("[]" if reference.is_array else "")
