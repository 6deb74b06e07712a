"""Nodes, ranges with what would help the hot ones, and the map of the key space over time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from pydistdb.kv.version_report import version_report
from pydistdb.sql.clock import now_us

from pydistdb_server.console import charts, heat_map, html
from pydistdb_server.console.access import Visitor
from pydistdb_server.console.cluster import Row, version_line
from pydistdb_server.console.heat_map import Band
from pydistdb_server.console.history import INTERVAL_SECONDS, add_spans
from pydistdb_server.console.html import Html, Part, empty, join, tag
from pydistdb_server.console.layout import BASE, Page, badge, secret, section

if TYPE_CHECKING:
    from pydistdb_server.console.site import Site
    from pydistdb_server.http import Request

RANGES_PER_PAGE = 100
HEAT_MINUTES = (5, 15, 60)
HEAT_COLUMNS = 60
COLUMNS_PER_SLICE = 5
MOST_SPANS = 15

_STATES = {"live": "ok", "dead": "error"}
_ORDERS: dict[str, tuple[str, Callable[[Row], Any] | None]] = {
    "qps": ("busiest", lambda row: -row["qps"]),
    "bytes": ("largest", lambda row: -(row["bytes"] or 0)),
    "key": ("by key", None),
}


# ------------------------------------------------------------------------------------------------ nodes


async def nodes(site: Site, request: Request) -> Page:
    rows = await site.cluster.nodes()
    _, by_node = await site.cluster.loads(60)
    processors = {node: loads[-1].cpu_seconds / INTERVAL_SECONDS for node, loads in by_node.items() if loads}
    sessions = {node: loads[-1].sessions for node, loads in by_node.items() if loads}
    cells = [
        (
            join(tag("strong" if row["node_id"] == site.node_id else "span", row["node_name"]), _release(row)),
            join(badge(row["state"], _STATES.get(row["state"], "warning")), _mode(row)),
            html.whole((row["locality"] or "–").split(",")),
            row["replicas"],
            row["leases"],
            html.rate(row.get("qps") or 0.0),
            charts.bar(processors[row["node_id"]], f"{processors[row['node_id']]:.0%}")
            if row["node_id"] in processors
            else "–",
            sessions.get(row["node_id"], "–"),
            f"{row['clock_offset_us'] / 1e3:+.1f} ms" if row["clock_offset_us"] else "0 ms",
            _disk(row),
            html.duration((now_us() - row["started_at"]) / 1e6)
            if row["started_at"] and row["state"] == "live"
            else "–",
            _addresses(row),
        )
        for row in rows
    ]
    columns = ("Name", "State", "Locality", "#Replicas", "#Leases", "#Requests/s", "Processor", "#Clients", "#Clock")
    shown = html.table("Nodes", (*columns, "Disk", "#Up for", "Addresses"), cells)
    versions = tag("p", version_line(version_report(await site.cluster.survey())), class_="nothing")
    return Page("Nodes", join(shown, versions), "/nodes")


def _release(row: Row) -> Part:
    return tag("div", row["version"], class_="aside", title="release") if row.get("version") else ""


def _mode(row: Row) -> Part:
    parts: list[Part] = []
    if row["mode"]:
        parts += [" ", badge(row["mode"], "warning")]
    if row.get("write_error"):
        parts += [" ", badge("cannot write", "error")]
    return join(*parts)


def _disk(row: Row) -> Part:
    total = row.get("disk_total_bytes")
    if not total:
        return "–"
    return charts.bar(1 - row["disk_free_bytes"] / total, f"{html.size(row['disk_free_bytes'])} free")


def _addresses(row: Row) -> Html:
    address = row["http_address"]
    console = tag("a", "console", href=f"http://{address}{BASE}") if address and row["state"] == "live" else ""
    return join(tag("code", row["sql_address"] or "–"), " ", console)


# ------------------------------------------------------------------------------------------------ ranges


async def ranges(site: Site, request: Request) -> Page:
    query = request.query
    order = query.get("order", "qps") if query.get("order") in _ORDERS else "qps"
    find = query.get("find", "")[:100].strip()
    page = int(query["page"]) if query.get("page", "").isdigit() and len(query["page"]) < 7 else 1
    rows = await site.cluster.ranges()
    names = {row["node_id"]: row["node_name"] for row in await site.cluster.nodes()}
    found = [row for row in rows if _matches(row, find, names)]
    key = _ORDERS[order][1]
    if key is not None:
        found = sorted(found, key=key)
    pages = max(-(-len(found) // RANGES_PER_PAGE), 1)
    page = min(max(page, 1), pages)
    shown = found[(page - 1) * RANGES_PER_PAGE : page * RANGES_PER_PAGE]
    visitor = site.access.visitor(request)
    body = join(
        site.take_message(visitor),
        _range_form(find, order, len(found), len(rows)),
        html.table(
            "Ranges", _RANGE_COLUMNS, [_range_row(row, names, visitor) for row in shown], nothing="No range fits."
        ),
        _pages(page, pages, {"find": find, "order": order}),
        "" if visitor.may_act else tag("p", "Superusers who sign in can split ranges here.", class_="nothing"),
    )
    return Page("Ranges", body, "/ranges")


_RANGE_COLUMNS = (
    "#Range",
    "Holds",
    "From",
    "Leaseholder",
    "Replicas",
    "#Rows",
    "#Size",
    "#Requests/s",
    "Share",
    "Heat",
    "",
)


def _matches(row: Row, find: str, names: dict[int, str]) -> bool:
    if not find:
        return True
    if find.isdigit():
        return bool(int(find) == row["range_id"])
    text: str = f"{row['tables']} {row['start_pretty']} {names.get(row['leaseholder'], '')} {row['heat'] or ''}"
    return find.lower() in text.lower()


def _range_row(row: Row, names: dict[int, str], visitor: Visitor) -> tuple[Part, ...]:
    replicas = [names.get(node, str(node)) for node in row["replicas"].items]
    learners = [f"{names.get(node, node)} (copying)" for node in row["learners"].items]
    leader = names.get(row["leaseholder"]) if row["leaseholder"] else None
    return (
        row["range_id"],
        tag("span", row["tables"] or "–", class_="clip narrow", title=row["tables"] or ""),
        tag("code", row["start_pretty"], class_="clip", title=f"{row['start_pretty']} – {row['end_pretty']}"),
        leader or badge("none", "error"),
        tag("span", ", ".join(replicas + learners), class_="whole"),
        html.number(row["keys"]),
        html.size(row["bytes"]),
        html.rate(row["qps"]),
        charts.bar(row["share"], f"{row['share']:.0%}"),
        _heat(row),
        _split_button(row, visitor),
    )


def _heat(row: Row) -> Part:
    if not row["heat"]:
        return row["recommendation"] or ""
    kind = "error" if row["heat"] == "hot" else "warning"
    return join(badge(row["heat"], kind), " ", row["recommendation"])


def _split_button(row: Row, visitor: Visitor) -> Part:
    """For ranges of several rows, or of who knows how many."""
    if not visitor.may_act or (row["keys"] is not None and row["keys"] < 2):
        return ""
    kind = None if row["heat"] or row["recommendation"] else "quiet"
    return tag(
        "form",
        secret(visitor),
        empty("input", type="hidden", name="range", value=row["range_id"]),
        tag("button", "Split", type="submit", aria_label=f"Split range {row['range_id']}", class_=kind),
        method="post",
        action=BASE + "/split",
        data_confirm=f"Split range {row['range_id']} near its middle?",
    )


def _range_form(find: str, order: str, found: int, total: int) -> Html:
    options = [tag("option", text, value=name, selected=name == order) for name, (text, _) in _ORDERS.items()]
    count = f"{found:,} of {total:,} ranges" if find else f"{total:,} ranges"
    return tag(
        "form",
        tag(
            "label",
            "Find ",
            empty("input", type="search", name="find", value=find, placeholder="table, node, number, hot"),
        ),
        tag("label", "Order ", tag("select", *options, name="order")),
        tag("button", "Show", type="submit"),
        tag("span", count, class_="count"),
        method="get",
        class_="filter",
    )


def _pages(page: int, pages: int, query: dict[str, Any]) -> Part:
    if pages == 1:
        return ""
    links: list[Part] = []
    for number, text in ((page - 1, "Previous"), (page + 1, "Next")):
        if 1 <= number <= pages:
            links += [tag("a", text, href=f"{BASE}/ranges?{urlencode({**query, 'page': number})}"), " "]
    return tag("p", f"Page {page} of {pages} ", *links, class_="pages")


# ------------------------------------------------------------------------------------------------ key space


async def keys(site: Site, request: Request) -> Page:
    text = request.query.get("minutes", "15")
    minutes = int(text) if text.isdigit() and int(text) in HEAT_MINUTES else 15
    width = max(minutes * 60 // INTERVAL_SECONDS // HEAT_COLUMNS, 1)
    last = int(time.time()) // INTERVAL_SECONDS // width
    first = last - minutes * 60 // INTERVAL_SECONDS // width
    slots = [slot * width for slot in range(first, last)]
    columns = await site.cluster.history.heat(slots[0], width)
    totals: dict[tuple[bytes, bytes], float] = {}
    async for column in site.cluster.sliced(columns, COLUMNS_PER_SLICE):
        add_spans(totals, column.spans, 1 / len(slots))
    heat: dict[bytes, float] = {}
    for (start, _), requests in totals.items():
        heat[start] = heat.get(start, 0.0) + requests
    rows = await site.cluster.ranges()
    bands = heat_map.make_bands(
        [
            Band(row["start_key"], row["end_key"], row["tables"] or "–", row["start_pretty"], row["end_pretty"])
            for row in rows
        ],
        heat,
    )
    matrix = heat_map.Matrix(bands, slots)
    async for column in site.cluster.sliced(columns, COLUMNS_PER_SLICE):
        matrix.add(column)
    began = [slot * INTERVAL_SECONDS for slot in slots]
    drawn = heat_map.heat_map(bands, matrix.rows, began, width * INTERVAL_SECONDS)
    choices = [
        tag("a", f"{each} min", href=f"{BASE}/keys?minutes={each}", aria_current="true" if each == minutes else None)
        for each in HEAT_MINUTES
    ]
    explained = "Keys run down, time runs to the right; the stronger the colour, the more requests. "
    body = join(
        tag("p", explained, *_spaced(choices), class_="choices"),
        tag("div", drawn, class_="card map"),
        section("Busiest spans", _span_table(bands, matrix.rows, minutes)),
    )
    return Page("Key space", body, "/keys", renew_seconds=10)


def _spaced(parts: list[Html]) -> list[Part]:
    return [item for part in parts for item in (part, " ")]


def _span_table(bands: list[Band], matrix: list[list[float]], minutes: int) -> Html:
    found = [
        (sum(row) / len(row), max(row), row[-1], band) for band, row in zip(bands, matrix, strict=True) if any(row)
    ]
    found.sort(key=lambda item: -item[0])
    rows = [
        (band.label, tag("code", band.title, class_="clip wide"), html.rate(mean), html.rate(most), html.rate(now))
        for mean, most, now, band in found[:MOST_SPANS]
    ]
    columns = ("Holds", "Keys", f"#Mean of {minutes} min", "#Highest", "#Last")
    return html.table("Requests per second by span of keys", columns, rows, nothing="No key got requests in this time.")
