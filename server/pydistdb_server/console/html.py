"""HTML made of escaped parts: nothing reaches a page without going through ``tag`` or ``escape``.

tag("td", "a < b", class_="number")     ->  Html('<td class="number">a &lt; b</td>')
table("Nodes", ("name", "#leases"), rows)    columns with # are numbers, aligned to the right
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape as _escape


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Part = Html | str | int | float | None


def escape(part: Part) -> str:
    if isinstance(part, Html):
        return part
    return "" if part is None else _escape(str(part))


def join(*parts: Part) -> Html:
    return Html("".join(map(escape, parts)))


def whole(texts: Sequence[str]) -> Html:
    """A list whose lines break between its items only."""
    items = [
        tag("span", text if number == len(texts) else f"{text},", class_="whole")
        for number, text in enumerate(texts, 1)
    ]
    return Html(" ".join(items))


def tag(name: str, /, *parts: Part, **attributes: Part | bool) -> Html:
    """An element; ``class_`` is class, and underscores in names are hyphens."""
    text = "".join(_attribute(key, value) for key, value in attributes.items())
    return Html(f"<{name}{text}>{''.join(map(escape, parts))}</{name}>")


def empty(name: str, /, **attributes: Part | bool) -> Html:
    """An element without an end tag."""
    return Html(f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>")


def _attribute(key: str, value: Part | bool) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value)) if not isinstance(value, Html) else value}"'


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Part]], *, nothing: str = "None.") -> Html:
    """A table that scrolls sideways where it must; a paragraph if there are no rows."""
    numeric = [column.startswith("#") for column in columns]
    body = [
        "<tr>" + "".join(_cell(part, number) for part, number in zip(row, numeric, strict=True)) + "</tr>"
        for row in rows
    ]
    if not body:
        return tag("p", nothing, class_="nothing")
    head = "".join(
        tag("th", column.lstrip("#"), scope="col", class_="number" if number else None)
        for column, number in zip(columns, numeric, strict=True)
    )
    return Html(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f'<caption class="unseen">{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(part: Part, number: bool) -> str:
    return f'<td class="number">{escape(part)}</td>' if number else f"<td>{escape(part)}</td>"


# ------------------------------------------------------------------------------------------------ for people


def number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def rate(value: float) -> str:
    """Per second: 12,345 or 12.3 or 0.12."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 or not value else f"{value:.2f}"


def size(value: float | None) -> str:
    """Bytes in the unit that fits."""
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1_000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1_000
    return f"{value:.1f} TB"


def milliseconds(value: float) -> str:
    """A duration given in milliseconds."""
    if value < 1:
        return f"{value * 1e3:.0f} µs"
    return f"{value:.1f} ms" if value < 1_000 else duration(value / 1e3)


def duration(seconds: float) -> str:
    """4.2 s, 3 min, 5 h, 2 d."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
