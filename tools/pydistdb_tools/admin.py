"""``proddb admin`` and ``proddb node``: what operators see and do, as a thin client of schema ``proddb``.

Every command is one SELECT from a view or of a function (docs/operations.md), sent to whatever node ``--url`` names; here
is only how it is written to the terminal, or with ``--format json`` for programs::

    $ proddb admin shards
    shard  from         tables  leader  followers     term  keys   size    qps  cpu  heat
    -----  -----------  ------  ------  ------------  ----  -----  ------  ---  ---  ----
        2  group 16387  users   node1   node2, node3     2  3,334  140 kB  0    0%

Nodes are given by name or number.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pydistdb_tools.errors import CANNOT_CONNECT, UNDEFINED_OBJECT, ClusterError
from pydistdb_tools.local_cluster import plural
from pydistdb_tools.remote import connect
from pydistdb_tools.status import table

Row = dict[str, Any]
Connection = psycopg.Connection[Any]

DRAIN_SECONDS = 60.0
DECOMMISSION_SECONDS = 24 * 3600.0
_POLL_SECONDS = 0.5
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection whose errors are the user's to read."""
    with connect(url) as connection:
        try:
            yield connection
        except psycopg.Error as error:
            said = error.diag
            raise ClusterError(
                said.message_primary or str(error).strip(),
                code=error.sqlstate or CANNOT_CONNECT,
                detail=said.message_detail,
                hint=said.message_hint,
            ) from None


def rows_of(connection: Connection, text: str, *values: object) -> list[Row]:
    """A query's rows as dictionaries."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(text, values).fetchall()


def node_names(connection: Connection) -> dict[int, str]:
    return {row["node_id"]: row["node_name"] for row in rows_of(connection, "SELECT * FROM proddb.nodes")}


def find_node(connection: Connection, given: str) -> int:
    """The number of a node given by number or name (of several of one name, the one that lives)."""
    nodes = rows_of(connection, "SELECT node_id, node_name, state FROM proddb.nodes ORDER BY state = 'live' DESC")
    for node in nodes:
        if given == str(node["node_id"]) or given.lower() == node["node_name"].lower():
            return int(node["node_id"])
    known = ", ".join(sorted((f"{node['node_name']} ({node['node_id']})" for node in nodes), key=_natural))
    raise ClusterError(f"there is no node {given}; there are {known}", code=UNDEFINED_OBJECT)


def _natural(name: str) -> list[tuple[str, int]]:
    """Sorts node10 behind node9."""
    return [(letters, int(digits or 0)) for letters, digits in re.findall(r"(\D*)(\d*)", name)]


def human_size(size: int | None) -> str:
    """``143 kB``: three digits or so, in powers of 1,024; ``?`` if it is not known yet."""
    if size is None:
        return "?"
    value, unit = float(size), 0
    while value >= 1_000 and unit < len(_UNITS) - 1:
        value, unit = value / 1_024, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit and value < 10 else f"{value:.0f} {_UNITS[unit]}"


def _count(number: float | None) -> str:
    return "?" if number is None else f"{number:,.0f}"


# ------------------------------------------------------------------------------------------------ tables


def _place(row: Row, names: dict[int, str]) -> list[object]:
    """Which range it is, and who leads it."""
    return [row["range_id"], row["start_pretty"], row["tables"], names.get(row["leaseholder"], "(none)")]


def _load(row: Row) -> list[object]:
    """What it holds, and what is done with it."""
    return [_count(row["keys"]), human_size(row["bytes"]), _count(row["qps"]), f"{row['cpu']:.0%}"]


def shards_report(ranges: Sequence[Row], names: dict[int, str]) -> str:
    """A line per range."""
    rows = [
        [
            *_place(row, names),
            ", ".join(names.get(node, f"n{node}") for node in row["replicas"] if node != row["leaseholder"]),
            row["term"],
            *_load(row),
            _heat(row),
        ]
        for row in ranges
    ]
    return table(["shard", "from", "tables", "leader", "followers", "term", "keys", "size", "qps", "cpu", "heat"], rows)


def _heat(row: Row) -> str:
    return {"hot": "HOT", "warm": "warm"}.get(row["heat"] or "", "")


def balance_report(ranges: Sequence[Row], names: dict[int, str]) -> str:
    """The table of ``rebalance --check``, and what is recommended."""
    rows = [
        [
            row["range_id"],
            row["tables"],
            names.get(row["leaseholder"], "(none)"),
            *_load(row),
            f"{row['share']:.0%}",
            {"hot": "← hot", "warm": "← slightly hot"}.get(row["heat"] or "", ""),
        ]
        for row in ranges
    ]
    advice = [
        f"Shard {row['range_id']}: {_named_target(row['recommendation'], names)}"
        for row in ranges
        if row["recommendation"]
    ]
    title = "Shard Balance Analysis"
    return "\n".join(
        [
            title,
            "=" * len(title),
            table(["shard", "tables", "leader", "keys", "size", "qps", "cpu", "load", "heat"], rows),
            "",
            *(["Recommendations", *("  " + line for line in advice)] if advice else ["Recommendation: none needed"]),
        ]
    )


def hotspots_report(ranges: Sequence[Row], names: dict[int, str]) -> str:
    """The shards with requests, and what would help."""
    rows = [
        [
            *_place(row, names),
            *_load(row),
            f"{row['share']:.0%}",
            _heat(row),
            _named_target(row["recommendation"] or "", names),
        ]
        for row in ranges
    ]
    headings = ["shard", "from", "tables", "leader", "keys", "size", "qps", "cpu", "load", "heat", "recommendation"]
    return table(headings, rows) if rows else "no shard gets requests"


def _named_target(recommendation: str, names: dict[int, str]) -> str:
    start, separator, number = recommendation.rpartition(" to node ")
    return f"{start} to {names.get(int(number), number)}" if separator else recommendation


def _plain(rows: Sequence[Row]) -> str:
    """Any rows under their columns' names."""
    if not rows:
        return "(none)"
    return table(list(rows[0]), [list(row.values()) for row in rows])


def nodes_report(nodes: Sequence[Row]) -> str:
    rows = [
        [
            row["node_id"],
            row["node_name"],
            ", ".join(part for part in (row["state"], row["mode"]) if part),
            row["sql_address"],
            row["locality"],
            row["replicas"],
            row["leases"],
            _count(row["qps"]),
            human_size(row["disk_free_bytes"]),
            row["version"],
            _versions(row),
        ]
        for row in sorted(nodes, key=lambda row: _natural(row["node_name"]))
    ]
    headings = ["id", "name", "state", "sql", "locality", "replicas", "leases", "qps", "disk free", "release", "knows"]
    return table(headings, rows)


def _versions(row: Row) -> str:
    """The cluster versions that a node's release can work at."""
    oldest, newest = row["oldest_cluster_version"], row["newest_cluster_version"]
    return "" if newest is None else str(newest) if oldest == newest else f"{oldest}-{newest}"


def version_report(row: Row) -> str:
    """Where a rolling upgrade stands."""
    if row["state"] == "current":
        return f"The cluster is at version {row['version']}, the newest that its nodes know."
    return f"The cluster is at version {row['version']} of {row['newest_version']}, {row['state']}: {row['details']}."


def nodes(arguments: argparse.Namespace) -> int:
    with connected(arguments.find_url(arguments)) as connection:
        found = rows_of(connection, "SELECT * FROM proddb.nodes")
        (version,) = rows_of(connection, "SELECT * FROM proddb.cluster_version")
    print_rows(found, lambda rows: f"{nodes_report(rows)}\n\n{version_report(version)}", arguments)
    return 0


def jobs_report(jobs: Sequence[Row]) -> str:
    shown = [row | {"progress": "" if row["progress"] is None else f"{row['progress']:.0%}"} for row in jobs]
    return _plain(shown) if shown else "no jobs"


def print_rows(rows: Sequence[Row], report: Callable[[Sequence[Row]], str], arguments: argparse.Namespace) -> None:
    """Write rows as the command's ``--format`` says."""
    if arguments.format == "json":
        print(json.dumps(list(rows), indent=2, default=_json_value))
    else:
        print(report(rows))


def _json_value(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else str(value)


# ------------------------------------------------------------------------------------------------ commands


def shards(arguments: argparse.Namespace) -> int:
    with connected(arguments.find_url(arguments)) as connection:
        names = node_names(connection)
        found = rows_of(connection, "SELECT * FROM proddb.ranges")
    print_rows(found, lambda rows: shards_report(rows, names), arguments)
    return 0


def hotspots(arguments: argparse.Namespace) -> int:
    with connected(arguments.find_url(arguments)) as connection:
        names = node_names(connection)
        found = rows_of(connection, "SELECT * FROM proddb.hotspots")
    print_rows(found, lambda rows: hotspots_report(rows, names), arguments)
    return 0


def view(name: str, report: Callable[[Sequence[Row]], str] = _plain) -> Callable[[argparse.Namespace], int]:
    """The command that prints a whole view."""

    def show(arguments: argparse.Namespace) -> int:
        with connected(arguments.find_url(arguments)) as connection:
            print_rows(rows_of(connection, f"SELECT * FROM proddb.{name}"), report, arguments)
        return 0

    return show


jobs = view("jobs", jobs_report)
zones = view("zones")


def version(arguments: argparse.Namespace) -> int:
    with connected(arguments.find_url(arguments)) as connection:
        found = rows_of(connection, "SELECT * FROM proddb.cluster_version")
        features = rows_of(connection, "SELECT * FROM proddb.features")
    if arguments.format == "json":
        print(json.dumps(found[0] | {"features": features}, indent=2))
    else:
        print(version_report(found[0]) + "\n\n" + _plain(features))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """0: all is well; 1: warnings; 2: errors."""
    with connected(arguments.find_url(arguments)) as connection:
        findings = rows_of(connection, "SELECT * FROM proddb.doctor")
    print_rows(findings, _plain, arguments)
    states = {row["status"] for row in findings}
    return 2 if "error" in states else 1 if "warning" in states else 0


def _done(arguments: argparse.Namespace, text: str, **facts: object) -> int:
    print(json.dumps(facts) if arguments.format == "json" else text)
    return 0


def _at_border(arguments: argparse.Namespace, verb: str) -> object:
    """Split or merge a range, or the one of a table's row; the id of the range that the server names."""
    with connected(arguments.find_url(arguments)) as connection:
        if arguments.range is not None:
            (found,) = rows_of(connection, f"SELECT proddb.{verb}_range(%s) AS id", arguments.range)
        else:
            text = f"SELECT proddb.{verb}_at(%s::regclass, VARIADIC %s::text[]) AS id"
            (found,) = rows_of(connection, text, arguments.table, arguments.key)
    return found["id"]


def split(arguments: argparse.Namespace) -> int:
    right = _at_border(arguments, "split")
    return _done(arguments, f"shard {right} begins there now", range_id=right)


def merge(arguments: argparse.Namespace) -> int:
    whole = _at_border(arguments, "merge")
    return _done(arguments, f"shard {whole} has taken in its neighbour", range_id=whole)


def move_lease(arguments: argparse.Namespace) -> int:
    with connected(arguments.find_url(arguments)) as connection:
        to = find_node(connection, arguments.to)
        rows_of(connection, "SELECT proddb.move_lease(%s, %s)", arguments.range, to)
        name = node_names(connection)[to]
    return _done(arguments, f"{name} leads shard {arguments.range}", range_id=arguments.range, leaseholder=to)


def move_replica(arguments: argparse.Namespace) -> int:
    with connected(arguments.find_url(arguments)) as connection:
        away, to = find_node(connection, arguments.away), find_node(connection, arguments.to)
        rows_of(connection, "SELECT proddb.move_replica(%s, %s, %s)", arguments.range, away, to)
        names = node_names(connection)
    text = f"the replica of shard {arguments.range} on {names[away]} is on {names[to]} now"
    return _done(arguments, text, range_id=arguments.range, from_node=away, to_node=to)


def drain(arguments: argparse.Namespace) -> int:
    return _empty(arguments, "drain", "leases", DRAIN_SECONDS)


def decommission(arguments: argparse.Namespace) -> int:
    return _empty(arguments, "decommission", "replicas", DECOMMISSION_SECONDS)


def _empty(arguments: argparse.Namespace, function: str, what: str, seconds: float) -> int:
    """Begin, and wait until the node has none of ``what`` left; Ctrl-C leaves it going on."""
    name = arguments.node
    with connected(arguments.find_url(arguments)) as connection:
        node = find_node(connection, name)
        rows_of(connection, f"SELECT proddb.{function}(%s)", node)
        if arguments.no_wait:
            return _done(arguments, f"{name}: {function} has begun (see proddb admin jobs)", node_id=node)
        try:
            tell = (lambda _text: None) if arguments.format == "json" else _tell
            _wait_until_empty(connection, node, name, what, seconds, tell)
        except KeyboardInterrupt:
            if arguments.format == "json":
                raise
            back = f"proddb node recommission {name} takes the node back"
            print(f"{name}: {function} goes on (see proddb admin jobs); {back}", file=sys.stderr)
            return 130
    return _done(arguments, f"{name} has no {what} any more", node_id=node, left=0)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _wait_until_empty(
    connection: Connection, node: int, name: str, what: str, seconds: float, tell: Callable[[str], None]
) -> None:
    """Wait, and tell what is left and how far that is whenever it changes."""
    deadline, told = time.monotonic() + seconds, ""
    text = f"SELECT {what} AS count FROM proddb.nodes WHERE node_id = %s"
    job = "SELECT state, progress FROM proddb.jobs WHERE kind IN ('drain', 'decommission') AND subject = %s"
    while True:
        (left,) = rows_of(connection, text, node)
        if not left["count"]:
            return
        known = [row for row in rows_of(connection, job, f"node {node}") if row["progress"] is not None]
        amount = plural(left["count"], what[:-1])
        now = f"{name}: {amount} left" + "".join(f", {row['state']}, {row['progress']:.0%} done" for row in known)
        if now != told:
            tell(now)
            told = now
        if time.monotonic() > deadline:
            raise ClusterError(f"{name} still has {amount}; it goes on (see proddb admin jobs)")
        time.sleep(_POLL_SECONDS)


def recommission(arguments: argparse.Namespace) -> int:
    with connected(arguments.find_url(arguments)) as connection:
        node = find_node(connection, arguments.node)
        rows_of(connection, "SELECT proddb.recommission(%s)", node)
    return _done(arguments, f"{arguments.node} takes replicas and leases again", node_id=node)
