"""Prepared statements and portals of a session, and how parameter bytes become values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydistdb.sql.clock import now_us
from pydistdb.sql.errors import DatabaseError, InvalidCursorName, InvalidStatementName, ProgramLimitExceeded
from pydistdb.sql.errors import ProtocolViolation as Violation
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.session.execute import Execution
from pydistdb.sql.statements import Copy
from pydistdb.sql.types import known, registry
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.user import derived_from_types

MAX_PREPARED_STATEMENTS = 10_000
MAX_PORTALS = 1_000

ParameterReader = Callable[[bytes, EvalContext], Any]


class SessionStatement:
    """A prepared statement (api.PreparedStatement): its plan is renewed when the catalog or a setting it depends on moves.

    ``from_sql``: made by PREPARE, not by the protocol."""

    __slots__ = ("digits", "fields", "from_sql", "name", "parameter_oids", "plan", "prepared_us", "shown_text", "text")

    def __init__(self, name: str, text: str, plan: CachedPlan, *, from_sql: bool, prepared_us: int) -> None:
        self.name = name
        self.text = text
        self.plan = plan
        self.parameter_oids = plan.parameter_oids
        self.digits = tuple(_SHORT_DIGITS.get(oid, 0) for oid in plan.parameter_oids)
        """For each parameter how many digits are surely a value of its type; 0: it is not an integer."""
        self.fields = plan.fields
        self.from_sql = from_sql
        self.prepared_us = prepared_us
        self.shown_text = text
        """What pg_prepared_statements shows: all of the string with PREPARE in it."""


class SessionPortal:
    """A bound statement (api.Portal); ``execution`` is there once it has been started."""

    __slots__ = (
        "created_us",
        "done",
        "execution",
        "fields",
        "name",
        "parameters",
        "plan",
        "result_formats",
        "statement",
        "takes_copy_data",
    )

    def __init__(
        self,
        name: str,
        statement: SessionStatement,
        plan: CachedPlan,
        parameters: tuple[Any, ...],
        result_formats: tuple[int, ...],
    ) -> None:
        self.name = name
        self.statement = statement
        self.plan = plan
        self.fields = plan.fields
        self.parameters = parameters
        self.result_formats = result_formats
        self.takes_copy_data = isinstance(plan.utility, Copy) and plan.utility.is_from
        self.execution: Execution | None = None
        self.done = False
        self.created_us = 0


class StatementStore:
    """The names a session has given to statements and portals."""

    def __init__(self) -> None:
        self.statements: dict[str, SessionStatement] = {}
        self.portals: dict[str, SessionPortal] = {}

    def statement(self, name: str) -> SessionStatement:
        found = self.statements.get(name)
        if found is None:
            if not name:
                raise InvalidStatementName("unnamed prepared statement does not exist")
            raise InvalidStatementName(f'prepared statement "{name}" does not exist')
        return found

    def check_new_statement(self, name: str) -> None:
        """Raise 42P05 for a name in use; the unnamed statement may always be replaced."""
        if name and name in self.statements:
            raise DatabaseError.of("42P05", f'prepared statement "{name}" already exists')
        if len(self.statements) >= MAX_PREPARED_STATEMENTS:
            raise ProgramLimitExceeded(f"a session can have at most {MAX_PREPARED_STATEMENTS} prepared statements")

    def portal(self, name: str) -> SessionPortal:
        found = self.portals.get(name)
        if found is None:
            raise InvalidCursorName(f'portal "{name}" does not exist')
        return found

    def add_portal(self, portal: SessionPortal) -> None:
        name = portal.name
        if name:
            if name in self.portals:
                raise DatabaseError.of("42P03", f'cursor "{name}" already exists')
            if len(self.portals) >= MAX_PORTALS:
                raise ProgramLimitExceeded(f"a session can have at most {MAX_PORTALS} portals")
            portal.created_us = now_us()
        self.portals[name] = portal


def result_formats(plan: CachedPlan, wanted: Sequence[int]) -> tuple[int, ...]:
    """The format of every result column, from what Bind asked for: none (text), one for all, or one each."""
    columns = 0 if plan.fields is None else len(plan.fields)
    for code in wanted:
        if code not in (0, 1):
            raise DatabaseError.of("22023", f"unsupported format code: {code}")
    if not wanted:
        return (0,) * columns
    if len(wanted) == 1:
        return (wanted[0],) * columns
    if plan.fields is not None and len(wanted) != columns:
        raise Violation(f"bind message has {len(wanted)} result formats but query has {columns} columns")
    return tuple(wanted)


def read_parameters(
    statement: SessionStatement,
    portal: str,
    values: Sequence[bytes | None],
    formats: Sequence[int],
    context: EvalContext,
) -> tuple[Any, ...]:
    """Parameter bytes as runtime values."""
    oids = statement.parameter_oids
    count = len(values)
    if count != len(oids):
        raise Violation(
            f'bind message supplies {count} parameters, but prepared statement "{statement.name}" requires {len(oids)}'
        )
    if not count:
        return ()
    if len(formats) > 1 and len(formats) != count:
        raise Violation(f"bind message has {len(formats)} parameter formats but {count} parameters")
    parameters: list[Any] = []
    for index, data in enumerate(values):
        if data is None:
            parameters.append(None)
            continue
        code = 0 if not formats else formats[0] if len(formats) == 1 else formats[index]
        # The usual text of a number, without a detour; everything else goes by the type's own rules.
        if code == 0 and len(data) <= statement.digits[index] and (data.isdigit() or _is_negative(data)):
            parameters.append(int(data))
            continue
        oid = oids[index]
        reader = _readers.get((oid, code)) or _reader(oid, code)
        try:
            parameters.append(reader(data, context))
        except DatabaseError as error:
            if error.where is None:
                error.where = _where(portal, index, data if code == 0 else None)
            raise
    return tuple(parameters)


_SHORT_DIGITS = {known.INT2.oid: 4, known.INT4.oid: 9, known.INT8.oid: 18}
_readers: dict[tuple[int, int], ParameterReader] = derived_from_types({})


def _is_negative(data: bytes) -> bool:
    """Whether this is a minus sign and digits."""
    return data[:1] == b"-" and data[1:].isdigit()


def _reader(oid: int, code: int) -> ParameterReader:
    """How a parameter of this type and format is read."""
    io = registry.io(oid)
    if code == 0:
        parse = io.parse

        def read_text(data: bytes, context: EvalContext) -> Any:
            return parse(decode_text(data), -1, context)

        reader: ParameterReader = read_text
    elif code == 1:
        decode = io.decode

        def read_binary(data: bytes, context: EvalContext) -> Any:
            return decode(data)

        reader = read_binary
    else:
        raise DatabaseError.of("22023", f"unsupported format code: {code}")
    _readers[oid, code] = reader
    return reader


def decode_text(data: bytes) -> str:
    """Client text; raises 22021 where it is not UTF-8 (or holds a zero byte)."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        bad = " ".join(f"0x{byte:02x}" for byte in data[error.start : error.start + max(1, error.end - error.start)])
        raise DatabaseError.of("22021", f'invalid byte sequence for encoding "UTF8": {bad}') from None
    if "\0" in text:
        raise DatabaseError.of("22021", 'invalid byte sequence for encoding "UTF8": 0x00')
    return text


def _where(portal: str, index: int, data: bytes | None) -> str:
    whose = f'portal "{portal}"' if portal else "unnamed portal"
    if data is None:
        return f"{whose} parameter ${index + 1}"
    text = data.decode(errors="replace").replace("'", "''")
    return f"{whose} parameter ${index + 1} = '{text}'"
