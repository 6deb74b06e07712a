"""The states of a client connection, and which message leads from where to where, as tables.

``CLIENT[state][event type]`` is the state after the client's message; a message that is missing there violates the
protocol.  ``SERVER[state][ServerStep]`` is the state after something the server did. (Manual, 55.2; h11 keeps its
states in the same way.)

    STARTUP ──Startup──▶ AUTHENTICATING ──ready──▶ READY ──Query──▶ SIMPLE ──ready──▶ READY
                                                  │  └─Parse…──▶ EXTENDED ──Sync──▶ SYNCING ──ready──▶ READY
                                                  ▼                 │ error
                                               CLOSED            SKIPPING ──Sync──▶ SYNCING

In SKIPPING everything up to the next Sync is discarded.  In the COPY_IN states the client owes CopyData until
CopyDone or CopyFail; Flush and Sync are ignored there.  Copy messages that arrive when no copy is going on are left
over from a copy that failed, and are ignored as well.
"""

from __future__ import annotations

from enum import Enum, auto

from pydistdb_server.pgwire import messages as m


class _Quick(Enum):
    """Members are looked up by identity: Enum's own hash is a Python function, and this is asked for every message."""

    __hash__ = object.__hash__


class State(_Quick):
    STARTUP = auto()
    AUTHENTICATING = auto()
    READY = auto()
    SIMPLE = auto()
    EXTENDED = auto()
    SYNCING = auto()
    SKIPPING = auto()
    COPY_IN_SIMPLE = auto()
    COPY_IN_EXTENDED = auto()
    CLOSED = auto()


class ServerStep(_Quick):
    READY = auto()
    """ReadyForQuery was sent."""
    ERROR = auto()
    """An ErrorResponse was sent."""
    FATAL = auto()
    """A fatal ErrorResponse was sent."""
    COPY_IN = auto()
    """CopyInResponse was sent."""


_EXTENDED_MESSAGES: dict[type, State] = {
    m.Parse: State.EXTENDED,
    m.Bind: State.EXTENDED,
    m.Describe: State.EXTENDED,
    m.Execute: State.EXTENDED,
    m.Close: State.EXTENDED,
    m.FunctionCall: State.EXTENDED,
    m.Sync: State.SYNCING,
    m.Terminate: State.CLOSED,
}
_STRAY_COPY = (m.CopyData, m.CopyDone, m.CopyFail)

CLIENT: dict[State, dict[type, State]] = {
    State.STARTUP: {
        m.SslRequest: State.STARTUP,
        m.GssRequest: State.STARTUP,
        m.Startup: State.AUTHENTICATING,
        m.CancelRequest: State.CLOSED,
    },
    State.AUTHENTICATING: {m.Terminate: State.CLOSED, m.Password: State.AUTHENTICATING},
    State.READY: {
        **_EXTENDED_MESSAGES,
        **dict.fromkeys(_STRAY_COPY, State.READY),
        m.Query: State.SIMPLE,
        m.Flush: State.READY,
        m.FunctionCall: State.SIMPLE,
    },
    State.EXTENDED: {
        **_EXTENDED_MESSAGES,
        **dict.fromkeys(_STRAY_COPY, State.EXTENDED),
        m.Query: State.SIMPLE,
        m.Flush: State.EXTENDED,
    },
    State.SKIPPING: {
        **dict.fromkeys(_EXTENDED_MESSAGES, State.SKIPPING),
        **dict.fromkeys(_STRAY_COPY, State.SKIPPING),
        m.Query: State.SKIPPING,
        m.Flush: State.SKIPPING,
        m.Sync: State.SYNCING,
        m.Terminate: State.CLOSED,
    },
    State.COPY_IN_SIMPLE: {
        m.CopyData: State.COPY_IN_SIMPLE,
        m.Flush: State.COPY_IN_SIMPLE,
        m.Sync: State.COPY_IN_SIMPLE,
        m.CopyDone: State.SIMPLE,
        m.CopyFail: State.SIMPLE,
    },
    State.COPY_IN_EXTENDED: {
        m.CopyData: State.COPY_IN_EXTENDED,
        m.Flush: State.COPY_IN_EXTENDED,
        m.Sync: State.COPY_IN_EXTENDED,
        m.CopyDone: State.EXTENDED,
        m.CopyFail: State.EXTENDED,
    },
    # The server is answering; the next message waits in the buffer.
    State.SIMPLE: {},
    State.SYNCING: {},
    State.CLOSED: {},
}

_FATAL = {ServerStep.FATAL: State.CLOSED}

SERVER: dict[State, dict[ServerStep, State]] = {
    State.STARTUP: {ServerStep.ERROR: State.CLOSED, **_FATAL},
    State.AUTHENTICATING: {ServerStep.READY: State.READY, ServerStep.ERROR: State.CLOSED, **_FATAL},
    State.READY: {ServerStep.ERROR: State.READY, **_FATAL},
    State.SIMPLE: {
        ServerStep.READY: State.READY,
        ServerStep.ERROR: State.SIMPLE,
        ServerStep.COPY_IN: State.COPY_IN_SIMPLE,
        **_FATAL,
    },
    State.EXTENDED: {ServerStep.ERROR: State.SKIPPING, ServerStep.COPY_IN: State.COPY_IN_EXTENDED, **_FATAL},
    State.SYNCING: {ServerStep.READY: State.READY, ServerStep.ERROR: State.SYNCING, **_FATAL},
    State.SKIPPING: {ServerStep.ERROR: State.SKIPPING, **_FATAL},
    State.COPY_IN_SIMPLE: {ServerStep.ERROR: State.SIMPLE, **_FATAL},
    State.COPY_IN_EXTENDED: {ServerStep.ERROR: State.SKIPPING, **_FATAL},
    State.CLOSED: {ServerStep.FATAL: State.CLOSED, ServerStep.ERROR: State.CLOSED},
}
