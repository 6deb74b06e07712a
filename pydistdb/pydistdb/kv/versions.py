"""Which versions of messages and records a cluster may use, and which releases can be part of it.

Messages and records change from release to release.  The cluster has a *version*, a small number that only grows; nothing
is sent or written that came with a greater one.  A release knows the versions from ``oldest`` to ``newest``::

    nodes know             1–1  1–1  1–1      the cluster is at 1
    two are upgraded       1–2  1–2  1–1      still at 1: the third could not read what came with 2
    all are                1–2  1–2  1–2      now it is raised to 2 (version_gate.py), and the new things are used
    a release with 1–1 ..................     is told that it is too old, and ends
    a release with 3–4 ..................     is told that it is too new: it cannot read what a cluster at 1 or 2 writes

Code that sends or writes what came with a later version asks first::

    if store.versions.is_active(Feature.LOOSE_RANGES): ...

To add something of that kind: give it a name in ``Feature`` and the next number in ``SINCE``, and have both paths tested.
When no cluster at the version before is to be upgraded directly any more, raise ``OLDEST`` and take the old path away.

Before the cluster's version is raised every member *promises*, on its disk, that its store will only be opened by releases that
know the greater one.  A node that has promised may already receive what others write under that version.

The idea: CockroachDB's cluster version, MongoDB's feature compatibility version.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from pydistdb_storage.engine import Engine, Space, WriteBatch

VERSION_KEY = b"cluster version"
FIRST_VERSION = 1
"""Of clusters that have no record of their version."""


class Feature(StrEnum):
    """What must not be used before every node knows it."""

    LOOSE_RANGES = "what dropped tables leave is marked and merged away at once"
    SKETCHES_IN_SAMPLES = "ANALYZE counts different values in all rows, where they lie"
    RECLAIMED_LOCKS = "a new leaseholder asks the nodes for the row locks of one that has died"
    BORN_LED = "the right part of a split is led at once, without an election"
    OUTCOMES_BY_KEY = "commits in one phase leave word beside their keys"
    SHARED_SHARDS = "tables SHARD BY RANGE or LIST can be COLOCATED WITH another"


SINCE: dict[Feature, int] = {
    Feature.LOOSE_RANGES: 2,
    Feature.SKETCHES_IN_SAMPLES: 2,
    Feature.RECLAIMED_LOCKS: 2,
    Feature.BORN_LED: 2,
    Feature.OUTCOMES_BY_KEY: 2,
    Feature.SHARED_SHARDS: 2,
}


class Supported(msgspec.Struct, array_like=True, frozen=True):
    """The versions that a release can work at."""

    oldest: int = FIRST_VERSION
    newest: int = FIRST_VERSION

    def __str__(self) -> str:
        return f"version {self.newest}" if self.oldest == self.newest else f"versions {self.oldest} to {self.newest}"


THIS_RELEASE = Supported(oldest=1, newest=2)


class VersionRecord(msgspec.Struct, array_like=True, frozen=True):
    """What a store keeps of it; a later release may add to this."""

    active: int = FIRST_VERSION
    promised: int = FIRST_VERSION


class VersionConflict(Exception):
    """A release cannot work at the version of its store or of its cluster; the message says why and what helps."""


class ClusterVersion:
    """What one node knows: its release's versions, the cluster's, and what it has promised."""

    def __init__(self, supported: Supported = THIS_RELEASE) -> None:
        self.supported = supported
        self.active = 0
        """The cluster's version; 0: this node does not belong to a cluster yet."""
        self.promised = 0

    def is_active(self, feature: Feature) -> bool:
        """Tell whether every node of the cluster knows this."""
        return self.active >= SINCE[feature]

    def knows(self, feature: Feature) -> bool:
        """Tell whether this node's release does: what it receives may be of that kind before ``is_active`` says so."""
        return self.supported.newest >= SINCE[feature]

    # ------------------------------------------------------------------------------------------------- this node's store

    def load(self, engine: Engine) -> None:
        """Read what the store knows; raises VersionConflict if this release cannot open it."""
        data = engine.latest().get(Space.STATE, VERSION_KEY)
        record = VersionRecord() if data is None else decode_record(data)
        self.active, self.promised = record.active, record.promised
        problem = self.conflict(self.supported, "this node")
        if problem:
            raise VersionConflict(problem)

    def record(self) -> bytes:
        return encode_record(VersionRecord(self.active, self.promised))

    def raise_to(self, active: int) -> bool:
        """The cluster is at this version; tells whether that is news."""
        if active <= self.active:
            return False
        self.active = active
        self.promised = max(self.promised, active)
        return True

    # ------------------------------------------------------------------------------------------------------- other nodes

    def conflict(self, theirs: Supported, who: str) -> str:
        """Why a release cannot be part of this cluster; "" if it can."""
        if theirs.newest < self.promised:
            return (
                f"{who} is too old: the cluster is at version {self.promised}, and its release knows {theirs}; "
                "start it with a newer release"
            )
        if self.active and theirs.oldest > self.active:
            return (
                f"{who} is too new: the cluster is at version {self.active}, and its release knows {theirs}; "
                "start it with a release in between, until the cluster's version has been raised"
            )
        return ""


def store_record(batch: WriteBatch, version: int) -> None:
    """Note in a new store that its cluster is at ``version``."""
    batch.put(Space.STATE, VERSION_KEY, encode_record(VersionRecord(version, version)))


def parse_supported(text: str) -> Supported:
    """``OLDEST-NEWEST``, for tests that play other releases; raises ValueError."""
    oldest, _, newest = text.partition("-")
    supported = Supported(int(oldest), int(newest or oldest))
    if not FIRST_VERSION <= supported.oldest <= supported.newest:
        raise ValueError(f"{text!r} is not OLDEST-NEWEST")
    return supported


decode_record = msgspec.msgpack.Decoder(VersionRecord).decode
encode_record = msgspec.msgpack.Encoder().encode
