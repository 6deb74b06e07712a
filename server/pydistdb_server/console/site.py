"""The console's routes: pages, files, signing in and out, and what signed-in superusers may do.

Every page goes through ``_page``: who asks is found out, pages are built (each in bounded slices: cluster.py), and framed, or
sent bare to the script that renews them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import TYPE_CHECKING

from pydistdb.kv.api import KVError
from pydistdb.sql.statement_statistics import StatementReport
from pydistdb.tasks import with_deadline

from pydistdb_server.console import cluster_pages, layout, overview, sql_pages
from pydistdb_server.console.access import Access, SignInRefused, Visitor, is_genuine, is_same_site
from pydistdb_server.console.cluster import ClusterView
from pydistdb_server.console.history import History
from pydistdb_server.console.html import Html, Part, empty, escape, join, tag
from pydistdb_server.console.layout import BASE, HEADERS, Page
from pydistdb_server.http import Answer, Request, Route, text_answer

if TYPE_CHECKING:
    from pydistdb_server.node import Node

ACTION_TIMEOUT_NS = 30_000_000_000
MOST_MESSAGES = 100

_FILES = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

log = logging.getLogger("pydistdb.server.console")

Builder = Callable[["Site", Request], Awaitable[Page]]

PAGES: dict[str, Builder] = {
    "": overview.overview,
    "/nodes": cluster_pages.nodes,
    "/ranges": cluster_pages.ranges,
    "/keys": cluster_pages.keys,
    "/statements": sql_pages.statements,
    "/statement": sql_pages.statement,
    "/sessions": sql_pages.sessions,
    "/transactions": sql_pages.transactions,
    "/jobs": sql_pages.jobs,
}


class Site:
    """One node's console."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.node_id = node.node_identity.node_id
        self.access = Access(node)
        self.cluster = ClusterView(node, History(node))
        self._messages: dict[str, tuple[str, str]] = {}
        """What to tell whoever signed in on the next page, by the session's secret: ("ok" or "error", text)."""

    def routes(self) -> tuple[dict[str, Route], dict[str, Route]]:
        """What answers GET, and what answers POST."""
        gets: dict[str, Route] = {BASE + path: self._page(build) for path, build in PAGES.items()}
        gets |= {f"{BASE}/{name}": _file(name, kind) for name, kind in _FILES.items()}
        gets[BASE + "/sign-in"] = self._sign_in_page
        gets["/"] = _to_console
        posts: dict[str, Route] = {
            BASE + "/sign-in": self._sign_in,
            BASE + "/sign-out": self._sign_out,
            BASE + "/split": self._split,
        }
        return gets, posts

    # ------------------------------------------------------------------------------------------ pages

    def _page(self, build: Builder) -> Route:
        async def route(request: Request) -> Answer:
            refused = self._refusal(request)
            if refused is not None:
                return refused
            return self._framed(await build(self, request), request)

        return route

    def _refusal(self, request: Request) -> Answer | None:
        """Why this visitor gets no page; None if there is no reason."""
        if not self.node.ready:
            return text_answer(503, "starting\n")
        if not self.access.needs_sign_in and not self.access.is_known_host(request):
            return text_answer(403, "this host name is not known here; --advertise-host names one\n")
        visitor = self.access.visitor(request)
        if visitor.may_look:
            return None
        if visitor.session is None:
            return _redirect(BASE + "/sign-in")
        text = tag("p", f"{visitor.user} is no superuser and not a member of pg_monitor.", class_="health error")
        return self._framed(Page("Not allowed", text, "-", 0), request, 403)

    def _framed(self, page: Page, request: Request, status: int = 200) -> Answer:
        if request.headers.get("x-fragment"):
            return _html(status, layout.content(page))
        visitor = self.access.visitor(request)
        cluster = f"cluster {self.node.node_identity.cluster_id.hex()[:8]}"
        return _html(status, layout.whole(page, visitor, cluster, self.node.config.node_name))

    async def statements(self) -> list[StatementReport]:
        return await self.node.environment.cluster_statements.all()

    def statement_link(self, report: StatementReport) -> str:
        return f"{BASE}/statement?id={report.user}.{report.database}.{report.query_id}"

    def role_name(self, oid: int) -> str:
        return self.node.catalog.state.roles.name_of(oid)

    def database_name(self, oid: int) -> str:
        database = self.node.catalog.state.databases.get(oid)
        return str(oid) if database is None else database.descriptor.name

    # ------------------------------------------------------------------------------------------ signing in and out

    async def _sign_in_page(self, request: Request, refused: str = "", status: int = 200) -> Answer:
        if not self.node.ready:
            return text_answer(503, "starting\n")
        required = self.access.needs_sign_in
        form = tag(
            "form",
            tag("p", refused, class_="health error", role="alert") if refused else "",
            tag("label", "User ", empty("input", name="user", autocomplete="username", required=True, autofocus=True)),
            tag(
                "label",
                "Password ",
                empty("input", name="password", type="password", autocomplete="current-password", required=required),
            ),
            tag("button", "Sign in", type="submit"),
            tag("p", "A role of the database. ", _why(required), class_="explained"),
            method="post",
            action=BASE + "/sign-in",
            class_="card sign-in",
        )
        return self._framed(Page("Sign in", form, "-", 0), request, status)

    async def _sign_in(self, request: Request) -> Answer:
        if not self.node.ready or not is_same_site(request):
            return text_answer(403, "this form was not sent from here\n")
        form = request.form()
        await self.node.catalog.ensure_fresh()
        try:
            cookie = self.access.sign_in(form.get("user", ""), form.get("password", ""))
        except SignInRefused as refused:
            return await self._sign_in_page(request, str(refused), 403)
        return _redirect(BASE, ("Set-Cookie", cookie))

    async def _sign_out(self, request: Request) -> Answer:
        if not is_genuine(self.access.visitor(request), request):
            return text_answer(403, "this form was not sent from here\n")
        return _redirect(BASE, ("Set-Cookie", self.access.sign_out(request)))

    # ------------------------------------------------------------------------------------------ deeds

    async def _split(self, request: Request) -> Answer:
        visitor = self.access.visitor(request)
        if not visitor.may_act or not is_genuine(visitor, request):
            return text_answer(403, "only superusers who have signed in may do this, from the console's own page\n")
        text = request.form().get("range", "")
        if not text.isdigit() or len(text) > 18:
            return text_answer(400, "which range?\n")
        range_id = int(text)
        loop = self.node.loop
        splitting = loop.spawn(self.node.operations.split(range_id), "split from the console").completion
        deadline_ns = loop.now_ns() + ACTION_TIMEOUT_NS
        try:
            right = await with_deadline(loop, splitting, deadline_ns, KVError("it takes longer than 30 s"))
        except KVError as error:
            self._tell(visitor, "error", f"Range {range_id} was not split: {error}")
        else:
            self.cluster.forget()
            log.info("range split", extra={"fields": {"range": range_id, "right": right, "user": visitor.user}})
            self._tell(
                visitor, "ok", f"Range {range_id} was split; what lies right of its middle is range {right} now."
            )
        return _redirect(BASE + "/ranges")

    def _tell(self, visitor: Visitor, kind: str, text: str) -> None:
        if visitor.session is not None:
            if len(self._messages) >= MOST_MESSAGES:
                self._messages.clear()
            self._messages[visitor.session.csrf] = (kind, text)

    def take_message(self, visitor: Visitor) -> Part:
        """What the visitor is to be told, once."""
        found = None if visitor.session is None else self._messages.pop(visitor.session.csrf, None)
        return "" if found is None else tag("p", found[1], class_=f"health {found[0]}", role="status")


def _why(required: bool) -> str:
    if required:
        return "To look takes the privileges of pg_monitor, to act those of a superuser."
    return (
        "This node trusts its clients: a password is needed only for roles that have one. Superusers may split ranges."
    )


def _html(status: int, text: Html) -> Answer:
    return Answer(status, "text/html; charset=utf-8", escape(join(text)).encode(), HEADERS)


def _redirect(path: str, *headers: tuple[str, str]) -> Answer:
    return Answer(303, "text/plain; charset=utf-8", b"", (("Location", path), ("Cache-Control", "no-store"), *headers))


async def _to_console(_: Request) -> Answer:
    return _redirect(BASE)


def _file(name: str, content_type: str) -> Route:
    data = files(__package__).joinpath("files", name).read_bytes()
    version = f'"{hashlib.sha256(data).hexdigest()[:16]}"'

    async def route(request: Request) -> Answer:
        headers = (("Cache-Control", "no-cache"), ("ETag", version))
        if request.headers.get("if-none-match") == version:
            return Answer(304, content_type, b"", headers)
        return Answer(200, content_type, data, headers)

    return route
