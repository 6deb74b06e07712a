"""What the database tells about itself: version, who and where one is, settings, types of values, looking names up.

Functions that describe objects of the catalog are in pydistdb.sql.pg_catalog.  Settings live in the session, which
``EvalContext.extra`` is; ``EvalContext.settings`` has their values by lower-case name.

Source: PostgreSQL 15 manual, 9.26.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydistdb.sql.errors import (
    AmbiguousFunction,
    DatabaseError,
    FeatureNotSupported,
    InvalidSchemaName,
    UndefinedObject,
)
from pydistdb.sql.functions.define import Body, define, implements, read_table, specializes
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.reg import FINDERS, Finder
from pydistdb.sql.types.registry import REGCLASS, io


def release() -> str:
    """PyDistDB's own version."""
    try:
        return version("pydistdb")
    except PackageNotFoundError:
        return "unknown"


VERSION_TEXT = (
    f"PostgreSQL 15.0 (PyDistDB {release()}) on {platform.machine()}, Python {platform.python_version()}, 64-bit"
)

define("version()", lambda: VERSION_TEXT)
define("current_database()", lambda context: context.database_name, context=True)
define("current_user()", lambda context: context.user, context=True)
define("session_user()", lambda context: context.session_user, context=True)
define("getpgusername()", lambda context: context.user, context=True)
define("pg_client_encoding()", lambda: "UTF8")
define("getdatabaseencoding()", lambda: "UTF8")
define("pg_jit_available()", lambda: False)
define("pg_trigger_depth()", lambda: 0)


# ------------------------------------------------------------------------------------------------ schemas


def _schemas(context: EvalContext, implicit: bool) -> list[str]:
    catalog = context.catalog
    if catalog is None:
        return ["pg_catalog", "public"] if implicit else ["public"]
    path = [name for name in catalog.search_path if catalog.schema_named(name) is not None]
    if implicit:
        return path
    named = context.settings.get("search_path", "")
    # pg_catalog and pg_temp are searched first even when the setting does not name them; then they are implicit.
    own = getattr(catalog, "temporary_schema", "")
    implied = {"pg_catalog": "pg_catalog", own: "pg_temp"} if own else {"pg_catalog": "pg_catalog"}
    return [name for name in path if name not in implied or implied[name] in named]


@implements("current_schema()", context=True)
def current_schema(context: EvalContext) -> str | None:
    return next(iter(_schemas(context, False)), None)


@implements("current_schemas(bool)", context=True)
def current_schemas(context: EvalContext, implicit: bool) -> PgArray:
    return PgArray.of(_schemas(context, implicit))


# ------------------------------------------------------------------------------------------------ settings


def _unknown_setting(name: str) -> UndefinedObject:
    return UndefinedObject(f'unrecognized configuration parameter "{name}"')


@implements("current_setting(text)", context=True)
def current_setting(context: EvalContext, name: str) -> str | None:
    value = context.settings.get(name.lower())
    if value is None:
        raise _unknown_setting(name)
    return value


@implements("current_setting(text,bool)", context=True)
def current_setting_or_null(context: EvalContext, name: str, missing_ok: bool) -> str | None:
    value = context.settings.get(name.lower())
    if value is None and not missing_ok:
        raise _unknown_setting(name)
    return value


@implements("set_config(text,text,bool)", context=True)
def set_config(context: EvalContext, name: str | None, value: str | None, local: bool | None) -> str:
    """Set a setting as SET does; the session does the work (``set_config`` there, or its ``settings``)."""
    if name is None:
        raise DatabaseError.of("22004", "SET requires parameter name")
    session = context.extra
    if session is None:
        raise FeatureNotSupported("settings can only be changed in a session")
    own = getattr(session, "set_config", None)
    if own is not None:
        return str(own(name, value, bool(local)))
    from pydistdb.sql.settings import find

    return str(session.settings.set(find(name), value or "", local=bool(local)))


# ------------------------------------------------------------------------------------------------ processes


@implements("pg_backend_pid()", context=True)
def backend_pid(context: EvalContext) -> int:
    return int(getattr(context.extra, "process_id", None) or os.getpid())


def _environment(context: EvalContext) -> Any:
    environment = getattr(context.extra, "environment", None)
    if environment is None:
        raise FeatureNotSupported("this function needs a server")
    return environment


define("pg_postmaster_start_time()", lambda context: _environment(context).started_us, context=True)
define("pg_conf_load_time()", lambda context: _environment(context).started_us, context=True)

# ------------------------------------------------------------------------------------------------ values


@specializes("pg_typeof(any)")
def _type_of(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    oid = argument_types[0].oid
    return lambda value: oid


define("num_nulls(any)", lambda *values: sum(value is None for value in values))
define("num_nonnulls(any)", lambda *values: sum(value is not None for value in values))


@implements("gen_random_uuid()")
def random_uuid() -> bytes:
    """A version 4 UUID: 122 random bits."""
    data = bytearray(os.urandom(16))
    data[6] = data[6] & 0x0F | 0x40
    data[8] = data[8] & 0x3F | 0x80
    return bytes(data)


_KEYWORD_KINDS = {
    "U": "unreserved",
    "C": "unreserved (cannot be function or type name)",
    "T": "reserved (can be function or type name)",
    "R": "reserved",
}


@implements("pg_get_keywords()")
def keywords() -> list[tuple[str, str, bool, str, str]]:
    """Postgres's key words, and where they may stand without quotes."""
    return [
        (word, kind, bare == "t", _KEYWORD_KINDS[kind], "can be bare label" if bare == "t" else "requires AS")
        for word, kind, bare in read_table("pg_keywords.txt")
    ]


def _found(find: Finder, text: str, context: EvalContext) -> int | None:
    """The oid of a name; None even where its schema does not exist, or several objects have the name."""
    try:
        return find(text, context)
    except (InvalidSchemaName, AmbiguousFunction):
        return None


for _kind, _find in FINDERS.items():
    define(f"to_{_kind}(text)", lambda context, text, find=_find: _found(find, text, context), context=True)


@implements("regclass(text)", context=True)
def text_to_regclass(context: EvalContext, text: str) -> int:
    return int(io(REGCLASS.oid).parse(text, -1, context))
