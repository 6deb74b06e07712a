"""Raising the cluster's version once every member knows the next one (versions.py has the idea).

The leaseholder of range 1 looks once a second, as long as its own release knows more than the cluster uses::

    leaseholder ── AskVersion ──────► every member: from which to which version does your release go?
                   the least of the newest is the target; not above the present one: some are still to be upgraded
    leaseholder ── PromiseVersion ──► every member, itself first: written to disk, from now on the store refuses older releases
    leaseholder ── record in range 1: ``setting/cluster.version``; the pings carry it, like settings, to all

* Every member has to answer, the dead ones too: only those that have been silent for ``server.time_until_dead``, and whose
  replicas have gone elsewhere, are not waited for.  If they come back with an old release they are turned away (rpc.py).
* Who joins meanwhile asks this leaseholder, which has promised itself before it asked the others, and lets nobody in who
  does not know the target; the record is only written if all members it finds then were asked.
* ``cluster.preserve_downgrade`` holds it back, so that nodes can go back to the release they came from.
* A member of before there was any of this does not know the questions: it counts as not upgraded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydistdb_storage import mvcc
from pydistdb_storage.engine import Snapshot, Space, WriteBatch
from pydistdb_storage.keys import prefix_end

from pydistdb.kv.api import KVError
from pydistdb.kv.descriptor import CLUSTER_VERSION_KEY, NODE_PREFIX, SETTING_PREFIX, NodeId, decode_node
from pydistdb.kv.multiraft import MultiRaft
from pydistdb.kv.placement.directory import Directory
from pydistdb.kv.transport import Message, register
from pydistdb.kv.versions import FIRST_VERSION, VERSION_KEY, Supported
from pydistdb.tasks import Completion, gather, with_deadline

if TYPE_CHECKING:
    from pydistdb.kv.membership import Membership

logger = logging.getLogger(__name__)

VERSION_SETTING = CLUSTER_VERSION_KEY[len(SETTING_PREFIX) :].decode()
ANSWER_NS = 5_000_000_000
MAX_MEMBERS = 1_000


class AskVersion(Message):
    """Answered by VersionAnswer."""


class PromiseVersion(Message):
    """Have your store opened by no release that does not know this version.  Answered by VersionAnswer."""

    version: int


class VersionAnswer(Message):
    supported: Supported
    promised: int


register(AskVersion, PromiseVersion, VersionAnswer)


class VersionGate:
    """One node's part."""

    def __init__(self, store: MultiRaft, directory: Directory, membership: Membership) -> None:
        self._store = store
        self._directory = directory
        self._membership = membership
        self._raising = False
        store.register(AskVersion, self._on_ask)
        store.register(PromiseVersion, self._on_promise)

    # ------------------------------------------------------------------------------------------------------- every node

    def learn(self, active: int) -> None:
        """Take over what the pings or range 1 say that the cluster is at."""
        versions = self._store.versions
        if versions.raise_to(active):
            logger.info("the cluster is at version %d now", active)
            self._write_down()
            if active > versions.supported.newest:
                # It has been turned away, or will be: nothing that it might still receive can be understood.
                problem = versions.conflict(versions.supported, "this node")
                self._store.fatal(KVError(problem))

    def _write_down(self) -> Completion[None]:
        batch = WriteBatch()
        batch.put(Space.STATE, VERSION_KEY, self._store.versions.record())
        return self._store.write(batch)

    async def _on_ask(self, from_node: NodeId, request: AskVersion) -> Message:
        return self._answer()

    def _answer(self) -> VersionAnswer:
        versions = self._store.versions
        return VersionAnswer(versions.supported, versions.promised)

    async def _on_promise(self, from_node: NodeId, request: PromiseVersion) -> Message:
        versions = self._store.versions
        if versions.promised < request.version <= versions.supported.newest:
            versions.promised = request.version
            await self._write_down()
        return self._answer()

    # --------------------------------------------------------------------------------------------- range 1's leaseholder

    def look(self) -> None:
        """Raise the version if that can be; called now and then."""
        versions, settings = self._store.versions, self._membership.settings
        is_newest = versions.active >= versions.supported.newest
        if not is_newest and not self._raising and not settings.value("cluster.preserve_downgrade"):
            self._raising = True
            self._store.background(self._raise(), "raise the cluster's version")

    async def _raise(self) -> None:
        store, membership = self._store, self._membership
        try:
            answers = await self._ask(AskVersion())
            target = min(answer.supported.newest for answer in answers.values())
            if target <= store.versions.active:
                return
            await self._ask(PromiseVersion(target), [store.node_id])
            promised = {
                node_id
                for node_id, each in (await self._ask(PromiseVersion(target))).items()
                if each.promised >= target
            }

            def build(view: Snapshot) -> list[tuple[bytes, bytes]]:
                found = mvcc.scan(view, NODE_PREFIX, prefix_end(NODE_PREFIX), mvcc.MAX_TIMESTAMP, MAX_MEMBERS)
                members = {record.node_id for record in map(decode_node, found.values) if record.is_member}
                members |= {record.node_id for record in membership.active()}
                if all(node_id in promised or self._is_given_up(node_id) for node_id in members):
                    return [(CLUSTER_VERSION_KEY, str(target).encode())]
                return []

            await self._directory.write(build)
        except KVError as error:
            logger.debug("the cluster's version is not raised now: %s", error)
        finally:
            self._raising = False

    async def _ask(self, request: Message, of: Iterable[NodeId] | None = None) -> dict[NodeId, VersionAnswer]:
        """What the members say that have to; raises KVError if one does not answer."""
        store = self._store
        asked = [record.node_id for record in self._membership.active()] if of is None else of
        node_ids = [node_id for node_id in asked if not self._is_given_up(node_id)]
        return dict(
            zip(node_ids, await gather(store.scheduler, [self._asked(n, request) for n in node_ids]), strict=True)
        )

    async def _asked(self, node_id: NodeId, request: Message) -> VersionAnswer:
        store = self._store
        deadline_ns = store.scheduler.now_ns() + ANSWER_NS
        late = KVError(f"node {node_id} does not answer in time")
        answer = await with_deadline(store.scheduler, store.call(node_id, request), deadline_ns, late)
        if not isinstance(answer, VersionAnswer):
            raise KVError(f"node {node_id} gave another answer")
        return answer

    def _is_given_up(self, node_id: NodeId) -> bool:
        store = self._store
        if node_id == store.node_id or store.liveness.is_live(node_id):
            return False
        return store.liveness.silent_ns(node_id) > self._membership.dead_after_ns


def version_of(text: str) -> int:
    """The cluster's version as its record in range 1 tells it; clusters of before there were any have none."""
    return int(text) if text.isdigit() else FIRST_VERSION
