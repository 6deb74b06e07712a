"""Functions with an effect beyond their value, for which the session must be told: pg_notify, advisory locks.

They belong to a statement's transaction, so a statement that is tried on the fast path, which has none, is sent back to
the ordinary one (MustWait).

Source: PostgreSQL 15 manual, 9.26 and 9.28.
"""

from __future__ import annotations

from typing import Any

from pydistdb.kv.api import MustWait
from pydistdb.sql.errors import FeatureNotSupported, InvalidParameterValue
from pydistdb.sql.functions.define import define, implements
from pydistdb.sql.functions.effects import MustAct, act, effect
from pydistdb.sql.types.arrays import EMPTY, PgArray
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.transactions import FIRST_NORMAL_XID, NODE_BITS, xid_of


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


# ------------------------------------------------------------------------------------------------ transaction numbers


@implements("txid_current()", "pg_current_xact_id()", context=True)
def transaction_number(context: EvalContext) -> int:
    """Unique in the cluster and growing with time; it says nothing of the order of commits."""
    number: int = active_session(context).transaction.take_number()
    return number


@implements("txid_current_if_assigned()", "pg_current_xact_id_if_assigned()", context=True)
def transaction_number_if_assigned(context: EvalContext) -> int | None:
    number: int | None = active_session(context).transaction.number
    return number


_NEXT_MULTIXACT = 1
"""The next number of a group of lockers, of which there are none."""
_OLDEST = (1 << 31) - 1


@implements("age(xid)", context=True)
def age_of_number(context: EvalContext, number: int) -> int:
    """Microseconds since the latest number that looks so.  As xids go round each second, and nothing ever freezes, that is all
    that can be said, and far below what monitors warn of."""
    if number < FIRST_NORMAL_XID:
        return _OLDEST
    session = active_session(context)
    now = session.transaction.number
    return xid_of((session.environment.numbers.next() if now is None else now) - number) >> NODE_BITS


@implements("mxid_age(xid)", context=False)
def age_of_multixact(number: int) -> int:
    return (_NEXT_MULTIXACT - number + (1 << 31)) % (1 << 32) - (1 << 31) if number else _OLDEST


# ------------------------------------------------------------------------------------------------ advisory locks


def _lock(context: EvalContext, numbers: tuple[int, ...], *, shared: bool, transaction: bool, wait: bool) -> bool:
    session = active_session(context)

    def take() -> bool:
        deed = session.advisory.lock(session.advisory_key(numbers), shared=shared, transaction=transaction, wait=wait)
        if deed is not None:
            raise deed
        return True

    return effect(context, take)


def _define_lock(name: str, *, shared: bool, transaction: bool) -> None:
    options = {"shared": shared, "transaction": transaction}
    for arguments in ("int8", "int4,int4"):

        def lock(context: EvalContext, *numbers: int) -> str:
            _lock(context, numbers, wait=True, **options)
            return ""

        def try_lock(context: EvalContext, *numbers: int) -> bool:
            return _lock(context, numbers, wait=False, **options)

        define(f"pg_advisory_{name}({arguments})", lock, context=True)
        define(f"pg_try_advisory_{name}({arguments})", try_lock, context=True)


_define_lock("lock", shared=False, transaction=False)
_define_lock("lock_shared", shared=True, transaction=False)
_define_lock("xact_lock", shared=False, transaction=True)
_define_lock("xact_lock_shared", shared=True, transaction=True)


def _unlock(context: EvalContext, numbers: tuple[int, ...], shared: bool) -> bool:
    session = active_session(context)

    def release() -> bool:
        outcome: MustAct | bool = session.advisory.unlock(session.advisory_key(numbers), shared=shared)
        if isinstance(outcome, MustAct):
            raise outcome
        return outcome

    return effect(context, release)


for _arguments in ("int8", "int4,int4"):
    define(f"pg_advisory_unlock({_arguments})", lambda context, *n: _unlock(context, n, False), context=True)
    define(f"pg_advisory_unlock_shared({_arguments})", lambda context, *n: _unlock(context, n, True), context=True)


@implements("pg_advisory_unlock_all()", context=True)
def pg_advisory_unlock_all(context: EvalContext) -> str:
    session = active_session(context)

    def release() -> None:
        deed = session.advisory.unlock_all()
        if deed is not None:
            raise deed

    effect(context, release)
    return ""


# ------------------------------------------------------------------------------------------------ who waits for whom


@implements("pg_blocking_pids(int4)", context=True)
def pg_blocking_pids(context: EvalContext, process_id: int) -> PgArray:
    return PgArray.of(act(context, active_session(context).ask_blocking(process_id)))


define("pg_safe_snapshot_blocking_pids(int4)", lambda process_id: EMPTY)
"""A transaction that is SERIALIZABLE READ ONLY DEFERRABLE waits for clocks, not for sessions."""


# ------------------------------------------------------------------------------------------------ signals


@implements("pg_cancel_backend(int4)", context=True)
def pg_cancel_backend(context: EvalContext, process_id: int) -> bool:
    return bool(act(context, active_session(context).signal(process_id, "cancel")))


def _terminate(context: EvalContext, process_id: int, timeout_ms: int = 0) -> bool:
    if timeout_ms < 0:
        raise InvalidParameterValue.of("22003", '"timeout" must not be negative')
    return bool(act(context, active_session(context).signal(process_id, "terminate", timeout_ms)))


define("pg_terminate_backend(int4,int8)", _terminate, context=True, defaults=(0,))
