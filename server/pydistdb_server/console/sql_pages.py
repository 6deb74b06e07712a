"""Statements with their plans, sessions, transactions in doubt, jobs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pydistdb.sql.clock import now_us
from pydistdb.sql.pg_catalog.activity import pg_prepared_xacts
from pydistdb.sql.pg_catalog.key_names import KeyNames
from pydistdb.sql.statement_statistics import StatementReport

from pydistdb_server.console import charts, html
from pydistdb_server.console.html import Html, Part, empty, join, tag
from pydistdb_server.console.layout import BASE, Page, badge, section, tile

if TYPE_CHECKING:
    from pydistdb_server.console.site import Site
    from pydistdb_server.http import Request

MOST_STATEMENTS = 100
MOST_SESSIONS = 200
MOST_TRANSACTIONS = 200
MOST_JOBS = 200
IN_DOUBT_SECONDS = 3.0
"""A commit under way is younger than that."""

_NO_PLAN = "No node has a plan of it at hand: it is a utility statement, or has not run for a while."
_ORDERS = {
    "total": ("total time", lambda report: -report.total_ms),
    "mean": ("mean time", lambda report: -report.mean_ms),
    "longest": ("longest time", lambda report: -report.longest_us),
    "calls": ("calls", lambda report: -report.calls),
    "rows": ("rows", lambda report: -report.rows),
}


# ------------------------------------------------------------------------------------------------ statements


async def statements(site: Site, request: Request) -> Page:
    order = request.query.get("order", "total") if request.query.get("order") in _ORDERS else "total"
    find = request.query.get("find", "")[:100].strip()
    reports = await site.statements()
    total = sum(report.total_ms for report in reports) or 1.0
    found = sorted((r for r in reports if find.lower() in r.text.lower()), key=_ORDERS[order][1])
    rows = [
        (
            tag("a", tag("code", report.text[:300], class_="clip wide"), href=site.statement_link(report)),
            site.role_name(report.user),
            site.database_name(report.database),
            html.number(report.calls),
            html.number(report.rows),
            html.milliseconds(report.total_ms),
            charts.bar(report.total_ms / total, f"{report.total_ms / total:.1%}"),
            html.milliseconds(report.mean_ms),
            html.milliseconds(report.longest_us / 1e3),
        )
        for report in found[:MOST_STATEMENTS]
    ]
    options = [tag("option", text, value=name, selected=name == order) for name, (text, _) in _ORDERS.items()]
    count = f"{min(len(found), MOST_STATEMENTS):,} of {len(reports):,} statements"
    form = tag(
        "form",
        tag("label", "Find ", empty("input", type="search", name="find", value=find, placeholder="text")),
        tag("label", "Order ", tag("select", *options, name="order")),
        tag("button", "Show", type="submit"),
        tag("span", count, class_="count"),
        method="get",
        class_="filter",
    )
    columns = ("Statement", "User", "Database", "#Calls", "#Rows", "#Total", "Of all time", "#Mean", "#Longest")
    body = join(form, html.table("Statements", columns, rows, nothing="No statement fits."))
    return Page("Statements", body, "/statements")


async def statement(site: Site, request: Request) -> Page:
    """One statement in full, with the plan that some node has for it."""
    parts = request.query.get("id", "").split(".")
    key = tuple(int(part) for part in parts) if all(part.lstrip("-").isdigit() for part in parts) else ()
    report = next((report for report in await site.statements() if report.key == key), None)
    if report is None:
        return Page(
            "Statement",
            tag("p", "This statement is not among those that are kept.", class_="nothing"),
            "/statements",
            0,
        )
    plan = await site.node.environment.cluster_statements.plan(report.key)
    body = join(
        tag("pre", tag("code", report.text), class_="card", tabindex="0"),
        _figures(site, report),
        section(
            "Plan",
            tag("pre", tag("code", "\n".join(plan)), class_="card", tabindex="0")
            if plan
            else tag(
                "p",
                _NO_PLAN,
                class_="nothing",
            ),
        ),
        tag("p", tag("a", "All statements", href=BASE + "/statements")),
    )
    return Page("Statement", body, "/statements")


def _figures(site: Site, report: StatementReport) -> Html:
    each = html.number(report.rows / report.calls, 1) if report.calls else "–"
    return tag(
        "dl",
        tile(
            "Calls",
            html.number(report.calls),
            f"{site.role_name(report.user)} in {site.database_name(report.database)}",
        ),
        tile("Rows", html.number(report.rows), f"{each} per call"),
        tile("Total time", html.milliseconds(report.total_ms)),
        tile("Mean time", html.milliseconds(report.mean_ms), f"± {html.milliseconds(report.deviation_ms)}"),
        tile("Shortest", html.milliseconds(report.shortest_us / 1e3)),
        tile("Longest", html.milliseconds(report.longest_us / 1e3)),
        class_="tiles",
    )


# ------------------------------------------------------------------------------------------------ sessions


async def sessions(site: Site, request: Request) -> Page:
    found = await site.node.environment.activity.sessions()
    order = {"active": 0, "idle in transaction": 1, "idle in transaction (aborted)": 1}
    found.sort(key=lambda info: (order.get(info.state or "", 2), info.query_start or 0))
    now = now_us()
    kinds = {"active": "ok", "idle in transaction": "warning", "idle in transaction (aborted)": "error"}
    rows = [
        (
            info.pid,
            info.user,
            info.database,
            info.application_name or "–",
            info.client_address or "–",
            badge(info.state or "", kinds.get(info.state or "", "")),
            _ago(now, info.state_change),
            _ago(now, info.transaction_start) if info.transaction_start and info.state != "idle" else "–",
            f"{info.wait_event_type}: {info.wait_event}" if info.wait_event and info.state == "active" else "–",
            tag("code", info.query[:300], class_="clip wide"),
        )
        for info in found[:MOST_SESSIONS]
    ]
    columns = (
        "#Process",
        "User",
        "Database",
        "Application",
        "From",
        "State",
        "#For",
        "#Transaction",
        "Waits for",
        "Statement",
    )
    note = tag("p", f"{min(len(found), MOST_SESSIONS)} of {len(found)} sessions, on all nodes.", class_="count")
    return Page(
        "Sessions", join(note, html.table("Sessions", columns, rows, nothing="Nobody is connected.")), "/sessions"
    )


def _ago(now: int, since: int | None) -> str:
    return "–" if since is None else html.duration((now - since) / 1e6)


# ------------------------------------------------------------------------------------------------ transactions in doubt


async def transactions(site: Site, request: Request) -> Page:
    found = await site.node.operations.in_doubt.list()
    names = KeyNames(site.cluster.view())
    nodes = {row["node_id"]: row["node_name"] for row in await site.cluster.nodes()}
    now = time.time()
    old = [each for each in found if now - each.began_us / 1e6 > IN_DOUBT_SECONDS]
    rows = [
        (
            tag("code", each.transaction_id.hex()),
            badge(each.state, "ok" if each.state == "committed" else "warning"),
            html.duration(now - each.began_us / 1e6),
            nodes.get(each.gateway, f"node {each.gateway}"),
            tag("code", names(each.anchor), class_="clip"),
            html.number(each.intents),
            ", ".join(map(str, each.ranges)),
        )
        for each in old[:MOST_TRANSACTIONS]
    ]
    explained = tag(
        "p",
        "Transactions over several ranges whose prepared writes are not resolved yet. The record beside the anchor key decides; "
        "what has lost its coordinator is finished by whoever meets it, at the latest after some ten seconds. ",
        _younger(len(found) - len(old)),
        class_="explained",
    )
    columns = ("Transaction", "State", "#Age", "Coordinator", "Anchor", "#Writes", "Ranges")
    body = join(
        explained,
        html.table("Transactions in doubt", columns, rows, nothing="None is in doubt."),
        section("Prepared by clients", await _prepared(site)),
    )
    return Page("Transactions in doubt", body, "/transactions")


def _younger(count: int) -> str:
    """What is said of commits under way."""
    if not count:
        return ""
    return f"{count:,} more {'is' if count == 1 else 'are'} younger than {IN_DOUBT_SECONDS:.0f} s, as commits under way are."


async def _prepared(site: Site) -> Html:
    """PREPARE TRANSACTION: these wait for COMMIT PREPARED or ROLLBACK PREPARED, however long that takes."""
    found = await site.node.gateway.prepared_transactions()
    listed = pg_prepared_xacts(site.cluster.view(), site.cluster.context(), found[:MOST_TRANSACTIONS])
    now = now_us()
    rows = [
        (tag("code", row["gid"]), row["owner"] or "–", row["database"] or "–", _ago(now, row["prepared"]))
        for row in sorted(listed, key=lambda row: row["prepared"])
    ]
    columns = ("Name", "Owner", "Database", "#Age")
    return html.table("Prepared transactions", columns, rows, nothing="Nobody has prepared a transaction.")


# ------------------------------------------------------------------------------------------------ jobs


async def jobs(site: Site, request: Request) -> Page:
    found = await site.cluster.jobs()
    rows = [
        (row["kind"], row["subject"], row["state"], _progress(row.get("progress")), row.get("details") or "")
        for row in found[:MOST_JOBS]
    ]
    columns = ("Job", "On", "State", "Progress", "Details")
    return Page("Jobs", html.table("Jobs", columns, rows, nothing="Nothing is under way."), "/jobs", 2)


def _progress(progress: float | None) -> Part:
    if progress is None:
        return "–"
    return join(tag("progress", value=f"{progress:.4f}", max="1"), f" {progress:.0%}")
