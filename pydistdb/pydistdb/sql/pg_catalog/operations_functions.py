"""Schema proddb, the functions: what operators have done.  Superusers only.

    SELECT proddb.split_range(7);                     -- at a row near its middle; gives the right part's id
    SELECT proddb.split_at('users', 500);             -- before the row with this key (of hash-sharded tables: its hash)
    SELECT proddb.merge_range(7);                     -- takes in its right neighbour
    SELECT proddb.merge_at('users', 500);             -- takes away the boundary before that row
    SELECT proddb.move_lease(7, 2), proddb.move_replica(7, 2, 4);
    SELECT proddb.recover_transactions();             -- finishes what is in doubt, and tells of it in JSON
    SELECT proddb.set_setting('rebalance.enabled', 'off');
    SELECT proddb.directory_assign('tenants', '7', 2);  -- rows with this value of the shard column go to shard 2
    SELECT proddb.directory_move('tenants', '7', 2);    -- and those that are there move
    SELECT proddb.drain(3), proddb.decommission(3), proddb.recommission(3);

They take effect at once and are not undone by ROLLBACK: ranges and nodes are no rows.  Each waits until its deed is done,
but for the last three, which only begin it (proddb.jobs shows how far they are).  A directory can be changed by its table's
owner, too.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from pydistdb.kv.api import KVError
from pydistdb.kv.names import shown_id
from pydistdb.kv.operations import Operations
from pydistdb.kv.txn.recovery import Recovered
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.directory import assign
from pydistdb.sql.catalog.transaction import DdlTransaction, in_own_transaction
from pydistdb.sql.errors import (
    ActiveTransaction,
    FeatureNotSupported,
    InsufficientPrivilege,
    InvalidParameterValue,
    UndefinedTable,
    WrongObjectType,
)
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.functions.effects import MustAct, act
from pydistdb.sql.functions.sessions import active_session
from pydistdb.sql.kv_errors import database_error
from pydistdb.sql.layout import TableLayout
from pydistdb.sql.pg_catalog.provide import view_of
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext, Function, SqlType
from pydistdb.sql.types.known import BOOL, INT4, INT8, JSON, REGCLASS, TEXT, TYPES_BY_OID, VOID

_FIRST_OID = 13_960
_OF_TEXTS = 15
"""So much further is the number of the form that takes texts."""
_TEXT_ARRAY = TYPES_BY_OID[1009]

Deed = Callable[[Operations], Awaitable[Any]]


class _Operation(MustAct):
    """A deed that the statement waits for."""

    def __init__(self, operations: Operations, deed: Deed) -> None:
        super().__init__("operation")
        self._operations = operations
        self._deed = deed

    async def act(self) -> Any:
        try:
            result = await self._deed(self._operations)
        except KVError as error:
            raise database_error(error) from error
        return "" if result is None else result


def _do(context: EvalContext, name: str, deed: Deed) -> Any:
    session = active_session(context)
    if not view_of(context).catalog_state.roles.is_superuser(context.role):
        raise InsufficientPrivilege(f"must be superuser to call proddb.{name}")
    operations = session.environment.operations
    if operations is None:
        raise FeatureNotSupported("this server has no ranges to operate on")
    return act(context, _Operation(operations, deed))


def _register(
    number: int,
    name: str,
    arguments: tuple[tuple[str, SqlType], ...],
    returns: SqlType,
    body: Callable[..., Any],
) -> None:
    functions.register(
        Function(
            _FIRST_OID + number,
            name,
            tuple(sql_type for _, sql_type in arguments),
            returns,
            body,
            volatility="v",
            needs_context=True,
            argument_names=tuple(argument for argument, _ in arguments),
            schema="proddb",
        )
    )


def _register_at(number: int, name: str, deed: Callable[[Operations, bytes], Awaitable[Any]]) -> None:
    """A function of a table and the values of a row's key, of whatever types they are given: their texts count.

    What has no type yet (a driver's parameters, literals in quotes) is taken for text, hence the second form."""

    def act(context: EvalContext, relation: int | None, key: Sequence[str | None]) -> Any:
        if relation is None:
            return None
        boundary = _boundary(context, relation, key)
        return _do(context, name, lambda operations: deed(operations, boundary))

    def specialize(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Function:
        formats = [registry.io(sql_type.oid).format for sql_type in argument_types[1:]]

        def of_values(context: EvalContext, relation: int | None, *values: Any) -> Any:
            texts = [
                None if value is None else text(value, context) for text, value in zip(formats, values, strict=True)
            ]
            return act(context, relation, texts)

        return replace(generic, argument_types=argument_types, implementation=of_values, specialize=None)

    generic = Function(
        _FIRST_OID + number,
        name,
        (REGCLASS, registry.ANY),
        INT8,
        lambda *_: None,
        strict=False,
        volatility="v",
        variadic=True,
        needs_context=True,
        argument_names=("relation", "key"),
        schema="proddb",
        specialize=specialize,
    )
    functions.register(generic)
    functions.register(
        replace(
            generic,
            oid=_FIRST_OID + _OF_TEXTS + number,
            argument_types=(REGCLASS, _TEXT_ARRAY),
            implementation=lambda context, relation, key: act(context, relation, () if key is None else key.items),
            specialize=None,
        )
    )


def _boundary(context: EvalContext, oid: int, key: Sequence[str | None]) -> bytes:
    """Where the row with this key begins, or in a hash-sharded table the rows with its hash."""
    table = view_of(context).table_by_oid(oid)
    if table is None:
        raise UndefinedTable(f"relation with OID {oid} does not exist")
    if table.kind not in "rm":
        raise WrongObjectType(f'"{table.name}" is not a table or materialized view')
    layout = TableLayout.of(table)
    if layout.primary.is_row_id and table.sharding is None:
        raise InvalidParameterValue(f'table "{table.name}" has no primary key to split it at')
    types = {column.number: column.type_oid for column in table.columns}
    by_row = layout.shards is None or (not layout.shards.is_hash and layout.primary.shard_positions is not None)
    columns = layout.primary.columns if table.sharding is None or by_row else table.sharding.columns
    least = 1 if by_row else len(columns)
    if by_row and layout.primary.shard_positions is not None:
        least = max(layout.primary.shard_positions) + 1
    texts = [text for text in key if text is not None]
    if not least <= len(texts) <= len(columns) or len(texts) < len(key):
        wanted = str(len(columns)) if least == len(columns) else f"{least} to {len(columns)}"
        noun = "value" if wanted == "1" else "values"
        raise InvalidParameterValue(f'a split of table "{table.name}" needs {wanted} {noun}, and no NULLs')
    oids = [types[column] for column in columns]
    values = [registry.io(oid).parse(text, -1, context) for oid, text in zip(oids, texts, strict=False)]
    if not by_row:
        return layout.shard_span(layout.shard_number(values)).start
    head = layout.head_of_prefix(layout.primary, values)
    assert head is not None
    return head + layout.primary.encode(values)


def split_range(context: EvalContext, range_id: int) -> Any:
    return _do(context, "split_range", lambda operations: operations.split(range_id))


def merge_range(context: EvalContext, range_id: int) -> Any:
    return _do(context, "merge_range", lambda operations: operations.merge(range_id))


def move_lease(context: EvalContext, range_id: int, to: int) -> Any:
    return _do(context, "move_lease", lambda operations: operations.move_lease(range_id, to))


def move_replica(context: EvalContext, range_id: int, away: int, to: int) -> Any:
    return _do(context, "move_replica", lambda operations: operations.move_replica(range_id, away, to))


def drain(context: EvalContext, node_id: int) -> Any:
    return _do(context, "drain", lambda operations: operations.drain(node_id))


def decommission(context: EvalContext, node_id: int) -> Any:
    return _do(context, "decommission", lambda operations: operations.decommission(node_id))


def recommission(context: EvalContext, node_id: int) -> Any:
    return _do(context, "recommission", lambda operations: operations.recommission(node_id))


def recover_transactions(context: EvalContext) -> Any:
    async def recover(operations: Operations) -> str:
        return json.dumps([_reported(each) for each in await operations.recover_transactions()])

    return _do(context, "recover_transactions", recover)


def _reported(found: Recovered) -> dict[str, Any]:
    """One transaction in the report, as a JSON object."""
    return {
        "transaction_id": shown_id(found.transaction_id),
        "full_id": found.transaction_id.hex(),
        "gid": found.name or None,
        "coordinator": found.coordinator,
        "participants": [
            {"range_id": each.range_id, "node_id": each.node, "writes": each.writes, "locks": each.locks}
            for each in found.participants
        ],
        "outcome": found.outcome,
        "detail": found.detail,
    }


def set_setting(context: EvalContext, name: str, value: str) -> Any:
    return _do(context, "set_setting", lambda operations: operations.set(name, value))


class _DirectoryEntry(MustAct):
    """A change of a table's directory, in a transaction of its own."""

    def __init__(self, session: Any, relation: int, key: str, shard: int, *, move: bool) -> None:
        super().__init__("directory entry")
        self._session = session
        self._arguments = relation, key, shard
        self._move = move

    async def act(self) -> Any:
        session = self._session

        async def enter(own: DdlTransaction) -> int:
            own.check_interrupt = session.check_interrupt
            own.lock_deadline_ns = session.lock_deadline_ns()
            role = session.identity.current
            context = DdlContext(own, session.database_name, session.search_path, session.context, role=role)
            return await assign(context, *self._arguments, move=self._move)

        try:
            return await in_own_transaction(session.environment.catalog, enter)
        except KVError as error:
            raise database_error(error) from error


def _enter(context: EvalContext, relation: int, key: str, shard: int, *, move: bool) -> Any:
    session = active_session(context)
    if session.transaction.in_block:
        raise ActiveTransaction("a directory cannot be changed inside a transaction block")
    return act(context, _DirectoryEntry(session, relation, key, shard, move=move))


def directory_assign(context: EvalContext, relation: int, key: str, shard: int) -> Any:
    return _enter(context, relation, key, shard, move=False)


def directory_move(context: EvalContext, relation: int, key: str, shard: int) -> Any:
    return _enter(context, relation, key, shard, move=True)


class _Cancel(MustAct):
    """Has the re-sharding of a table undone."""

    def __init__(self, jobs: Any, job: int) -> None:
        super().__init__("reshard_cancel")
        self._jobs = jobs
        self._job = job

    async def act(self) -> Any:
        try:
            return await self._jobs.cancel(self._job)
        except KVError as error:
            raise database_error(error) from error


def reshard_cancel(context: EvalContext, relation: int) -> Any:
    session, view = active_session(context), view_of(context)
    table = view.table_by_oid(relation)
    if table is None:
        raise UndefinedTable(f"relation with OID {relation} does not exist")
    if not view.catalog_state.roles.is_superuser(context.role) and table.owner != context.role:
        raise InsufficientPrivilege(f"must be owner of table {table.name}")
    if table.resharding is None:
        return False
    return act(context, _Cancel(session.environment.catalog.index_jobs, table.resharding.job))


_RANGE, _NODE = ("range_id", INT8), ("node_id", INT4)
_register(0, "split_range", (_RANGE,), INT8, split_range)
_register_at(1, "split_at", lambda operations, boundary: operations.split_at(boundary))
_register(2, "move_lease", (_RANGE, _NODE), VOID, move_lease)
_register(3, "move_replica", (_RANGE, ("from_node", INT4), ("to_node", INT4)), VOID, move_replica)
_register(4, "drain", (_NODE,), VOID, drain)
_register(5, "decommission", (_NODE,), VOID, decommission)
_register(6, "recommission", (_NODE,), VOID, recommission)
_register(7, "merge_range", (_RANGE,), INT8, merge_range)
_register(10, "set_setting", (("name", TEXT), ("value", TEXT)), VOID, set_setting)
_register_at(8, "merge_at", lambda operations, boundary: operations.merge_at(boundary))
_register(9, "recover_transactions", (), JSON, recover_transactions)
_ENTRY = (("relation", REGCLASS), ("key", TEXT), ("shard", INT4))
_register(11, "directory_assign", _ENTRY, INT8, directory_assign)
_register(12, "directory_move", _ENTRY, INT8, directory_move)
_register(13, "reshard_cancel", (("relation", REGCLASS),), BOOL, reshard_cancel)
