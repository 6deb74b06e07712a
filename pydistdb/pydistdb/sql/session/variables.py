"""SET, RESET, SHOW and DISCARD: a session's variables from the client's side.

Most variables go straight to the session's ``settings`` (settings.py).  Some mean more than their text: the role and the
session's user change what the session may do (identity.py), ``transaction_…`` variables belong to the transaction at work.
``assign`` is the one place that knows which; set_config() comes in there too.

    SET search_path = a, b        joined to one text, quoted where need be
    SET transaction_read_only = on        what SET TRANSACTION READ ONLY does
    DISCARD ALL        portals, settings, prepared statements, locks, channels, temporary tables, sequences' values

Source: PostgreSQL manual, part VI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydistdb.sql import statements as st
from pydistdb.sql.api import Sink
from pydistdb.sql.catalog.temporary import drop_everything
from pydistdb.sql.errors import ActiveTransaction, InvalidParameterValue, NoActiveTransaction
from pydistdb.sql.pg_catalog.functions_sequences import forget_values
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.session.past import LEVEL, TOKEN
from pydistdb.sql.session.schema_changes import ddl_context
from pydistdb.sql.session.settings import IDENTITY
from pydistdb.sql.settings import SETTINGS, Setting, canonical, find, join_identifiers

if TYPE_CHECKING:
    from pydistdb.sql.session.session import ClientSession


_LISTS = frozenset({"search_path", "datestyle", "temp_tablespaces"})


def set_variable(session: ClientSession, plan: CachedPlan, utility: st.SetVariable, sink: Sink) -> str:
    settings = session.settings
    block = session.transaction
    if utility.local and not block.is_block:
        session.send_warning(sink, NoActiveTransaction("SET LOCAL can only be used in transaction blocks"))
    if utility.name.lower() == "all" and utility.values is None:
        settings.reset_all()
        return plan.kind
    setting = find(utility.name)
    if utility.values is None:
        if setting.key == "transaction_isolation" and not block.is_block:
            session.send_warning(sink, NoActiveTransaction("RESET TRANSACTION can only be used in transaction blocks"))
        if setting.key in IDENTITY or setting.key.startswith("transaction_"):
            assign(session, setting.name, settings.default(setting), local=utility.local)
        else:
            _check_level(session, setting)
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


def assign(session: ClientSession, name: str, text: str, *, local: bool, in_query: bool = False) -> str:
    """Set a variable from text (SET, or set_config ``in_query``); returns the value as shown."""
    setting = find(name)
    block = session.transaction
    match setting.key:
        case "role" | "session_authorization":
            _set_identity(session, setting.key, text, local=local)
        case "transaction_isolation":
            block.set_characteristics(canonical(setting, text), None, None, in_query=in_query)
        case "transaction_read_only":
            block.set_characteristics(None, canonical(setting, text) == "on", None, in_query=in_query)
        case "transaction_deferrable":
            block.set_characteristics(None, None, canonical(setting, text) == "on", in_query=in_query)
        case _:
            _check_level(session, setting)
            return session.settings.set(setting, text, local=local)
    return session.settings.values[setting.key]


def _check_level(session: ClientSession, setting: Setting) -> None:
    """A transaction that has read something goes on as it began."""
    if setting.key == LEVEL and session.transaction.in_block and session.transaction.statements:
        raise ActiveTransaction(f"{setting.name} must be set before any query")


def show(session: ClientSession, plan: CachedPlan, utility: st.ShowVariable, sink: Sink, *, simple: bool) -> str:
    if utility.name.lower() == "all":
        values = session.settings.values
        rows: list[tuple[Any, ...]] = [
            (setting.name, values[key], "") for key, setting in sorted(SETTINGS.items()) if key in values
        ]
    else:
        setting, value = session.settings.show(utility.name)
        rows = [(session.transaction.past.shown_token() if setting.key == TOKEN else value,)]
    assert plan.fields is not None
    if simple:
        sink.row_description(plan.fields)
    sink.rows(rows)
    return "SHOW"


async def discard(session: ClientSession, utility: st.Discard) -> str:
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
    context = ddl_context(session, lambda notice, severity="NOTICE": None)
    await context.ddl.statement(lambda: drop_everything(context, schema, keep_schema=True))
