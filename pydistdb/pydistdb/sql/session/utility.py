"""Utility statements: transaction control, settings, EXPLAIN, PREPARE and EXECUTE, and the way to DDL and COPY.

``run`` gives the command tag; warnings go to the sink.  Messages are Postgres's (manual, part VI).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydistdb.sql import bind
from pydistdb.sql import statements as st
from pydistdb.sql.api import Sink
from pydistdb.sql.catalog import ddl as schema
from pydistdb.sql.catalog.access import PG_CLASS
from pydistdb.sql.catalog.acl import DELETE, INSERT, SELECT, TRUNCATE, UPDATE
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.needs import permission_denied, relation_kind
from pydistdb.sql.catalog.roles import CHECKPOINT
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.catalog.temporary import drop_everything
from pydistdb.sql.errors import (
    ActiveTransaction,
    DatabaseError,
    FeatureNotSupported,
    InsufficientPrivilege,
    InvalidParameterValue,
    InvalidStatementName,
    LockNotAvailable,
    NoActiveTransaction,
    UndefinedTable,
)
from pydistdb.sql.exec.codegen import evaluator
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.waiting import once
from pydistdb.sql.pg_catalog.functions_sequences import forget_values
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.session import calls, copy, explain
from pydistdb.sql.session.constraints import set_constraints
from pydistdb.sql.session.cursors import fetch_rows
from pydistdb.sql.session.execute import Execution
from pydistdb.sql.session.fields import check_same_columns
from pydistdb.sql.session.settings import IDENTITY
from pydistdb.sql.settings import SETTINGS, canonical, find, join_identifiers

if TYPE_CHECKING:
    from pydistdb.sql.session.session import ClientSession

_LISTS = frozenset({"search_path", "datestyle", "temp_tablespaces"})


async def run(
    session: ClientSession,
    plan: CachedPlan,
    utility: st.Utility,
    sink: Sink,
    *,
    simple: bool,
    parameters: Sequence[Any] = (),
) -> str:
    """Execute a utility statement; returns its command tag.  ``simple``: rows are announced before they are sent."""
    match utility:
        case st.Begin() | st.Commit() | st.Rollback() | st.Savepoint():
            return await _transaction(session, plan, utility, sink)
        case st.SetTransaction():
            return _set_transaction(session, utility, sink)
        case st.SetConstraints():
            return await set_constraints(session, utility, lambda warning: _warn(session, sink, warning))
        case st.SetVariable():
            return _set_variable(session, plan, utility, sink)
        case st.ShowVariable():
            return _show(session, plan, utility, sink, simple=simple)
        case st.Discard():
            return await _discard(session, utility)
        case st.Explain():
            return await explain.run(session, plan, utility, sink, simple=simple)
        case st.Prepare():
            return await _prepare(session, plan, utility)
        case st.Execute():
            return await _execute(session, plan, utility, sink, simple=simple)
        case st.Deallocate():
            return _deallocate(session, utility)
        case st.DeclareCursor():
            if not utility.hold:
                session.transaction.require_block("DECLARE CURSOR")
            assert plan.parsed is not None
            await session.cursors.declare(utility, plan.parsed.source, plan, parameters)
            return "DECLARE CURSOR"
        case st.Fetch():
            return await _fetch(session, plan, utility, sink, simple=simple)
        case st.Notify():
            session.notifications.notify(utility.channel, utility.payload)
            return "NOTIFY"
        case st.Listen():
            session.notifications.listen(utility.channel)
            return "LISTEN"
        case st.Unlisten():
            session.notifications.unlisten(utility.channel)
            return "UNLISTEN"
        case st.CloseCursor():
            return await _close_cursor(session, utility)
        case st.Call():
            return await calls.run(session, utility, sink, simple=simple)
        case st.Copy():
            return await copy.run(session, utility, sink)
        case st.LockTable():
            return await _lock_table(session, utility)
        case st.Checkpoint():
            view, role = session.view(), session.identity.restricted
            if role is not None and not view.access.has_privileges_of(role, CHECKPOINT):
                raise InsufficientPrivilege("must be superuser or have privileges of pg_checkpoint to do CHECKPOINT")
            return "CHECKPOINT"
        case st.Unsupported():
            raise FeatureNotSupported(f"{utility.what} is not supported")
        case _:
            return await _schema(session, plan, utility, sink)


def notify(session: ClientSession, sink: Sink, notice: DatabaseError, severity: str = "NOTICE") -> None:
    """Send a notice, if client_min_messages lets it through."""
    if session.shows(severity):
        sink.notice(notice, severity)


def _warn(session: ClientSession, sink: Sink, warning: DatabaseError) -> None:
    notify(session, sink, warning, "WARNING")


# ---------------------------------------------------------------------------------------------- transactions


async def _transaction(session: ClientSession, plan: CachedPlan, utility: st.Utility, sink: Sink) -> str:
    block = session.transaction
    if isinstance(utility, (st.Commit, st.Rollback)):
        await session.drop_started_portals()
    match utility:
        case st.Begin():
            if block.explicit:
                _warn(session, sink, ActiveTransaction("there is already a transaction in progress"))
                block.set_characteristics(utility.isolation, utility.read_only, utility.deferrable)
            else:
                block.begin(utility.isolation, utility.read_only, utility.deferrable)
                session.context.transaction_timestamp = session.context.statement_timestamp
            return plan.kind
        case st.Commit():
            return await _commit(session, utility.chain, sink)
        case st.Rollback():
            return _rollback(session, utility.chain, sink)
        case st.Savepoint():
            match utility.action:
                case "savepoint":
                    block.savepoint(utility.name)
                    return "SAVEPOINT"
                case "release":
                    block.release(utility.name)
                    return "RELEASE"
                case _:
                    await session.drop_started_portals()
                    block.rollback_to(utility.name)
                    return "ROLLBACK"
    raise FeatureNotSupported(f"{plan.kind} is not supported")


async def _commit(session: ClientSession, chain: bool, sink: Sink) -> str:
    block = session.transaction
    isolation, read_only = session.settings.values["transaction_isolation"], block.read_only
    if not block.explicit:
        if chain:
            raise NoActiveTransaction("COMMIT AND CHAIN can only be used in transaction blocks")
        _warn(session, sink, NoActiveTransaction("there is no transaction in progress"))
        await block.commit()
        return "COMMIT"
    tag = "COMMIT"
    if block.failed:
        block.rollback()
        tag = "ROLLBACK"
    else:
        await block.commit()
    if chain:
        block.begin(isolation, read_only, None)
    return tag


def _rollback(session: ClientSession, chain: bool, sink: Sink) -> str:
    block = session.transaction
    isolation, read_only = session.settings.values["transaction_isolation"], block.read_only
    if not block.explicit:
        if chain:
            raise NoActiveTransaction("ROLLBACK AND CHAIN can only be used in transaction blocks")
        _warn(session, sink, NoActiveTransaction("there is no transaction in progress"))
    block.rollback()
    if chain:
        block.begin(isolation, read_only, None)
    return "ROLLBACK"


def _set_transaction(session: ClientSession, utility: st.SetTransaction, sink: Sink) -> str:
    block = session.transaction
    if utility.session:
        if utility.isolation is not None:
            session.settings.set(find("default_transaction_isolation"), utility.isolation, local=False)
        if utility.read_only is not None:
            value = "on" if utility.read_only else "off"
            session.settings.set(find("default_transaction_read_only"), value, local=False)
        if utility.deferrable is not None:
            value = "on" if utility.deferrable else "off"
            session.settings.set(find("default_transaction_deferrable"), value, local=False)
        return "SET"
    if not block.is_block:
        _warn(session, sink, NoActiveTransaction("SET TRANSACTION can only be used in transaction blocks"))
        if not block.in_block:
            return "SET"
    block.set_characteristics(utility.isolation, utility.read_only, utility.deferrable)
    return "SET"


async def _lock_table(session: ClientSession, utility: st.LockTable) -> str:
    """LOCK TABLE: weak modes only pin the tables, strong ones keep writers, or everybody, off them."""
    block = session.transaction
    block.require_block("LOCK TABLE")
    oids = []
    for name in utility.tables:
        view = session.view()
        relation = view.relation(name.name, name.schema)
        if relation is None:
            written = name.name if name.schema is None else f"{name.schema}.{name.name}"
            raise UndefinedTable(f'relation "{written}" does not exist', position=name.position)
        if isinstance(relation, Table):
            _check_lock(view, relation, utility.mode)
        oids.append(relation.oid)
    try:
        await _lock_oids(session, oids, utility)
    except LockNotAvailable:
        if not utility.nowait:
            raise
        names = ", ".join(name.name for name in utility.tables)
        raise LockNotAvailable(f'could not obtain lock on relation "{names}"') from None
    return "LOCK TABLE"


async def _lock_oids(session: ClientSession, oids: list[int], utility: st.LockTable) -> None:
    block = session.transaction
    gate = session.environment.catalog.gate
    transaction = block.open()
    deadline_ns = session.environment.scheduler.now_ns() if utility.nowait else session.lock_deadline_ns()
    await gate.enter(transaction, frozenset(oids), utility.mode >= 3, deadline_ns)
    if utility.mode >= 4:  # SHARE and above exclude writers, ACCESS EXCLUSIVE everybody
        ddl = block.open_ddl()
        await ddl.open()
        await gate.block(
            transaction,
            oids,
            exclusive=utility.mode >= 8,
            deadline_ns=deadline_ns,
            check_interrupt=session.check_interrupt,
        )


def _check_lock(view: StateView, table: Table, mode: int) -> None:
    """ACCESS SHARE takes any privilege to read or write, ROW EXCLUSIVE one to write, the others one to change rows."""
    wanted = UPDATE | DELETE | TRUNCATE
    if mode == 1:
        wanted |= SELECT
    if mode <= 3:
        wanted |= INSERT
    if view.role is not None and not view.access.mask(view.role, PG_CLASS, table.oid, wanted):
        raise permission_denied(relation_kind(table), table.name)


# ---------------------------------------------------------------------------------------------- settings


def _set_variable(session: ClientSession, plan: CachedPlan, utility: st.SetVariable, sink: Sink) -> str:
    settings = session.settings
    block = session.transaction
    if utility.local and not block.is_block:
        _warn(session, sink, NoActiveTransaction("SET LOCAL can only be used in transaction blocks"))
    if utility.name.lower() == "all" and utility.values is None:
        settings.reset_all()
        return plan.kind
    setting = find(utility.name)
    if setting.key in IDENTITY:
        default = session.settings.default(setting)
        _set_identity(session, setting.key, utility.values[0] if utility.values else default, local=utility.local)
        return plan.kind
    if utility.values is None:
        if setting.key.startswith("transaction_"):
            return plan.kind
        settings.reset(setting, local=utility.local)
        return plan.kind
    if len(utility.values) > 1 and setting.key not in _LISTS:
        raise InvalidParameterValue(f"SET {setting.name} takes only one argument")
    text = join_identifiers(utility.values) if setting.key == "search_path" else ", ".join(utility.values)
    assign(session, setting.name, text, local=utility.local)
    return plan.kind


def _set_identity(session: ClientSession, key: str, name: str, *, local: bool) -> None:
    if key == "role":
        session.set_role(name, local=local)
    else:
        session.set_session_authorization(name, local=local)


def assign(session: ClientSession, name: str, text: str, *, local: bool) -> str:
    """Set a variable from text (SET, set_config); returns the value as shown."""
    setting = find(name)
    block = session.transaction
    match setting.key:
        case "role" | "session_authorization":
            _set_identity(session, setting.key, text, local=local)
        case "transaction_isolation":
            block.set_characteristics(canonical(setting, text), None, None)
        case "transaction_read_only":
            block.set_characteristics(None, canonical(setting, text) == "on", None)
        case "transaction_deferrable":
            block.set_characteristics(None, None, canonical(setting, text) == "on")
        case _:
            return session.settings.set(setting, text, local=local)
    return session.settings.values[setting.key]


def _show(session: ClientSession, plan: CachedPlan, utility: st.ShowVariable, sink: Sink, *, simple: bool) -> str:
    if utility.name.lower() == "all":
        values = session.settings.values
        rows: list[tuple[Any, ...]] = [
            (setting.name, values[key], "") for key, setting in sorted(SETTINGS.items()) if key in values
        ]
    else:
        rows = [(session.settings.show(utility.name)[1],)]
    assert plan.fields is not None
    if simple:
        sink.row_description(plan.fields)
    sink.rows(rows)
    return "SHOW"


async def _discard(session: ClientSession, utility: st.Discard) -> str:
    match utility.what:
        case "all":
            session.transaction.forbid_block("DISCARD ALL")
            await session.cursors.close_all()
            await session.drop_started_portals()
            session.names.portals.clear()
            _set_identity(session, "session_authorization", session.user, local=False)
            session.settings.reset_all()
            session.names.statements.clear()
            session.notifications.unlisten(None)
            await session.advisory.release_all()
            session.environment.plans.clear()
            await _discard_temporary(session)
            forget_values(session)
        case "plans":
            session.environment.plans.clear()
        case "temp" | "temporary":
            await _discard_temporary(session)
        case "sequences":
            forget_values(session)
    return f"DISCARD {utility.what.upper()}"


async def _discard_temporary(session: ClientSession) -> None:
    """Drop the session's temporary objects; its schema stays."""
    schema = session.view().schema_named("pg_temp")
    if schema is None or not any(table.schema == schema.oid for table in session.view().tables()):
        return
    context = _ddl_context(session, lambda notice, severity="NOTICE": None)
    await context.ddl.open()
    await drop_everything(context, schema, keep_schema=True)


# ---------------------------------------------------------------------------------------------- prepared statements


async def _prepare(session: ClientSession, plan: CachedPlan, utility: st.Prepare) -> str:
    session.names.check_new_statement(utility.name)
    oids = [parameter.oid for parameter in utility.parameter_types]
    parsed = plan.parsed
    assert parsed is not None
    try:
        statement = await session.prepare_statement(utility.name, utility.query, oids, from_sql=True)
    except DatabaseError as error:
        if error.position is not None:
            error.position += parsed.position + parsed.text.rfind(utility.query)
        raise
    statement.shown_text = parsed.source
    return "PREPARE"


async def _execute(session: ClientSession, outer: CachedPlan, utility: st.Execute, sink: Sink, *, simple: bool) -> str:
    statement = session.names.statements.get(utility.name)
    if statement is None:
        raise InvalidStatementName(f'prepared statement "{utility.name}" does not exist')
    await session.renew_statement(statement)
    plan = statement.plan
    session.check_failed(plan)
    if not simple:  # another statement may have this name by now
        check_same_columns(outer.fields, plan.fields)
    expected = len(plan.parameter_types)
    if len(utility.arguments) != expected:
        raise DatabaseError.of(
            "42601",
            f'wrong number of parameters for prepared statement "{utility.name}"',
            detail=f"Expected {expected} parameters but got {len(utility.arguments)}.",
        )
    parameters: Sequence[Any] = ()
    if expected:
        assert outer.parsed is not None
        expressions = bind.bind_arguments(outer.parsed, plan.parameter_types, session.view(), session.context)
        parameters = await once(evaluator(expressions), State(session.run_context()))
    if plan.utility is not None:
        return await run(session, plan, plan.utility, sink, simple=simple)
    if plan.writing_tag:
        session.transaction.check_writable(plan.writing_tag)
    if simple and plan.fields is not None:
        sink.row_description(plan.fields)
    execution = Execution(session, plan, parameters, alone=not session.transaction.in_block)
    try:
        await execution.fetch(0, sink)
    except BaseException:
        await execution.close()
        raise
    return execution.tag


def _deallocate(session: ClientSession, utility: st.Deallocate) -> str:
    if utility.name is None:
        session.names.statements.clear()
        return "DEALLOCATE ALL"
    if session.names.statements.pop(utility.name, None) is None:
        raise InvalidStatementName(f'prepared statement "{utility.name}" does not exist')
    return "DEALLOCATE"


# ---------------------------------------------------------------------------------------------- cursors


async def _fetch(session: ClientSession, plan: CachedPlan, utility: st.Fetch, sink: Sink, *, simple: bool) -> str:
    cursor = await session.cursors.find(utility.cursor)
    if utility.move:
        return f"MOVE {await cursor.move(utility.direction, utility.count)}"
    if simple:
        assert cursor.fields is not None
        sink.row_description(cursor.fields, cursor.is_binary)
    else:
        check_same_columns(plan.fields, cursor.fields)
    return f"FETCH {await fetch_rows(cursor, utility.direction, utility.count, sink)}"


async def _close_cursor(session: ClientSession, utility: st.CloseCursor) -> str:
    if utility.name is None:
        await session.cursors.close_all()
        return "CLOSE CURSOR ALL"
    await session.cursors.close(utility.name)
    return "CLOSE CURSOR"


# ---------------------------------------------------------------------------------------------- schema


_USES = {
    st.AlterTable: "ALTER TABLE",
    st.CreateIndex: "CREATE INDEX",
    st.DropObjects: "DROP TABLE",
    st.Truncate: "TRUNCATE",
}


def _check_not_in_use(session: ClientSession, utility: st.Utility) -> None:
    """Raise 55006 where a table is changed that an open cursor reads."""
    command = _USES.get(type(utility))
    if command is None or not session.cursors.tables:
        return
    match utility:
        case st.Truncate():
            names = utility.tables
        case st.AlterTable():
            names = (utility.name,)
        case st.CreateIndex():
            names = (utility.table,)
        case st.DropObjects(kind="table"):
            names = utility.names
        case _:
            return
    for name in names:
        relation = session.view().relation(name.name, name.schema)
        if relation is not None and relation.oid in session.cursors.tables:
            raise DatabaseError.of(
                "55006", f'cannot {command} "{name.name}" because it is being used by active queries in this session'
            )


async def _schema(session: ClientSession, plan: CachedPlan, utility: st.Utility, sink: Sink) -> str:
    """DDL, within the transaction."""
    block = session.transaction
    block.check_writable(plan.kind)
    _check_not_in_use(session, utility)
    context = _ddl_context(session, lambda notice, severity="NOTICE": notify(session, sink, notice, severity))
    try:
        tag = await schema.execute(utility, context)
    except ActiveTransaction as error:
        command, inside, _ = error.message.partition(" cannot run inside")
        raise (block.refusal(command) if inside else error) from None
    block.statements += 1
    return tag


def commits_at_once(utility: st.Utility) -> bool:
    """A command that is a transaction of its own, even where more of a batch follows."""
    match utility:
        case st.CreateDatabase() | st.DropDatabase():
            return True
        case st.Vacuum():
            return utility.vacuum
    return False


def _ddl_context(session: ClientSession, notice: Callable[..., None]) -> schema.DdlContext:
    """What a schema change of this session works with."""
    block = session.transaction
    ddl = block.open_ddl()
    ddl.lock_deadline_ns = session.lock_deadline_ns()
    ddl.check_interrupt = session.check_interrupt
    block.open().begin_statement(block.least_timestamp)
    return schema.DdlContext(
        ddl,
        session.database_name,
        session.search_path,
        session.context,
        notice,
        block.refuses_alone,
        session.temporary,
        session.checks.concerns,
        session.identity.current,
        session.identity.session,
    )
