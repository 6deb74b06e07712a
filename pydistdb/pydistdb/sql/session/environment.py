"""What all sessions of a node share: the database, the catalog, the plan cache, counters, and each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydistdb.kv.api import Database
from pydistdb.kv.operations import Operations
from pydistdb.sql.catalog.auto_analyze import AutoAnalyze, ChangeCounters
from pydistdb.sql.catalog.reshard_jobs import SchemaJobs
from pydistdb.sql.catalog.schemas import END_SESSIONS_TOPIC, SESSIONS_TOPIC
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.catalog.temporary import Sweeper
from pydistdb.sql.clock import now_us
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.plan_cache import PlanCache
from pydistdb.sql.resources import NodeResources
from pydistdb.sql.session.activity import ClusterActivity
from pydistdb.sql.session.lock_status import ClusterLocks
from pydistdb.sql.session.login import DATABASE_SESSIONS_TOPIC, ROLE_SESSIONS_TOPIC
from pydistdb.sql.session.notifications import NotificationHub
from pydistdb.sql.session.statistics import ClusterStatements
from pydistdb.sql.session.transaction_numbers import TransactionNumbers
from pydistdb.sql.statement_statistics import StatementStatistics
from pydistdb.tasks import Scheduler

if TYPE_CHECKING:
    from pydistdb.sql.session.base import SessionBase


@dataclass(slots=True)
class SessionStatistics:
    """Counters since the node started (pg_stat_database, /metrics)."""

    statements: int = 0
    commits: int = 0
    rollbacks: int = 0
    errors: int = 0
    retries: int = 0
    rows_sent: int = 0
    changes: ChangeCounters = field(default_factory=ChangeCounters)
    fast_statements: int = 0

    @property
    def rows_changed(self) -> int:
        return self.changes.rows


@dataclass(slots=True, eq=False)
class Environment:
    """See the module's introduction.  The server sets the hooks, which act on its connections."""

    database: Database
    scheduler: Scheduler
    catalog: CatalogStore
    plans: PlanCache = field(default_factory=PlanCache)
    statistics: SessionStatistics = field(default_factory=SessionStatistics)
    statements: StatementStatistics = field(default_factory=StatementStatistics)
    sessions: dict[int, SessionBase] = field(default_factory=dict)
    """By process id, in order of connection."""
    started_us: int = field(default_factory=now_us)
    cancel_backend: Callable[[int], bool] = lambda process_id: False
    terminate_backend: Callable[[int], bool] = lambda process_id: False
    end_backend: Callable[[int, DatabaseError], bool] = lambda process_id, error: False
    """Hangs up on one of this node's clients, with a reason."""
    notifications: NotificationHub = field(init=False)
    activity: ClusterActivity = field(init=False)
    locks: ClusterLocks = field(init=False)
    cluster_statements: ClusterStatements = field(init=False)
    sweeper: Sweeper = field(init=False)
    auto_analyze: AutoAnalyze = field(init=False)
    resources: NodeResources = field(default_factory=NodeResources)
    """Memory and temporary files of this node's queries."""
    operations: Operations | None = None
    """What operators may do; None where there is no cluster (tests)."""
    log_statement: Callable[[str, str, int], None] | None = None
    """Called with (user, text, duration in ns) of every statement if statements are to be logged."""

    numbers: TransactionNumbers = field(init=False)
    """Of transactions, for those that ask (txid_current)."""

    def __post_init__(self) -> None:
        self.activity = ClusterActivity(self)
        self.locks = ClusterLocks(self)
        self.numbers = TransactionNumbers(self.database)
        self.cluster_statements = ClusterStatements(self)
        self.notifications = NotificationHub(self.database, self.scheduler)
        self.database.on_broadcast(SESSIONS_TOPIC, self._count_sessions)
        self.database.on_broadcast(END_SESSIONS_TOPIC, self._end_sessions)
        SchemaJobs(self.catalog)
        self.sweeper = Sweeper(self.catalog, self._temporary_schemas)
        self.auto_analyze = AutoAnalyze(self.catalog, self.statistics.changes)
        self.database.on_broadcast(ROLE_SESSIONS_TOPIC, self._count_sessions_of)
        self.database.on_broadcast(DATABASE_SESSIONS_TOPIC, self._count_sessions)

    def _temporary_schemas(self) -> list[tuple[str, str]]:
        """The temporary schemas of this node's sessions, as (database, schema) names."""
        return [(s.database_name, s.temporary.schema_name) for s in self.sessions.values() if s.temporary.schema_name]

    def _sessions_in(self, database_name: str) -> list[int]:
        return [number for number, session in self.sessions.items() if session.database_name == database_name]

    async def _count_sessions(self, sender: int, payload: bytes) -> bytes:
        """How many sessions of this node are connected to a database (DROP DATABASE asks)."""
        return b"%d" % len(self._sessions_in(payload.decode()))

    async def _count_sessions_of(self, sender: int, payload: bytes) -> bytes:
        """How many sessions of this node a role has (its limit of connections)."""
        user = payload.decode()
        return b"%d" % sum(session.user == user for session in self.sessions.values())

    async def _end_sessions(self, sender: int, payload: bytes) -> bytes:
        """DROP DATABASE … WITH (FORCE): hang up on everybody who is connected to it."""
        for process_id in self._sessions_in(payload.decode()):
            self.terminate_backend(process_id)
        return b""
