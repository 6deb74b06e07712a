"""Finding a function by what stands in DROP, ALTER and COMMENT: ``f(integer, text)``, or ``f`` if there is only one."""

from __future__ import annotations

from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Routine
from pydistdb.sql.errors import AmbiguousFunction, DatabaseError, UndefinedFunction, UndefinedObject, WrongObjectType
from pydistdb.sql.routines import input_arguments
from pydistdb.sql.statements import RoutineName
from pydistdb.sql.types import registry

_KINDS = {"function": "f", "procedure": "p", "routine": "fp"}


def signature(ddl: DdlContext, routine: Routine) -> str:
    """``f(integer,text)``, with the schema if the search_path would not find it."""
    types = ",".join(registry.format_type(argument.type_oid) for argument in input_arguments(routine))
    function = ddl.view.function_of(routine)
    if any(found.oid == routine.oid for found in ddl.view.routines(routine.name)):
        return f"{routine.name}({types})"
    return f"{function.schema}.{routine.name}({types})"


def described_routine(ddl: DdlContext, routine: Routine) -> str:
    """``function f(integer)``, as dependencies are listed (procedures too)."""
    return f"function {signature(ddl, routine)}"


def find_routine(ddl: DdlContext, wanted: RoutineName, kind: str, *, missing_ok: bool = False) -> Routine | None:
    """The routine of that name and arguments; raises 42809 if it is of the other kind."""
    if wanted.name.schema is not None and ddl.view.schema_named(wanted.name.schema) is None:
        if missing_ok:
            return None
        ddl.schema(wanted.name.schema)
    found = [function.routine for function in ddl.view.routines(wanted.name.name, wanted.name.schema)]
    if wanted.arguments is None:
        found = [routine for routine in found if routine.kind in _KINDS[kind]] or found
        if len(found) > 1:
            raise AmbiguousFunction(
                f'{kind} name "{ddl.written(wanted.name)}" is not unique',
                hint=f"Specify the argument list to select the {kind} unambiguously.",
            )
    else:
        types = []
        for reference in wanted.arguments:
            if reference.type is None:
                if missing_ok:
                    return None
                raise UndefinedObject(f'type "{ddl.written(reference.name)}" does not exist')
            types.append(reference.type.oid)
        found = [r for r in found if [argument.type_oid for argument in input_arguments(r)] == types]
    if not found:
        return None
    routine = found[0]
    if routine.kind not in _KINDS[kind]:
        raise WrongObjectType(f"{signature(ddl, routine)} is not a {kind}")
    return routine


def missing_routine(ddl: DdlContext, wanted: RoutineName, kind: str) -> DatabaseError:
    if wanted.arguments is None:
        return UndefinedFunction(f'could not find a {kind} named "{ddl.written(wanted.name)}"')
    types = ", ".join(
        registry.format_type(each.type.oid) if each.type is not None else each.name.name for each in wanted.arguments
    )
    return UndefinedFunction(f"{kind} {ddl.written(wanted.name)}({types}) does not exist")
