"""The first page: is the cluster well, what does it do, where does it spend its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydistdb_server.console import charts, html
from pydistdb_server.console.charts import Series
from pydistdb_server.console.cluster import Point
from pydistdb_server.console.history import INTERVAL_SECONDS, Load
from pydistdb_server.console.html import Html, join, tag
from pydistdb_server.console.layout import BASE, Page, section, tile

if TYPE_CHECKING:
    from pydistdb_server.console.site import Site
    from pydistdb_server.http import Request

SECONDS = 900
MOST_LISTED = 5


async def overview(site: Site, request: Request) -> Page:
    cluster = site.cluster
    problems = await cluster.problems()
    points, by_node = await cluster.loads(SECONDS)
    names = {row["node_id"]: row["node_name"] for row in await cluster.nodes()}
    body = join(
        _health(problems),
        await _tiles(site, points),
        tag(
            "div",
            charts.lines("Statements per second", [Series("all", [p.statements for p in points])], SECONDS),
            charts.lines(
                "Latency",
                [
                    Series("half below", [p.median_ms for p in points]),
                    Series("99 % below", [p.slowest_ms for p in points]),
                ],
                SECONDS,
                " ms",
                charts.logarithmic,
            ),
            charts.lines("Processor use", _processors(by_node, names, points), SECONDS, " %"),
            charts.lines(
                "Clients and errors",
                [
                    Series("clients", [p.sessions for p in points]),
                    Series("errors per second", [p.errors for p in points]),
                ],
                SECONDS,
            ),
            class_="charts",
        ),
        tag("div", await _busiest(site), await _slowest(site), class_="columns"),
    )
    return Page("Overview", body)


def _health(problems: list[tuple[str, str]]) -> Html:
    if not problems:
        return tag(
            "p", tag("strong", "✓ Healthy"), " Every node answers, every range is fully replicated.", class_="health ok"
        )
    worst = "error" if any(kind == "error" for kind, _ in problems) else "warning"
    title = "✗ Something is wrong" if worst == "error" else "! Needs a look"
    items = (tag("li", text, class_=kind) for kind, text in problems)
    return tag("div", tag("strong", title), tag("ul", *items), class_=f"health {worst}", role="status")


async def _tiles(site: Site, points: list[Point]) -> Html:
    nodes, ranges = await site.cluster.nodes(), await site.cluster.ranges()
    recent = [point for point in points[-4:] if point.statements is not None]
    count = max(len(recent), 1)
    statements = sum(point.statements or 0.0 for point in recent) / count
    errors = sum(point.errors or 0.0 for point in recent) / count
    medians = [point.median_ms for point in recent if point.median_ms is not None]
    slowest = [point.slowest_ms for point in recent if point.slowest_ms is not None]
    members = [row for row in nodes if row["state"] in ("live", "dead")]
    live = sum(row["state"] == "live" for row in members)
    stored = sum(row["bytes"] or 0 for row in ranges)
    return tag(
        "dl",
        tile("Nodes live", f"{live} of {len(members)}", href="/nodes"),
        tile(
            "Statements", f"{html.rate(statements)}/s", f"over {len(recent) * INTERVAL_SECONDS} s", href="/statements"
        ),
        tile("Median latency", html.milliseconds(medians[-1]) if medians else "–", "estimated"),
        tile("99 % below", html.milliseconds(max(slowest)) if slowest else "–", "estimated"),
        tile("Errors", f"{html.rate(errors)}/s"),
        tile("Clients", recent[-1].sessions if recent else "–", href="/sessions"),
        tile("Ranges", f"{len(ranges):,}", f"{html.size(stored)} of live rows", href="/ranges"),
        class_="tiles",
    )


def _processors(by_node: dict[int, list[Load]], names: dict[int, str], points: list[Point]) -> list[Series]:
    """Per cent of a core, by node; of the busiest, if there are more of them than colours."""
    place = {point.slot: index for index, point in enumerate(points)}
    found = []
    for node_id, name in names.items():
        loads = by_node.get(node_id, [])
        values: list[float | None] = [None] * len(points)
        for load in loads:
            if load.slot in place:
                values[place[load.slot]] = 100 * load.cpu_seconds / INTERVAL_SECONDS
        if loads:
            found.append(Series(name, values))
    if len(found) > charts.LINES:
        found.sort(key=lambda series: -sum(value or 0.0 for value in series.values))
    return found[: charts.LINES]


async def _busiest(site: Site) -> Html:
    busy = sorted((row for row in await site.cluster.ranges() if row["qps"] > 0), key=lambda row: -row["qps"])
    rows = [
        (
            tag("a", f"{row['range_id']}", href=f"{BASE}/ranges?find={row['range_id']}"),
            tag("span", row["tables"] or "–", class_="clip"),
            html.rate(row["qps"]),
            charts.bar(row["share"], f"{row['share']:.0%}"),
        )
        for row in busy[:MOST_LISTED]
    ]
    return section(
        "Busiest ranges",
        html.table(
            "Busiest ranges", ("Range", "Holds", "#Requests/s", "Share"), rows, nothing="No range gets requests."
        ),
        aside=tag("a", "All ranges", href=BASE + "/ranges"),
    )


async def _slowest(site: Site) -> Html:
    reports = sorted(await site.statements(), key=lambda report: -report.total_ms)
    total = sum(report.total_ms for report in reports) or 1.0
    rows = [
        (
            tag("a", tag("code", report.text[:300], class_="clip"), href=site.statement_link(report)),
            html.number(report.calls),
            html.milliseconds(report.mean_ms),
            charts.bar(report.total_ms / total, f"{report.total_ms / total:.0%}"),
        )
        for report in reports[:MOST_LISTED]
    ]
    return section(
        "Where the time goes",
        html.table(
            "Statements by total time",
            ("Statement", "#Calls", "#Mean", "Of all time"),
            rows,
            nothing="Nothing ran yet.",
        ),
        aside=tag("a", "All statements", href=BASE + "/statements"),
    )
