"""Reading in the past, for one session: its consistency level, its token, and the time of the transaction at work.

What reads in the past, and what does not (docs/sql.md, "Consistency of reads")::

    level      SELECT alone, READ ONLY transaction        anything else
    strong     now, at the leaseholders                   now
    others     at a closed timestamp, at the nearest copy now: a transaction that may write reads what it will validate
    AS OF      at that very time, at the nearest copy     refused
    (strong, SERIALIZABLE READ ONLY DEFERRABLE: now, after a wait until no clock is behind)

The **token** stands for what the session has seen and written: at level ``session`` no read is older.  It moves with every
transaction at that level.  At other levels nothing is kept: what is shown is this node's clock, which is later than all
that the session has done, so a client may take it to any node at any time.

The catalog at hand is that of the present.  A table that has changed since the time of a read cannot be read so: the
snapshot moves forward to where it can, or, if it is exact, the statement fails (``check_schema``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydistdb.kv import api as kv
from pydistdb.sql.consistency import COUNTER_BITS, STRONG, Level, parse_level, parse_timestamp, timestamp_text
from pydistdb.sql.errors import FeatureNotSupported, InvalidParameterValue, SerializationFailure
from pydistdb.sql.kv_errors import RETRY_HINT

if TYPE_CHECKING:
    from pydistdb.sql.catalog.store import CatalogStore

LEVEL, TOKEN = "proddb.read_consistency", "proddb.session_token"
MOST_AHEAD_US = 10_000_000
"""A token further ahead of this node's clock than clocks may ever differ is not one of ours."""


class PastReads:
    """See the module's introduction."""

    def __init__(self, database: kv.Database) -> None:
        self._database = database
        self.level: Level = STRONG
        self.token: kv.Timestamp = 0
        self.at: kv.Timestamp = 0
        """The time of the transaction at work (AS OF SYSTEM TIME); 0: none was given."""
        self.floor_at: kv.Timestamp = 0
        """The same, with_max_staleness: or any later time."""
        self.only_reads = False
        """The statement at work is a transaction of its own, and a query."""
        self.is_suspended = False
        """The statement at work turned out to write: it reads the present after all."""

    # ------------------------------------------------------------------------------------------ settings

    def settle(self, values: dict[str, str], *, at_start: bool) -> None:
        """The settings have changed."""
        level = parse_level(LEVEL, values[LEVEL])[0]
        if level.kind == "session" and self.level.kind != "session" and not at_start:
            self.token = self._database.now()  # whatever the session has done until now
        self.level = level
        given = parse_timestamp(values[TOKEN]) if values[TOKEN] else None
        if given is not None and given > self.token:
            if given - self._database.now() > MOST_AHEAD_US << COUNTER_BITS:
                raise InvalidParameterValue(
                    f'invalid value for parameter "{TOKEN}": "{values[TOKEN]}"', detail="It lies in the future."
                )
            self.token = given

    def shown_token(self) -> str:
        """What SHOW proddb.session_token gives."""
        return timestamp_text(self.token if self.level.kind == "session" else max(self.token, self._database.now()))

    # ------------------------------------------------------------------------------------------ transactions

    @property
    def applies(self) -> bool:
        """Whether a transaction that only reads does so in the past."""
        return (self.level.kind != "strong" or self.at > 0 or self.floor_at > 0) and not self.is_suspended

    def begin(self, isolation: kv.Isolation) -> kv.PastReader:
        """Begin a transaction in the past."""
        at = self.at
        if at:
            return self._database.begin_stale(isolation, lambda: at, exact=True)
        return self._database.begin_stale(isolation, self._floor)

    def _floor(self) -> kv.Timestamp:
        if self.floor_at:
            return self.floor_at
        match self.level.kind:
            case "bounded":
                return self._database.now() - (self.level.bound_us << COUNTER_BITS)
            case "session":
                return self.token
            case _:
                return 0

    def wait_for_safety(self, deferrable: bool) -> None:
        """SERIALIZABLE READ ONLY DEFERRABLE: read at a time that no clock has reached yet, once all of them have.

        Nothing that was committed before can be later than that, so the transaction is never restarted and never fails."""
        if deferrable:
            self.at = self._database.now() + (self._database.max_clock_offset_us << COUNTER_BITS)

    def left_ns(self) -> int:
        """How long the time of the transaction at work is still to come."""
        return max(0, (self.at - self._database.now() >> COUNTER_BITS) + 1) * 1_000 if self.at else 0

    def note_end(self, timestamp: kv.Timestamp) -> None:
        """A transaction has seen, or written, what is there at ``timestamp``."""
        if self.level.kind == "session" and not self.at and timestamp > self.token:
            self.token = timestamp

    def ended(self) -> None:
        """The transaction is over."""
        self.at = self.floor_at = 0
        self.only_reads = self.is_suspended = False

    # ------------------------------------------------------------------------------------------ the catalog

    async def check_schema(
        self, catalog: CatalogStore, transaction: kv.PastReader, tables: Iterable[int], is_first: bool
    ) -> None:
        """Make sure that the tables were, at the snapshot, what they are now; moves it forward if need be."""
        for _ in range(2):
            if await self._is_same(catalog, transaction, tables):
                return
            if not is_first and transaction.isolation is not kv.Isolation.READ_COMMITTED:
                break
            transaction.begin_statement(self._database.now())
        raise SerializationFailure(
            "could not serialize access due to a change of a table's definition", hint=RETRY_HINT
        )

    async def check_body(self, catalog: CatalogStore, transaction: kv.PastReader, tables: Iterable[int]) -> None:
        """The same for what a function reads in the middle of a query, whose snapshot stays.

        A query alone runs again, in the present; a transaction has to be repeated."""
        if not await self._is_same(catalog, transaction, tables):
            if self.only_reads:
                raise kv.PastIsReadOnly
            raise kv.SerializationConflict("could not serialize access due to concurrent update")

    async def _is_same(self, catalog: CatalogStore, transaction: kv.PastReader, tables: Iterable[int]) -> bool:
        """Whether the tables were at the snapshot what they are now."""
        transaction.schema_checked = True  # the catalog's version may be read at hand, too
        version = await catalog.version_at(transaction)
        if version == catalog.state.version or not catalog.state.reshaped_since(version, tables):
            return True
        transaction.schema_checked = False
        if self.at:
            raise FeatureNotSupported(
                "a table cannot be read as of a time before its definition last changed",
                detail="Old rows are read by the definition of today.",
            )
        return False
