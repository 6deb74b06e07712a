"""Schema proddb, the views: what operators look at.  Each asks every node when it is read.

============================= ========================================================================
proddb.ranges                 every range: where, how large, how busy, what would help
proddb.hotspots               those that get requests, busiest first
proddb.nodes                  every node: state, load, clock, disk, version
proddb.zones                  the same by locality
proddb.cluster_version        what every node knows how to read, and where an upgrade stands
proddb.features               what waits for which version
proddb.settings               settings of the whole cluster: what is set, and what it means
proddb.jobs                   what goes on by itself: index builds, copies of replicas, nodes that leave
proddb.transactions_in_doubt  transactions with prepared writes that are not resolved
proddb.doctor                 checks of everything, replicas' checksums included (reads all data once)
============================= ========================================================================

They are for superusers and members of pg_monitor: ranges begin and end with keys.  The functions beside them are in
operations_functions.py; ``proddb admin`` prints and calls nothing else.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice, takewhile
from typing import Any

from pydistdb.kv.doctor import Finding, examine
from pydistdb.kv.in_doubt import InDoubt
from pydistdb.kv.placement.hotspots import assess
from pydistdb.kv.settings import SETTINGS, ClusterSettings, shown
from pydistdb.kv.status import NodeStatus
from pydistdb.kv.survey import Survey
from pydistdb.kv.version_report import version_report
from pydistdb.kv.versions import SINCE
from pydistdb.sql.catalog.descriptors import Garbage
from pydistdb.sql.catalog.garbage import recorded_garbage
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.clock import POSTGRES_EPOCH_US
from pydistdb.sql.layout import storage_prefix
from pydistdb.sql.pg_catalog.define import RowDict, SystemColumn, SystemRelation, gathered_relation
from pydistdb.sql.pg_catalog.key_names import KeyNames, named_tables
from pydistdb.sql.pg_catalog.objects import array
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.known import BOOL, BYTEA, FLOAT8, INT4, INT8, TEXT, TIMESTAMPTZ, TYPES_BY_OID

SCHEMA = "proddb"
MOST_NAMES = 6
_INT4_ARRAY = TYPES_BY_OID[1007]

Gather = Callable[[EvalContext], Awaitable[Any]]


def operator_relation(name: str, oid: int, /, **columns: SqlType) -> SystemRelation:
    described = tuple(SystemColumn(column, sql_type, False) for column, sql_type in columns.items())
    return SystemRelation(SCHEMA, name, oid, "v", described)


async def _survey(context: EvalContext) -> Survey | None:
    session: Any = context.extra
    operations = session.environment.operations if session is not None else None
    return None if operations is None else await operations.surveyor.survey()


async def _examine(context: EvalContext) -> list[Finding]:
    session: Any = context.extra
    operations = session.environment.operations if session is not None else None
    return [] if operations is None else await examine(operations.surveyor, session.environment.scheduler)


# ------------------------------------------------------------------------------------------------ ranges


def _spans(view: StateView) -> list[tuple[bytes, str]]:
    """Where each table begins, in key order."""
    found = []
    for table, name in named_tables(view):
        if table.kind in "rm":
            found.append((storage_prefix(table), name))
    return sorted(found)


def _tables_in(spans: list[tuple[bytes, str]], start: bytes, end: bytes) -> str:
    """What a range holds: "system" for addressing and catalog, and the names of the first few tables."""
    names = ["system"] if start < b"\x04" else []
    first = bisect_left(spans, (start[:5], ""))
    within = takewhile(lambda span: span[0] < end, islice(spans, first, first + MOST_NAMES + 1))
    found = [name for _, name in within]
    names += found[:MOST_NAMES]
    return ", ".join([*names, "…"] if len(found) > MOST_NAMES else names)


def _range_rows(view: StateView, survey: Survey) -> Iterator[RowDict]:
    ranges, spans, readable_key = survey.ranges(), _spans(view), KeyNames(view)
    judged = assess(ranges, [node.node_id for node in survey.nodes if node.state == "live"])
    for report in ranges:
        status, judgement = report.status, judged[report.range_id]
        yield {
            "range_id": report.range_id,
            "start_key": status.start,
            "end_key": status.end,
            "start_pretty": readable_key(status.start),
            "end_pretty": readable_key(status.end),
            "tables": _tables_in(spans, status.start, status.end),
            "leaseholder": report.leader or None,
            "replicas": array(node for node, _, role in status.replicas if role != "learner"),
            "learners": array(node for node, _, role in status.replicas if role == "learner"),
            "term": status.term,
            "lag": report.lag,
            "keys": report.keys,
            "bytes": report.size_bytes,
            "qps": round(report.requests_per_second, 1),
            "cpu": round(report.cpu_share, 4),
            "share": round(judgement.share, 4),
            "heat": judgement.heat or None,
            "recommendation": judgement.recommendation or None,
        }


_LOAD_COLUMNS: dict[str, SqlType] = {
    "keys": INT8,
    "bytes": INT8,
    "qps": FLOAT8,
    "cpu": FLOAT8,
    "share": FLOAT8,
    "heat": TEXT,
    "recommendation": TEXT,
}


@gathered_relation(
    operator_relation(
        "ranges",
        13_981,
        range_id=INT8,
        start_key=BYTEA,
        end_key=BYTEA,
        start_pretty=TEXT,
        end_pretty=TEXT,
        tables=TEXT,
        leaseholder=INT4,
        replicas=_INT4_ARRAY,
        learners=_INT4_ARRAY,
        term=INT8,
        lag=INT8,
        **_LOAD_COLUMNS,
    ),
    _survey,
)
def ranges(view: StateView, context: EvalContext, survey: Survey | None) -> Iterator[RowDict]:
    if survey is not None:
        yield from _range_rows(view, survey)


@gathered_relation(
    operator_relation(
        "hotspots", 13_982, range_id=INT8, start_pretty=TEXT, tables=TEXT, leaseholder=INT4, **_LOAD_COLUMNS
    ),
    _survey,
)
def hotspots(view: StateView, context: EvalContext, survey: Survey | None) -> Iterator[RowDict]:
    if survey is not None:
        busy = [row for row in _range_rows(view, survey) if row["qps"] > 0]
        yield from sorted(busy, key=lambda row: -row["qps"])


# ------------------------------------------------------------------------------------------------ nodes


def _locality(tiers: tuple[tuple[str, str], ...]) -> str:
    return ",".join(f"{key}={value}" for key, value in tiers)


def _loads(survey: Survey) -> dict[int, float]:
    return {
        node_id: sum(measure.requests_per_second for measure in answer.measures)
        for node_id, answer in survey.answers.items()
    }


@gathered_relation(
    operator_relation(
        "nodes",
        13_983,
        node_id=INT4,
        node_name=TEXT,
        state=TEXT,
        mode=TEXT,
        address=TEXT,
        sql_address=TEXT,
        http_address=TEXT,
        locality=TEXT,
        replicas=INT4,
        leases=INT4,
        qps=FLOAT8,
        clock_offset_us=INT8,
        started_at=TIMESTAMPTZ,
        disk_free_bytes=INT8,
        disk_total_bytes=INT8,
        version=TEXT,
        oldest_cluster_version=INT4,
        newest_cluster_version=INT4,
        write_error=TEXT,
    ),
    _survey,
)
def nodes(view: StateView, context: EvalContext, survey: Survey | None) -> Iterator[RowDict]:
    if survey is None:
        return
    loads = _loads(survey)
    for node in survey.nodes:
        row: RowDict = {
            "node_id": node.node_id,
            "node_name": node.name,
            "state": node.state,
            "mode": node.mode or None,
            "address": node.address,
            "sql_address": node.sql_address,
            "http_address": node.http_address,
            "locality": _locality(node.locality),
            "replicas": node.replica_count,
            "leases": node.lease_count,
            "clock_offset_us": node.clock_offset_us,
            "started_at": node.started_us - POSTGRES_EPOCH_US if node.started_us else None,
        }
        answer = survey.answers.get(node.node_id)
        if answer is not None:
            row |= {
                "qps": round(loads[node.node_id], 1),
                "disk_free_bytes": answer.disk_free,
                "disk_total_bytes": answer.disk_total,
                "version": answer.version,
                "oldest_cluster_version": answer.supported.oldest,
                "newest_cluster_version": answer.supported.newest,
                "write_error": answer.status.write_error or None,
            }
        yield row


@gathered_relation(
    operator_relation("zones", 13_984, locality=TEXT, nodes=INT4, live=INT4, replicas=INT8, leases=INT8, qps=FLOAT8),
    _survey,
)
def zones(view: StateView, context: EvalContext, survey: Survey | None) -> Iterator[RowDict]:
    if survey is None:
        return
    loads = _loads(survey)
    by_locality: dict[str, list[Any]] = {}
    for node in survey.nodes:
        if node.state in ("live", "dead"):
            by_locality.setdefault(_locality(node.locality), []).append(node)
    for locality, members in sorted(by_locality.items()):
        yield {
            "locality": locality,
            "nodes": len(members),
            "live": sum(node.state == "live" for node in members),
            "replicas": sum(node.replica_count for node in members),
            "leases": sum(node.lease_count for node in members),
            "qps": round(sum(loads.get(node.node_id, 0.0) for node in members), 1),
        }


# ------------------------------------------------------------------------------------------------ versions


@gathered_relation(
    operator_relation("cluster_version", 13_977, version=INT4, newest_version=INT4, state=TEXT, details=TEXT), _survey
)
def cluster_version(view: StateView, context: EvalContext, survey: Survey | None) -> Iterator[RowDict]:
    if survey is not None:
        report = version_report(survey)
        yield {
            "version": report.version,
            "newest_version": report.newest,
            "state": report.state,
            "details": report.detail or None,
        }


@gathered_relation(
    operator_relation("features", 13_976, name=TEXT, since_version=INT4, active=BOOL, description=TEXT), _survey
)
def features(view: StateView, context: EvalContext, survey: Survey | None) -> Iterator[RowDict]:
    if survey is not None:
        for feature, since in SINCE.items():
            yield {
                "name": feature.name.lower(),
                "since_version": since,
                "active": since <= survey.cluster_version,
                "description": feature.value,
            }


# ------------------------------------------------------------------------------------------------ settings


async def _settings(context: EvalContext) -> ClusterSettings | None:
    session: Any = context.extra
    operations = session.environment.operations if session is not None else None
    return None if operations is None else operations.store.membership.settings


@gathered_relation(
    operator_relation("settings", 13_978, name=TEXT, value=TEXT, default_value=TEXT, description=TEXT), _settings
)
def settings(view: StateView, context: EvalContext, known: ClusterSettings | None) -> Iterator[RowDict]:
    if known is not None:
        for name, setting in sorted(SETTINGS.items()):
            yield {
                "name": name,
                "value": known.given.get(name) or shown(name, known.value(name)),
                "default_value": shown(name, setting.default),
                "description": setting.meaning,
            }


# ------------------------------------------------------------------------------------------------ jobs and checks


async def _survey_and_garbage(context: EvalContext) -> tuple[Survey | None, list[tuple[int, Garbage]]]:
    session: Any = context.extra
    garbage = [] if session is None else await recorded_garbage(session.environment.catalog.database)
    return await _survey(context), garbage


@gathered_relation(
    operator_relation("jobs", 13_985, kind=TEXT, subject=TEXT, state=TEXT, progress=FLOAT8, details=TEXT),
    _survey_and_garbage,
)
def jobs(
    view: StateView, context: EvalContext, gathered: tuple[Survey | None, list[tuple[int, Garbage]]]
) -> Iterator[RowDict]:
    """Progress is between 0 and 1, NULL where it is not known."""
    survey, garbage = gathered
    for number, each in garbage:
        yield {
            "kind": "clear storage",
            "subject": f"storage {int.from_bytes(each.identity[:4] or each.spans[0][0][1:5], 'big')}",
            "state": "cleaning up",
            "details": f"of a table or index that is gone, or of a layout that a table had (record {number})",
        }
    environment = getattr(context.extra, "environment", None)
    for job in () if environment is None else environment.catalog.index_jobs.progress.values():
        database = view.catalog_state.databases.get(job.database)
        if database is not None and job.table in database.building:
            index = database.indexes_by_oid.get(job.index)
            subject = database.tables[job.table].name if job.kind else "" if index is None else index[1].name
            of_all = f" of about {max(job.rows_total, job.rows_done)}" if job.rows_total else ""
            yield {
                "kind": "re-shard" if job.kind else "create index",
                "subject": subject or str(job.index),
                "state": job.phase,
                "progress": min(job.rows_done / job.rows_total, 1.0) if job.rows_total else None,
                "details": f"{job.rows_done}{of_all} rows, by node {job.node}",
            }
    if survey is None:
        return
    reference = {storage_prefix(table) for table, _ in named_tables(view) if table.reference}
    for report in survey.ranges():
        for node_id, _, role in report.status.replicas:
            if role == "learner" and report.status.start[:5] not in reference:
                follower = next((f for f in report.status.followers if f.node_id == node_id), None)
                yield {
                    "kind": "add replica",
                    "subject": f"range {report.range_id}",
                    "state": "copying" if follower is None or follower.state == "SNAPSHOT" else "catching up",
                    "details": f"to node {node_id}" + (f", {follower.lag} entries behind" if follower else ""),
                }
    for node in survey.nodes:
        if node.mode == "decommissioning" or (node.mode == "draining" and node.lease_count):
            yield emptying_job(node)


def emptying_job(node: NodeStatus) -> RowDict:
    """A node that gives its leases away, and its replicas then if it is to leave."""
    leaves = node.mode == "decommissioning"
    left = node.replica_count if leaves else node.lease_count
    phase = "handing leases over" if node.lease_count else "moving replicas"
    return {
        "kind": "decommission" if leaves else "drain",
        "subject": f"node {node.node_id}",
        "state": phase if node.state == "live" else node.state,
        "progress": max(1 - left / node.emptying_from, 0.0) if node.emptying_from else None,
        "details": f"{node.replica_count} replicas and {node.lease_count} leases are left",
    }


async def _in_doubt(context: EvalContext) -> list[InDoubt]:
    session: Any = context.extra
    operations = session.environment.operations if session is not None else None
    return [] if operations is None else await operations.in_doubt.list()


@gathered_relation(
    operator_relation(
        "transactions_in_doubt",
        13_979,
        transaction_id=TEXT,
        state=TEXT,
        began_at=TIMESTAMPTZ,
        gateway=INT4,
        anchor_pretty=TEXT,
        intents=INT8,
        ranges=TYPES_BY_OID[1016],
    ),
    _in_doubt,
)
def transactions_in_doubt(view: StateView, context: EvalContext, found: list[InDoubt]) -> Iterator[RowDict]:
    """Every transaction that has prepared writes; those that are seconds old need looking at."""
    readable_key = KeyNames(view)
    for each in found:
        yield {
            "transaction_id": each.transaction_id.hex(),
            "state": each.state,
            "began_at": each.began_us - POSTGRES_EPOCH_US,
            "gateway": each.gateway,
            "anchor_pretty": readable_key(each.anchor),
            "intents": each.intents,
            "ranges": array(each.ranges),
        }


@gathered_relation(operator_relation("doctor", 13_986, area=TEXT, subject=TEXT, status=TEXT, detail=TEXT), _examine)
def doctor(view: StateView, context: EvalContext, findings: list[Finding]) -> Iterator[RowDict]:
    for finding in findings:
        yield finding._asdict()
