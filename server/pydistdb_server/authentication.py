"""Who a client is: what a connection asks of it before there is a session.

``trust`` believes the startup packet, which is for loopback.  ``scram-sha-256`` asks for the password of the role: every
client has to go through ``Authentication``, whose ``start`` and ``take`` say what to send::

    authentication = Authentication(user, verifier)
    send(authentication.start())                        # AuthenticationSASL
    send(authentication.take(password_message))          # …Continue, then …Final; raises 28P01
    authentication.done                                  # True: AuthenticationOk may follow

Source: PostgreSQL 15 manual, chapter 21 and 55.3; auth-sasl.c.
"""

from __future__ import annotations

import struct

from pydistdb.sql.catalog.passwords import Verifier, parse_verifier
from pydistdb.sql.catalog.roles import BOOTSTRAP_ROLE, RoleSet
from pydistdb.sql.errors import DatabaseError, ProtocolViolation

from pydistdb_server.pgwire import encode
from pydistdb_server.pgwire.scram import MECHANISM, ScramExchange, WrongPassword, mock_verifier, new_nonce

METHODS = ("trust", "scram-sha-256")


def verifier_of(roles: RoleSet, user: str, now_us: int, cluster: str) -> Verifier:
    """What a user's password is checked against; one that nothing fits, if there is none or its time is up."""
    role = roles.by_name.get(user)
    if role is not None and role.password is not None and (role.valid_until is None or now_us < role.valid_until):
        found = parse_verifier(role.password)
        if found is not None:
            return found
    # What is mixed in must be the same on every node, and be known to nobody outside.
    superuser = roles.by_oid[BOOTSTRAP_ROLE].password if BOOTSTRAP_ROLE in roles.by_oid else None
    return mock_verifier(user, (superuser or cluster).encode())


class Authentication:
    """One client's SCRAM exchange over the wire protocol's messages."""

    def __init__(self, user: str, verifier: Verifier) -> None:
        self._user = user
        self._exchange = ScramExchange(verifier, new_nonce())
        self._has_begun = False
        self.done = False

    def start(self) -> bytes:
        return encode.authentication_sasl((MECHANISM,))

    def take(self, data: bytes) -> bytes:
        """Answer the body of a SASL message; raises 28P01 for a password that does not fit."""
        if not self._has_begun:
            self._has_begun = True
            return encode.authentication_sasl_continue(self._exchange.first(_initial_response(data)))
        try:
            answer = self._exchange.final(data)
        except WrongPassword:
            raise DatabaseError.of("28P01", f'password authentication failed for user "{self._user}"') from None
        self.done = True
        return encode.authentication_sasl_final(answer)


def _initial_response(data: bytes) -> bytes:
    """The client's first message, in its frame: the mechanism's name, a length, and so many bytes."""
    name, zero, rest = data.partition(b"\0")
    if not zero or len(rest) < 4:
        raise ProtocolViolation("malformed SASL initial response")
    if name != MECHANISM.encode():
        raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
    length = struct.unpack_from("!i", rest)[0]
    if length != len(rest) - 4:
        raise ProtocolViolation("malformed SASL initial response")
    return rest[4:]
