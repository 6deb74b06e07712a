"""How long a request is sent again: ranges that nobody leads have a deadline, a leaseholder that cannot keep up is waited for."""

from __future__ import annotations

from typing import Any

import pytest
from pydistdb.kv.api import Isolation, KVError, RangeUnavailable
from pydistdb.kv.command import ProposalLost
from pydistdb.kv.router import DEFAULT_TIMEOUT_NS, MOST_PATIENCE, WORKED_NS
from pydistdb.kv.transport import NodeUnreachable
from pydistdb.tasks import sleep

from tests.support.one_node import OneNode

SECOND = 1_000_000_000
KEY = b"\x04a"


class Busy:
    """Has the leaseholder take ``call_ns`` for every ingest, and fail with ``error`` until ``until_ns``."""

    def __init__(self, node: OneNode, error: KVError, until_ns: int, call_ns: int = 0) -> None:
        router: Any = node.gateway.router
        handle = router._server.handle
        self.calls = 0

        async def slow(request: Any, *rest: Any) -> Any:
            if type(request).__name__ == "Ingest":
                self.calls += 1
                await sleep(node.scheduler, call_ns)
                if node.scheduler.now_ns() < until_ns:
                    raise error
            return await handle(request, *rest)

        router._server.handle = slow


def ingest(node: OneNode) -> None:
    node.run(node.gateway.ingest([(KEY, b"1")]), 1_000)


def stored(node: OneNode) -> bytes | None:
    transaction = node.gateway.begin(Isolation.READ_COMMITTED)
    transaction.begin_statement()
    return node.run(transaction.get_many([KEY]))[0]


@pytest.mark.parametrize(
    ("error", "call_ns"),
    [
        (ProposalLost("too much is waiting to be committed"), 0),
        (ProposalLost("the outcome of a proposal is not known yet"), 10 * SECOND),
        (NodeUnreachable(2, "it does not answer"), WORKED_NS + SECOND),
        (NodeUnreachable(2, "it does not answer"), DEFAULT_TIMEOUT_NS + SECOND),
    ],
    ids=["not taken in", "not committed in time", "lost at work", "lost after long work"],
)
def test_a_leaseholder_that_cannot_keep_up_is_waited_for(error: KVError, call_ns: int) -> None:
    node = OneNode()
    Busy(node, error, 4 * DEFAULT_TIMEOUT_NS, call_ns)
    ingest(node)
    assert stored(node) == b"1"


def test_but_not_for_ever() -> None:
    node = OneNode()
    busy = Busy(node, ProposalLost("too much is waiting to be committed"), 10**15)
    with pytest.raises(RangeUnavailable):
        ingest(node)
    assert 0.9 < node.scheduler.now_ns() / (MOST_PATIENCE * DEFAULT_TIMEOUT_NS) <= 1
    assert busy.calls > 100


@pytest.mark.parametrize("call_ns", [0, 3 * SECOND])
def test_a_range_that_nobody_leads_has_a_deadline(call_ns: int) -> None:
    node = OneNode()
    Busy(node, NodeUnreachable(2, "connection refused"), 10**15, call_ns)
    with pytest.raises(RangeUnavailable):
        ingest(node)
    assert node.scheduler.now_ns() <= DEFAULT_TIMEOUT_NS + call_ns
