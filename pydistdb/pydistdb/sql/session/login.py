"""Who may connect to what: the checks between a startup packet and a session.

In Postgres's order: the role must exist and be allowed to log in, the database must be there and open to connections, the
role needs CONNECT, and neither may have reached its limit of connections.  Superusers pass the last two.  A limit counts
the sessions of the whole cluster, so every node is asked, but only where there is a limit.

What ALTER ROLE … SET and ALTER DATABASE … SET say is in force from the start, the more particular before the more general,
and all of it behind what the client itself asks for.

Source: PostgreSQL 15, postinit.c; manual, 22.2 (rolconnlimit), 20.1.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydistdb.sql.catalog.access import PG_DATABASE, Access
from pydistdb.sql.catalog.acl import CONNECT
from pydistdb.sql.catalog.descriptors import accepts_connections
from pydistdb.sql.catalog.roles import Role
from pydistdb.sql.catalog.state import CatalogState
from pydistdb.sql.errors import DatabaseError, InsufficientPrivilege, InvalidCatalogName, TooManyConnections
from pydistdb.sql.settings import canonical, check_settable, find

if TYPE_CHECKING:
    from pydistdb.sql.session.environment import Environment

ROLE_SESSIONS_TOPIC = "sessions.of_role"
DATABASE_SESSIONS_TOPIC = "sessions.of_database"
COUNT_TIMEOUT_NS = 2_000_000_000


def admit(state: CatalogState, user: str, database_name: str) -> Role:
    """The role that connects; raises what Postgres says to those that may not."""
    role = state.roles.by_name.get(user)
    if role is None:
        raise _fatal(DatabaseError.of("28000", f'role "{user}" does not exist'))
    if not role.can_login:
        raise _fatal(DatabaseError.of("28000", f'role "{user}" is not permitted to log in'))
    database = state.databases_by_name.get(database_name)
    if database is None:
        raise _fatal(InvalidCatalogName(f'database "{database_name}" does not exist'))
    if not accepts_connections(database.descriptor):
        raise _fatal(DatabaseError.of("55000", f'database "{database_name}" is not currently accepting connections'))
    if not role.superuser and Access(state, database).missing(role.oid, PG_DATABASE, database.descriptor.oid, CONNECT):
        raise _fatal(
            InsufficientPrivilege(
                f'permission denied for database "{database_name}"', detail="User does not have CONNECT privilege."
            )
        )
    return role


async def check_limits(environment: Environment, user: str, database_name: str) -> None:
    """Raise 53300 if the role or the database has as many sessions as it may have."""
    state = environment.catalog.state
    role = state.roles.by_name.get(user)
    if role is None or role.superuser:
        return
    if role.connection_limit >= 0:
        count = await _count(environment, ROLE_SESSIONS_TOPIC, user)
        if count >= role.connection_limit:
            raise _fatal(TooManyConnections(f'too many connections for role "{user}"'))
    database = state.databases_by_name.get(database_name)
    limit = -1 if database is None else database.descriptor.connection_limit
    if limit >= 0:
        count = await _count(environment, DATABASE_SESSIONS_TOPIC, database_name)
        if count >= limit:
            raise _fatal(TooManyConnections(f'too many connections for database "{database_name}"'))


async def _count(environment: Environment, topic: str, name: str) -> int:
    answers = await environment.database.broadcast(topic, name.encode(), COUNT_TIMEOUT_NS)
    return sum(int(answer) for answer in answers.values() if answer)


def _fatal(error: DatabaseError) -> DatabaseError:
    error.severity = "FATAL"
    return error


def initial_settings(state: CatalogState, role: Role, database_name: str, startup: dict[str, str]) -> dict[str, str]:
    """The client's settings over those kept for the role and the database."""
    kept = state.roles.settings
    if not kept:
        return startup
    database = state.databases_by_name[database_name].descriptor.oid
    merged: dict[str, str] = {}
    for key in ((0, 0), (database, 0), (0, role.oid), (database, role.oid)):
        merged.update(kept.get(key, {}))
    taken = {find(name).key for name in startup}
    usable = {name: value for name, value in merged.items() if name.lower() not in taken and _is_valid(name, value)}
    return usable | startup


def _is_valid(name: str, value: str) -> bool:
    """Settings are checked when they are kept; one that has become impossible must not lock anybody out."""
    try:
        setting = find(name)
        check_settable(setting)
        canonical(setting, value)
    except DatabaseError:
        return False
    return True
