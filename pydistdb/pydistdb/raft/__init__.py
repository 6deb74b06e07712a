"""Raft without I/O: one ``RaftNode`` is one member of one replication group.

Inputs are ticks, messages and proposals; the output is a ``Ready`` that says what to write, send and apply (ready.py).
The package has no clock, socket, disk or random generator of its own, so one seed replays a whole cluster.

Sources: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (2014); Ongaro's thesis
"Consensus: Bridging Theory and Practice" (2014) for leases, read-index, transfer, pre-vote and membership.
"""

from __future__ import annotations

from .config import Config
from .errors import Compacted, InvalidChange, NotLeader, ProposalDropped, RaftError
from .messages import (
    ADD_LEARNER,
    ADD_VOTER,
    MEMBERSHIP,
    NORMAL,
    REMOVE,
    Change,
    ConfChange,
    Entry,
    HardState,
    InstallSnapshot,
    Membership,
    Message,
    PeerId,
    SnapshotMeta,
    decode_conf_change,
    encode_conf_change,
)
from .node import RaftNode
from .ready import MemberStatus, ReadState, Ready, Role
from .state import NEVER_NS
from .storage import LogStorage, SnapshotReader

__all__ = [
    "ADD_LEARNER",
    "ADD_VOTER",
    "MEMBERSHIP",
    "NEVER_NS",
    "NORMAL",
    "REMOVE",
    "Change",
    "Compacted",
    "ConfChange",
    "Config",
    "Entry",
    "HardState",
    "InstallSnapshot",
    "InvalidChange",
    "LogStorage",
    "MemberStatus",
    "Membership",
    "Message",
    "NotLeader",
    "PeerId",
    "ProposalDropped",
    "RaftError",
    "RaftNode",
    "ReadState",
    "Ready",
    "Role",
    "SnapshotMeta",
    "SnapshotReader",
    "decode_conf_change",
    "encode_conf_change",
]
