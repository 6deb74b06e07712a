"""Errors as Postgres reports them: one class per SQLSTATE that the code distinguishes (manual, appendix A).

``raise UndefinedTable('relation "t" does not exist', position=15)``.  For codes nobody catches by class,
``DatabaseError.of("22P02", …)`` will do.  Message texts are Postgres 15's, character for character: drivers and test
suites compare them.
"""

from __future__ import annotations

from copy import copy


class DatabaseError(Exception):
    """An error for the client.

    ``position`` is the 1-based character offset into the statement text; the names (schema, table, column, datatype,
    constraint) fill the fields of the wire protocol's ErrorResponse (manual, 55.8).
    """

    sqlstate = "XX000"
    severity = "ERROR"
    routine: str | None = None
    """The function of Postgres that reports this, where drivers go by it (asyncpg)."""

    def __init__(
        self,
        message: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        position: int | None = None,
        where: str | None = None,
        schema: str | None = None,
        table: str | None = None,
        column: str | None = None,
        datatype: str | None = None,
        constraint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.position = position
        self.where = where
        self.schema = schema
        self.table = table
        self.column = column
        self.datatype = datatype
        self.constraint = constraint

    def again(self) -> DatabaseError:
        """The same error to be raised once more: one that is kept must not gather tracebacks."""
        return copy(self).with_traceback(None)

    @staticmethod
    def of(sqlstate: str, message: str, **fields: object) -> DatabaseError:
        """An error of any code: of the class that stands for it, where one does."""
        error = _BY_STATE.get(sqlstate, DatabaseError)(message, **fields)  # type: ignore[arg-type]
        error.sqlstate = sqlstate
        return error


class FeatureNotSupported(DatabaseError):
    sqlstate = "0A000"


class ProtocolViolation(DatabaseError):
    sqlstate = "08P01"


class NumericValueOutOfRange(DatabaseError):
    sqlstate = "22003"


class InvalidTextRepresentation(DatabaseError):
    sqlstate = "22P02"


class InvalidParameterValue(DatabaseError):
    sqlstate = "22023"


class InvalidDatetimeFormat(DatabaseError):
    sqlstate = "22007"


class DatetimeFieldOverflow(DatabaseError):
    sqlstate = "22008"


class DivisionByZero(DatabaseError):
    sqlstate = "22012"


class StringDataRightTruncation(DatabaseError):
    sqlstate = "22001"


class CardinalityViolation(DatabaseError):
    sqlstate = "21000"


class NotNullViolation(DatabaseError):
    sqlstate = "23502"


class ForeignKeyViolation(DatabaseError):
    sqlstate = "23503"


class UniqueViolation(DatabaseError):
    sqlstate = "23505"


class CheckViolation(DatabaseError):
    sqlstate = "23514"


class ActiveTransaction(DatabaseError):
    sqlstate = "25001"


class InFailedTransaction(DatabaseError):
    sqlstate = "25P02"


class ReadOnlyTransaction(DatabaseError):
    sqlstate = "25006"


class NoActiveTransaction(DatabaseError):
    sqlstate = "25P01"


class InvalidStatementName(DatabaseError):
    sqlstate = "26000"


class DependentObjectsStillExist(DatabaseError):
    sqlstate = "2BP01"


class InvalidCursorName(DatabaseError):
    sqlstate = "34000"


class InvalidCatalogName(DatabaseError):
    sqlstate = "3D000"


class InvalidSchemaName(DatabaseError):
    sqlstate = "3F000"


class SerializationFailure(DatabaseError):
    sqlstate = "40001"


class StatementCompletionUnknown(DatabaseError):
    sqlstate = "40003"


class DeadlockDetected(DatabaseError):
    sqlstate = "40P01"


class InvalidSyntax(DatabaseError):
    sqlstate = "42601"


class UndefinedColumn(DatabaseError):
    sqlstate = "42703"


class UndefinedFunction(DatabaseError):
    sqlstate = "42883"


class UndefinedTable(DatabaseError):
    sqlstate = "42P01"


class UndefinedObject(DatabaseError):
    sqlstate = "42704"


class UndefinedParameter(DatabaseError):
    sqlstate = "42P02"


class DuplicateColumn(DatabaseError):
    sqlstate = "42701"


class DuplicateTable(DatabaseError):
    sqlstate = "42P07"


class DuplicateObject(DatabaseError):
    sqlstate = "42710"


class DuplicateDatabase(DatabaseError):
    sqlstate = "42P04"


class DuplicateSchema(DatabaseError):
    sqlstate = "42P06"


class DuplicateAlias(DatabaseError):
    sqlstate = "42712"


class AmbiguousColumn(DatabaseError):
    sqlstate = "42702"


class AmbiguousFunction(DatabaseError):
    sqlstate = "42725"


class AmbiguousParameter(DatabaseError):
    sqlstate = "42P08"


class IndeterminateDatatype(DatabaseError):
    sqlstate = "42P18"


class GroupingError(DatabaseError):
    sqlstate = "42803"


class DatatypeMismatch(DatabaseError):
    sqlstate = "42804"


class WrongObjectType(DatabaseError):
    sqlstate = "42809"


class InvalidColumnReference(DatabaseError):
    sqlstate = "42P10"


class InvalidTableDefinition(DatabaseError):
    sqlstate = "42P16"


class InvalidObjectDefinition(DatabaseError):
    sqlstate = "42P17"


class InvalidForeignKey(DatabaseError):
    sqlstate = "42830"


class CannotCoerce(DatabaseError):
    sqlstate = "42846"


class InsufficientPrivilege(DatabaseError):
    sqlstate = "42501"


class TooManyConnections(DatabaseError):
    sqlstate = "53300"


class DiskFull(DatabaseError):
    sqlstate = "53100"


class ProgramLimitExceeded(DatabaseError):
    sqlstate = "54000"


class ObjectInUse(DatabaseError):
    sqlstate = "55006"


class LockNotAvailable(DatabaseError):
    sqlstate = "55P03"


class QueryCanceled(DatabaseError):
    sqlstate = "57014"


class AdminShutdown(DatabaseError):
    sqlstate = "57P01"
    severity = "FATAL"


class CannotConnectNow(DatabaseError):
    sqlstate = "57P03"


class InternalError(DatabaseError):
    sqlstate = "XX000"


_BY_STATE: dict[str, type[DatabaseError]] = {cls.sqlstate: cls for cls in DatabaseError.__subclasses__()}
