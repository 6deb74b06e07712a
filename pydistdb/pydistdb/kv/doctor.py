"""Is the cluster well?  Pure judgement over a survey: every node, every range, every replica.

A finding is "ok", "warning" (something should be looked at, everything works) or "error" (data cannot be reached, or is not
what it should be).  What is checked:

=========== =====================================================================================
nodes       alive, writing, answering
clocks      offset to the asking node
disks       room left
versions    releases all the same, the cluster at the newest version that they know (version_report.py)
ranges      a leaseholder, as many voters as the replication factor says, a live majority, lag
checksums   replicas that have applied the same entries hold the same rows (sizes.py)
=========== =====================================================================================

A checksum can be compared only where two replicas were at the same entry when they were measured; busy ranges are asked
for again, and counted as not compared if that never happens.  So are ranges whose replicas differ: only what stays different
counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydistdb.kv.descriptor import NodeId, RangeId
from pydistdb.kv.survey import EXACT_TIMEOUT_NS, RangeReport, Survey, Surveyor
from pydistdb.kv.version_report import version_report
from pydistdb.tasks import Scheduler, sleep

MOST_CLOCK_OFFSET_US = 100_000
MOST_LAG = 1_000
MOST_ALIKE = 3
"""Ranges that are named one by one when the same is wrong with them."""
LOW_DISK, FULL_DISK = 0.10, 0.03
ATTEMPTS = 3
ATTEMPT_INTERVAL_NS = 300_000_000
LONG_NS = 10_000_000_000
"""A look that takes so long is the last one: the nodes are busy enough."""


SLOW = (
    f"it is alive, but has not answered within {EXACT_TIMEOUT_NS // 10**9} s: it is very busy, or has just been started"
)


class Finding(NamedTuple):
    area: str
    subject: str
    status: str
    detail: str


async def examine(surveyor: Surveyor, scheduler: Scheduler) -> list[Finding]:
    """Look at everything, checksums included; that reads every replica once."""
    verdicts: dict[RangeId, bool] = {}
    begun_ns = scheduler.now_ns()
    for attempt in range(ATTEMPTS):
        survey = await surveyor.survey(exact=True)
        for range_id, verdict in compared(survey).items():
            if verdict is not None:
                verdicts[range_id] = verdict or verdicts.get(range_id, False)
        replicas = survey.replicas()
        if all(len(replicas[range_id]) < 2 or verdicts.get(range_id) for range_id in replicas):
            break
        if scheduler.now_ns() - begun_ns > LONG_NS:
            break
        if attempt + 1 < ATTEMPTS:
            await sleep(scheduler, ATTEMPT_INTERVAL_NS)
    return diagnose(survey, verdicts)


def diagnose(survey: Survey, verdicts: dict[RangeId, bool]) -> list[Finding]:
    """All findings; a check that finds nothing wrong gives one line that says so."""
    ranges = survey.ranges()
    parts: dict[str, tuple[list[Finding], str]] = {
        "nodes": (list(_nodes(survey)), f"{sum(_counts(survey))} nodes are alive"),
        "clocks": (list(_clocks(survey)), "no clock differs by more than 100 ms"),
        "disks": (list(_disks(survey)), "every node has room"),
        "versions": (
            list(_versions(survey)),
            f"all nodes run {survey.answers[survey.own].version}, the cluster is at version {survey.cluster_version}",
        ),
        "ranges": (
            _folded([f for r in ranges for f in _range(survey, r)]),
            f"{len(ranges)} ranges are fully replicated",
        ),
        "checksums": (_folded(list(_checksums(survey, verdicts))), f"the replicas of {len(verdicts)} ranges are equal"),
    }
    return [
        finding
        for area, (found, well) in parts.items()
        for finding in (found or [Finding(area, "cluster", "ok", well)])
    ]


def _folded(findings: list[Finding]) -> list[Finding]:
    """What is wrong alike with many ranges, as a dead node is with all that it had, in one finding."""
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.status, finding.detail), []).append(finding)
    folded: list[Finding] = []
    for (status, detail), group in alike.items():
        if len(group) <= MOST_ALIKE:
            folded += group
            continue
        shown = ", ".join(each.subject.removeprefix("range ") for each in group[:MOST_ALIKE])
        detail = f"{detail} (ranges {shown} and {len(group) - MOST_ALIKE} more)"
        folded.append(Finding(group[0].area, f"{len(group)} ranges", status, detail))
    return folded


def _named(survey: Survey, node_id: NodeId) -> str:
    """``node 4 (berlin)``: a node by its number, and its name where that is another one."""
    name = next((node.name for node in survey.nodes if node.node_id == node_id), "")
    return f"node {node_id} ({name})" if name not in ("", f"node{node_id}") else f"node {node_id}"


def _counts(survey: Survey) -> Iterator[bool]:
    for node in survey.nodes:
        yield node.state == "live"


def _nodes(survey: Survey) -> Iterator[Finding]:
    for node in survey.nodes:
        if node.state == "dead":
            yield Finding("nodes", _named(survey, node.node_id), "error", "it is dead")
        elif node.state == "live" and node.node_id not in survey.answers:
            yield Finding("nodes", _named(survey, node.node_id), "warning", SLOW)
        elif node.mode == "draining":
            yield Finding("nodes", _named(survey, node.node_id), "warning", "it is being drained")
    for node_id, answer in survey.answers.items():
        if answer.status.write_error:
            yield Finding("nodes", _named(survey, node_id), "error", f"it cannot write: {answer.status.write_error}")


def _clocks(survey: Survey) -> Iterator[Finding]:
    for node in survey.nodes:
        if node.state == "live" and abs(node.clock_offset_us) > MOST_CLOCK_OFFSET_US:
            yield Finding(
                "clocks",
                _named(survey, node.node_id),
                "warning",
                f"its clock is {node.clock_offset_us / 1e3:+.0f} ms off",
            )


def _disks(survey: Survey) -> Iterator[Finding]:
    for node_id, answer in survey.answers.items():
        free = answer.disk_free / answer.disk_total if answer.disk_total else 1.0
        if free < LOW_DISK:
            status = "error" if free < FULL_DISK else "warning"
            yield Finding("disks", _named(survey, node_id), status, f"{free:.1%} of its disk is free")


def _versions(survey: Survey) -> Iterator[Finding]:
    if len({answer.version for answer in survey.answers.values()}) > 1:
        for node_id, answer in survey.answers.items():
            yield Finding(
                "versions", _named(survey, node_id), "warning", f"it runs {answer.version}, and others do not"
            )
    report = version_report(survey)
    if report.state != "current":
        detail = f"the cluster is at version {report.version} of {report.newest}, {report.state}: {report.detail}"
        yield Finding("versions", "cluster", "warning", detail)


def _range(survey: Survey, report: RangeReport) -> Iterator[Finding]:
    subject = f"range {report.range_id}"
    live = {node.node_id for node in survey.nodes if node.state == "live"}
    voters = [node_id for node_id, _, role in report.status.replicas if role in ("voter", "incoming")]
    alive = [node_id for node_id in voters if node_id in live]
    if 2 * len(alive) <= len(voters):
        yield Finding("ranges", subject, "error", f"{len(alive)} of {len(voters)} voters are alive: no majority")
        return
    if report.leader not in live:
        yield Finding("ranges", subject, "error", "it has no leaseholder")
    if len(alive) < len(voters):
        dead = ", ".join(str(node_id) for node_id in voters if node_id not in live)
        yield Finding("ranges", subject, "warning", f"replicas on these nodes are dead: {dead}")
    if len(voters) < survey.replication_factor:
        yield Finding("ranges", subject, "warning", f"it has {len(voters)} of {survey.replication_factor} replicas")
    if report.lag > MOST_LAG and len(alive) == len(voters):
        yield Finding("ranges", subject, "warning", f"a follower is {report.lag} entries behind")


def compared(survey: Survey) -> dict[RangeId, bool | None]:
    """Whether each range's replicas are equal; None where that cannot be told of all."""
    found: dict[RangeId, bool | None] = {}
    for range_id, replicas in survey.replicas().items():
        by_index: dict[tuple[int, int], list[int]] = {}
        for _, status, measure in replicas:
            if measure.checksum is not None and measure.keys >= 0:
                by_index.setdefault((status.generation, measure.applied_index), []).append(measure.checksum)
        if any(len(set(group)) > 1 for group in by_index.values()):
            found[range_id] = False
        else:
            found[range_id] = True if any(len(group) == len(replicas) for group in by_index.values()) else None
    return found


def _checksums(survey: Survey, verdicts: dict[RangeId, bool]) -> Iterator[Finding]:
    for range_id, replicas in sorted(survey.replicas().items()):
        if verdicts.get(range_id) is False:
            yield Finding("checksums", f"range {range_id}", "error", "its replicas differ")
        elif range_id not in verdicts and len(replicas) > 1:
            is_unread = any(measure.keys < 0 for _, _, measure in replicas)
            why = "a node is still reading it, ask again later" if is_unread else "it is written to all the time"
            yield Finding("checksums", f"range {range_id}", "ok", f"not compared: {why}")
