"""``proddb txn``: transactions over several ranges, as ``proddb.transaction_log`` tells of them, and their recovery.

    $ proddb txn log
    Transaction Log
    ===============
    tx-4294967299: COMMITTED
      Coordinator:  node 1
      Participants: range 5 (yes), range 7 (yes)
      Prepare time: 2026-11-22 10:30:00.123
      Commit time:  2026-11-22 10:30:00.145
      Duration:     22.1 ms

A transaction is given by its number, by its full id in hexadecimal digits, or by the name it was prepared under.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from pydistdb_tools.admin import Row, connected, print_rows, rows_of
from pydistdb_tools.errors import UNDEFINED_OBJECT, ClusterError
from pydistdb_tools.local_cluster import plural

_END_NAMES = {"COMMITTED": "Commit time: ", "PREPARED": "Kept since:  "}


def _participants(row: Row) -> str:
    listed = zip(row["ranges"], row["votes"], strict=True)
    return ", ".join(f"range {number} ({vote})" for number, vote in listed) or "(not known here)"


def _moment(value: Any) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if value is not None else "-"


def entry_lines(row: Row) -> list[str]:
    """One transaction of the log."""
    state = row["state"] + (" (recovered)" if row["recovered"] else "")
    lines = [f"tx-{row['transaction_id']}: {state}"]
    if row["gid"] is not None:
        lines.append(f"  Prepared as:  {row['gid']}")
    is_finisher = row["recovered"] or (row["gid"] is not None and row["prepare_time"] is None)
    lines.append(f"  {'Finished by: ' if is_finisher else 'Coordinator: '} node {row['node_id']}")
    lines.append(f"  Participants: {_participants(row)}")
    if row["prepare_time"] is not None:
        lines.append(f"  Prepare time: {_moment(row['prepare_time'])}")
    lines.append(f"  {_END_NAMES.get(row['state'], 'End time:    ')} {_moment(row['end_time'])}")
    if row["duration_ms"] is not None:
        lines.append(f"  Duration:     {row['duration_ms']:.1f} ms")
    if row["detail"] is not None:
        lines.append(f"  Reason:       {row['detail']}")
    return lines


def log_report(rows: Sequence[Row]) -> str:
    title = "Transaction Log"
    lines = [line for row in rows for line in entry_lines(row)]
    return "\n".join([title, "=" * len(title), *(lines or ["(empty)"])])


def log(arguments: argparse.Namespace) -> int:
    with connected(arguments.find_url(arguments)) as connection:
        found = rows_of(connection, "SELECT * FROM proddb.transaction_log LIMIT %s", arguments.limit)
    print_rows(found, log_report, arguments)
    return 0


def show(arguments: argparse.Namespace) -> int:
    given = arguments.id.removeprefix("tx-").lower()
    with connected(arguments.find_url(arguments)) as connection:
        logged = rows_of(
            connection,
            "SELECT * FROM proddb.transaction_log WHERE transaction_id::text = %s OR full_id = %s OR gid = %s",
            given,
            given,
            arguments.id,
        )
        full_ids = [given, *(row["full_id"] for row in logged)]
        held = rows_of(
            connection, "SELECT * FROM proddb.transactions_in_doubt WHERE transaction_id = ANY(%s)", full_ids
        )
    if not logged and not held:
        message = f"no transaction {arguments.id} in the logs of the nodes, nor in their ranges"
        raise ClusterError(message, code=UNDEFINED_OBJECT)
    if arguments.format == "json":
        print(json.dumps({"log": logged, "in_doubt": held}, indent=2, default=_plain))
    else:
        lines = [line for row in reversed(logged) for line in entry_lines(row)]
        print("\n".join(lines + [_held_line(row) for row in held]))
    return 0


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else str(value)


def _held_line(row: Row) -> str:
    ranges = ", ".join(f"range {number}" for number in row["ranges"])
    return f"  Now:          {row['state']}, {plural(row['intents'], 'write')} in {ranges}"


def recover(arguments: argparse.Namespace) -> int:
    with connected(arguments.find_url(arguments)) as connection:
        [answer] = rows_of(connection, "SELECT proddb.recover_transactions() AS report")
        by_itself = rows_of(
            connection,
            "SELECT * FROM proddb.transaction_log WHERE recovered AND detail NOT LIKE 'finished by recovery%%' LIMIT 20",
        )
    report = answer["report"]
    if arguments.format == "json":
        print(json.dumps({"recovered": report, "earlier": by_itself}, indent=2, default=_plain))
    else:
        print("\n".join(recovery_lines(report, by_itself)))
    return 1 if any(found["outcome"] == "UNKNOWN" for found in report) else 0


def recovery_lines(report: Sequence[Row], by_itself: Sequence[Row]) -> list[str]:
    count = len(report)
    lines = ["Looking for transactions in doubt ..."]
    lines.append(f"Found {count or 'no'} transaction{'' if count == 1 else 's'} with intents" + (":" if count else "."))
    for found in report:
        named = f", prepared as '{found['gid']}'" if found["gid"] is not None else ""
        lines.append(
            f"tx-{found['transaction_id']} (coordinator: node {found['coordinator']}{named}), asking participants ..."
        )
        for each in found["participants"]:
            holds = f"{plural(each['writes'], 'write')}, {plural(each['locks'], 'lock')}"
            lines.append(f"  range {each['range_id']} at node {each['node_id']}: PREPARED ({holds})")
        lines.append(f"  {_deed(found['outcome'])}: {found['detail']}")
    if by_itself:
        lines.append("Recovered by the nodes themselves before:")
        for row in by_itself:
            ended = f"{row['state']} at {_moment(row['end_time'])} by node {row['node_id']}"
            lines.append(f"  tx-{row['transaction_id']}: {ended}: {row['detail']}")
    lines.append("Recovery complete")
    return lines


def _deed(outcome: str) -> str:
    return {
        "COMMITTED": "COMMITTED at every participant",
        "ABORTED": "ROLLED BACK at every participant",
        "PREPARED": "left as it is",
        "RUNNING": "left as it is",
    }.get(outcome, "could not be finished, try again")
