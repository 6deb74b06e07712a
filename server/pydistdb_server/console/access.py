"""Who may see the console, and who may do something there.

=====================  =============================================  ===================================
the node's ``--auth``   may look                                       may act (split a range)
=====================  =============================================  ===================================
trust                  whoever reaches the port                       superusers who have signed in
scram-sha-256          who signed in with pg_monitor's privileges     superusers who have signed in
=====================  =============================================  ===================================

Signing in asks for what the SQL port asks for: the role, and its password if it has one (under scram-sha-256 it must).  The
session lives in this node's memory, under the hash of a random token that the browser keeps in a cookie (HttpOnly,
SameSite=Strict).  What the role may do is looked up anew at every request.

Against forged requests: every form carries the session's secret (``csrf``), and a POST that a browser says comes from another
site is refused.  Without sign-in, names that are not this machine's are refused too: a foreign page whose name was rebound to a
loopback address could read the console otherwise.  Wrong passwords are counted, and after ``MOST_FAILURES`` in a while
everybody has to wait.

Source: OWASP cheat sheets on session management, cross-site request forgery and DNS rebinding.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydistdb.sql.catalog.passwords import make_verifier
from pydistdb.sql.catalog.roles import MONITOR, Role
from pydistdb.sql.clock import now_us

from pydistdb_server.authentication import verifier_of
from pydistdb_server.http import Request

if TYPE_CHECKING:
    from pydistdb_server.node import Node

COOKIE = "proddb_console"
IDLE_SECONDS = 1_800.0
LONGEST_SECONDS = 43_200.0
MOST_SESSIONS = 1_000
MOST_FAILURES = 5
FAILURE_SECONDS = 30.0


class SignInRefused(Exception):
    """Why somebody may not sign in; the message is for them."""


@dataclass(slots=True)
class Session:
    """Somebody who has signed in."""

    user: str
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    began: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        now = time.monotonic()
        return now - self.used > IDLE_SECONDS or now - self.began > LONGEST_SECONDS


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks for a page."""

    session: Session | None
    may_look: bool
    may_act: bool

    @property
    def user(self) -> str:
        return "" if self.session is None else self.session.user


class Access:
    """See the module's introduction."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._failures: deque[float] = deque(maxlen=MOST_FAILURES)

    @property
    def needs_sign_in(self) -> bool:
        return self._node.config.auth != "trust"

    def visitor(self, request: Request) -> Visitor:
        """Who this is; looked up in the catalog at every request."""
        session = self._find(request)
        role = None if session is None else self._role(session.user)
        if session is not None and role is None:
            session = None
        superuser = role is not None and role.superuser
        monitor = role is not None and self._node.catalog.state.roles.has_privileges_of(role.oid, MONITOR, 0)
        return Visitor(session, monitor or not self.needs_sign_in, superuser)

    def _role(self, name: str) -> Role | None:
        role = self._node.catalog.state.roles.by_name.get(name)
        return role if role is not None and role.can_login else None

    def _find(self, request: Request) -> Session | None:
        key = _key(_cookie(request))
        session = self._sessions.get(key)
        if session is None or session.is_over:
            self._sessions.pop(key, None)
            return None
        session.used = time.monotonic()
        self._sessions.move_to_end(key)
        return session

    # ------------------------------------------------------------------------------------------ signing in and out

    def sign_in(self, user: str, password: str) -> str:
        """Begin a session; the cookie's header.  Raises SignInRefused."""
        now = time.monotonic()
        if len(self._failures) == MOST_FAILURES and now - self._failures[0] < FAILURE_SECONDS:
            raise SignInRefused("Too many attempts have failed. Wait half a minute, and try again.")
        if not self._is_right(user, password):
            self._failures.append(now)
            raise SignInRefused("This user name and password do not fit.")
        token = secrets.token_urlsafe(32)
        self._sessions[_key(token)] = Session(user)
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return f"{COOKIE}={token}; Path=/console; HttpOnly; SameSite=Strict; Max-Age={int(LONGEST_SECONDS)}"

    def _is_right(self, user: str, password: str) -> bool:
        role = self._role(user)
        if role is not None and role.password is None and not self.needs_sign_in:
            return True  # as on the SQL port
        roles = self._node.catalog.state.roles
        verifier = verifier_of(roles, user, now_us(), self._node.node_identity.cluster_id.hex())
        given = make_verifier(password, verifier.salt, verifier.iterations)
        return hmac.compare_digest(given.stored_key, verifier.stored_key) and role is not None

    def sign_out(self, request: Request) -> str:
        """End the session; the header that takes the cookie away."""
        self._sessions.pop(_key(_cookie(request)), None)
        return f"{COOKIE}=; Path=/console; HttpOnly; SameSite=Strict; Max-Age=0"

    # ------------------------------------------------------------------------------------------ where requests come from

    def is_known_host(self, request: Request) -> bool:
        """Whether the name in the address bar is one of ours: an address, localhost, this machine's or the advertised."""
        host = request.headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
        name = name.strip("[]").lower()
        config = self._node.config
        own = {"", "localhost", socket.gethostname().lower(), config.advertise_host.lower()}
        if config.http_listen is not None:
            own.add(config.http_listen.host.lower())
        if name in own or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def is_same_site(request: Request) -> bool:
    """Whether a POST comes from a page of ours, as far as the browser tells."""
    headers = request.headers
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host", "")


def is_genuine(visitor: Visitor, request: Request) -> bool:
    """Whether a form was sent by the session that it was made for."""
    sent = request.form().get("csrf", "")
    return (
        visitor.session is not None
        and is_same_site(request)
        and hmac.compare_digest(sent.encode(), visitor.session.csrf.encode())
    )


def _cookie(request: Request) -> str:
    for part in request.headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
