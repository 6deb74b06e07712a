"""What became of commits in one phase, for whoever has to ask again.

A one-phase commit of a remote gateway leaves word in the same proposal, beside the first of the keys that it wrote: if the answer
is lost, the request can be sent again, and finds that it was carried out already::

    STATE  "done/" key ‖ transaction (16)  →  commit timestamp (8)

Nobody knows when the last copy of a request is gone, so each of them stays for RETENTION_US, and a range that other nodes write
to a thousand times a second holds 120,000.  They lie by key, as the rows do, so that they fall to either part of a split, and to
the whole of a merge, where they are.  When they had to be given new keys, a split in the middle of a range that had been written
to 200 times a second for 15 seconds took 1,500 writes, on each node, while its statements waited.

Until every node knows this place (Feature.OUTCOMES_BY_KEY), and for keys too long for it, records say DONE instead (records.py).
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from pydistdb_storage.engine import MAX_KEY_BYTES, Snapshot, Space

from pydistdb.kv.api import Timestamp
from pydistdb.kv.command import Write
from pydistdb.kv.hlc import COUNTER_BITS
from pydistdb.kv.names import TransactionId
from pydistdb.tasks import pause

if TYPE_CHECKING:
    from pydistdb.kv.leases import Leases
    from pydistdb.kv.range_local import RangeLocal

RETENTION_US = 120_000_000
SWEPT_EVERY_US = 30_000_000
"""All the outcomes of a range are looked through so often: about 2 µs each."""
SWEPT_TOGETHER = 1_000
"""Looked at without a pause, and dropped by one proposal: about a millisecond."""

_PREFIX = b"done/"
LONGEST_KEY = MAX_KEY_BYTES - len(_PREFIX) - 16


def outcome_span(start: bytes, end: bytes) -> tuple[bytes, bytes]:
    """Where the outcomes of the keys in [start, end) lie, in ``Space.STATE``."""
    return _PREFIX + start, _PREFIX + end


def outcome_write(key: bytes, transaction_id: TransactionId, timestamp: Timestamp) -> Write:
    """The write that leaves word of a commit whose first key is ``key``, of at most LONGEST_KEY bytes."""
    return (int(Space.STATE), _PREFIX + key + transaction_id, timestamp.to_bytes(8, "big"))


def find_outcome(view: Snapshot, key: bytes, transaction_id: TransactionId) -> Timestamp:
    """When the transaction whose first key is ``key`` was committed in one phase; 0 if there is no word of that."""
    if len(key) > LONGEST_KEY:
        return 0
    data = view.get(Space.STATE, _PREFIX + key + transaction_id)
    return 0 if data is None else int.from_bytes(data, "big")


async def sweep_outcomes(leases: Leases, local: RangeLocal) -> bool:
    """Drop the outcomes in a range that nobody can ask for any more, if it is time; tells whether others may stay."""
    now_us = leases.clock.physical_us()
    if 0 <= now_us - local.outcomes_swept_us < SWEPT_EVERY_US:
        return True
    local.outcomes_swept_us = now_us
    oldest = (now_us - RETENTION_US) << COUNTER_BITS
    position, stay = outcome_span(local.start, local.end)[0], False
    while True:
        # Up to where the range ends now: what a split has cut off is dropped by its own leaseholder.
        end = outcome_span(local.start, local.end)[1]
        found = list(islice(leases.latest().scan(Space.STATE, position, max(position, end)), SWEPT_TOGETHER))
        gone: list[Write] = [
            (int(Space.STATE), key, None) for key, data in found if int.from_bytes(data, "big") < oldest
        ]
        stay = stay or len(gone) < len(found)
        if gone:
            local.check_lease()
            await local.propose(gone, 0)
        if len(found) < SWEPT_TOGETHER:
            return stay
        position = found[-1][0] + b"\0"
        await pause(leases.scheduler)
