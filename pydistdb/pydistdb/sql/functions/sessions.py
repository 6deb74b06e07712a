"""Functions with an effect beyond their value, for which the session must be told: pg_notify and its kin.

They belong to a statement's transaction, so a statement that is tried on the fast path, which has none, is sent back to
the ordinary one (MustWait).

Source: PostgreSQL 15 manual, 9.26 and 9.28.
"""

from __future__ import annotations

from typing import Any

from pydistdb.kv.api import MustWait
from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.functions.define import implements
from pydistdb.sql.types.base import EvalContext


def active_session(context: EvalContext) -> Any:
    """The session, which runs a statement that may have effects."""
    session: Any = context.extra
    if session is None:
        raise FeatureNotSupported("this function needs a session")
    if not session.is_active:
        raise MustWait
    return session


@implements("pg_notify(text,text)", context=True)
def pg_notify(context: EvalContext, channel: str | None, payload: str | None) -> str:
    active_session(context).notifications.notify(channel or "", payload or "")
    return ""


@implements("pg_listening_channels()", context=True)
def pg_listening_channels(context: EvalContext) -> list[str]:
    return [] if context.extra is None else list(context.extra.notifications.channels)


@implements("pg_notification_queue_usage()", context=True)
def pg_notification_queue_usage(context: EvalContext) -> float:
    return 0.0 if context.extra is None else float(context.extra.environment.notifications.usage())
