"""The frame of every page: head, navigation, who is signed in, and the part that renews itself.

What stands in ``<main>`` is fetched again every few seconds by console.js, with the header ``X-Fragment``, and replaced, unless
the reader works in it; pages work without the script, too.
"""

from __future__ import annotations

from typing import NamedTuple

from pydistdb_server.console.access import Visitor
from pydistdb_server.console.html import Html, Part, empty, join, tag

BASE = "/console"
NAVIGATION = (
    ("", "Overview"),
    ("/nodes", "Nodes"),
    ("/ranges", "Ranges"),
    ("/keys", "Key space"),
    ("/statements", "Statements"),
    ("/sessions", "Sessions"),
    ("/transactions", "Transactions"),
    ("/jobs", "Jobs"),
)
HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "same-origin"),
)


class Page(NamedTuple):
    """What a page shows.  ``renew_seconds``: 0 for pages that stay as they are."""

    title: str
    body: Html
    path: str = ""
    renew_seconds: int = 5


def whole(page: Page, visitor: Visitor, cluster: str, node: str) -> Html:
    """The document around a page."""
    head = tag(
        "head",
        empty("meta", charset="utf-8"),
        empty("meta", name="viewport", content="width=device-width, initial-scale=1"),
        empty("meta", name="color-scheme", content="light dark"),
        tag("title", f"{page.title} – PyDistDB"),
        empty("link", rel="icon", href=BASE + "/icon.svg", type="image/svg+xml"),
        empty("link", rel="stylesheet", href=BASE + "/console.css"),
        tag("script", src=BASE + "/console.js", defer=True),
    )
    main = tag("main", content(page), id="main", tabindex="-1", data_renew=page.renew_seconds or None)
    header = tag(
        "header",
        tag("a", "Skip to the content", href="#main", class_="skip"),
        tag("a", "PyDistDB", href=BASE, class_="brand"),
        tag("span", f"{cluster} · through {node}", class_="cluster"),
        _live_button() if page.renew_seconds else "",
        _signed_in(visitor),
    )
    navigation = tag(
        "nav",
        tag("ul", *(tag("li", _link(path, text, page.path)) for path, text in NAVIGATION)),
        aria_label="Pages",
    )
    body = tag("body", header, navigation, main, tag("div", id="tip", hidden=True))
    return join(Html("<!DOCTYPE html>\n"), tag("html", head, body, lang="en"))


def content(page: Page) -> Html:
    """What stands in ``<main>``."""
    return join(tag("h1", page.title), page.body)


def _live_button() -> Html:
    return tag("button", "Live", type="button", id="live", aria_pressed="true", class_="quiet", hidden=True)


def _link(path: str, text: str, current: str) -> Html:
    return tag("a", text, href=BASE + path, aria_current="page" if path == current else None)


def _signed_in(visitor: Visitor) -> Html:
    if visitor.session is None:
        return tag("a", "Sign in", href=BASE + "/sign-in", class_="who")
    return tag(
        "form",
        secret(visitor),
        tag("span", visitor.user),
        tag("button", "Sign out", type="submit", class_="quiet"),
        method="post",
        action=BASE + "/sign-out",
        class_="who",
    )


def secret(visitor: Visitor) -> Html:
    """The field that proves that a form is ours."""
    return empty("input", type="hidden", name="csrf", value="" if visitor.session is None else visitor.session.csrf)


def section(title: str, *parts: Part, aside: Part = "") -> Html:
    return tag("section", tag("div", tag("h2", title), aside, class_="section-head"), *parts)


def tile(name: str, value: Part, note: Part = "", *, href: str | None = None) -> Html:
    """One figure, large."""
    inner = join(tag("dt", name), tag("dd", value), tag("dd", note, class_="note") if note else "")
    return tag("div", tag("a", inner, href=BASE + href) if href is not None else inner, class_="tile")


def badge(text: str, kind: str = "") -> Html:
    """A word with a colour; the word says it all."""
    return tag("span", text, class_=f"badge {kind}".strip())
