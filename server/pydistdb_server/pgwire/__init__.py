"""The Postgres wire protocol 3.0 without I/O: the messages of both sides, the states, and the machine over them."""

from pydistdb_server.pgwire.protocol import FatalViolation, WireProtocol
from pydistdb_server.pgwire.states import ServerStep, State

__all__ = ["FatalViolation", "ServerStep", "State", "WireProtocol"]
