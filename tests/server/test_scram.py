"""SCRAM-SHA-256: the example of RFC 7677, any password against any other, broken messages, and real clients."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydistdb.sql.catalog.passwords import is_empty, make_verifier, parse_verifier, saslprep, stored_form
from pydistdb.sql.catalog.roles import NO_ROLES, Role
from pydistdb.sql.errors import DatabaseError
from pydistdb_server.authentication import Authentication, verifier_of
from pydistdb_server.pgwire.scram import ScramExchange, WrongPassword

from tests.server.test_node import Process

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
NONCE = "rOprNGfwEbeRWgbNEkqO" + SERVER_NONCE
CLIENT_FINAL = f"c=biws,r={NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode()


def test_the_example_of_rfc_7677() -> None:
    exchange = ScramExchange(make_verifier("pencil", SALT), SERVER_NONCE)
    assert exchange.first(CLIENT_FIRST).decode() == f"r={NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    assert exchange.final(CLIENT_FINAL) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def prove(password: str, server_first: str, bare: str = "n=,r=abc") -> bytes:
    """A client's last message, for what the server sent."""
    parts = dict(part.split("=", 1) for part in server_first.split(","))
    salt, iterations = base64.b64decode(parts["s"]), int(parts["i"])
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    without_proof = f"c=biws,r={parts['r']}"
    conversation = f"{bare},{server_first},{without_proof}".encode()
    signature = hmac.digest(hashlib.sha256(client_key).digest(), conversation, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()


@settings(max_examples=20, deadline=None)
@given(kept=st.text(min_size=1, max_size=12), tried=st.text(min_size=1, max_size=12), iterations=st.integers(1, 50))
def test_only_the_password_fits(kept: str, tried: str, iterations: int) -> None:
    verifier = make_verifier(kept, iterations=iterations)
    assert parse_verifier(str(verifier)) == verifier
    for password in (kept, tried):
        exchange = ScramExchange(verifier, "server")
        answer = prove(password, exchange.first(b"n,,n=,r=abc").decode())
        if saslprep(password) == saslprep(kept):
            assert exchange.final(answer).startswith(b"v=")
        else:
            with pytest.raises(WrongPassword):
                exchange.final(answer)


@pytest.mark.parametrize(
    ("message", "sqlstate"),
    [
        (b"", "08P01"),
        (b"n", "08P01"),
        (b"n,,r=abc,n=", "08P01"),
        (b"n,,n=,r=", "08P01"),
        (b"n,a=other,n=,r=abc", "0A000"),
        (b"n,,m=x,n=,r=abc", "0A000"),
        (b"p=tls-unique,,n=,r=abc", "08P01"),
        (b"x,,n=,r=abc", "08P01"),
        (b"\xff\xfe", "08P01"),
    ],
)
def test_broken_first_messages(message: bytes, sqlstate: str) -> None:
    with pytest.raises(DatabaseError) as raised:
        ScramExchange(make_verifier("x", iterations=1), "server").first(message)
    assert raised.value.sqlstate == sqlstate


@pytest.mark.parametrize(
    "message",
    [
        b"c=biws,r=abcserver",
        b"c=biws,r=abcserver,p=AAAA",
        b"c=biws,r=other,p=" + base64.b64encode(bytes(32)),
        b"c=eSws,r=abcserver,p=" + base64.b64encode(bytes(32)),
        b"r=abcserver,c=biws,p=" + base64.b64encode(bytes(32)),
    ],
)
def test_broken_last_messages(message: bytes) -> None:
    exchange = ScramExchange(make_verifier("x", iterations=1), "server")
    exchange.first(b"n,,n=,r=abc")
    with pytest.raises(DatabaseError) as raised:
        exchange.final(message)
    assert raised.value.sqlstate == "08P01"


def test_initial_response_has_a_frame() -> None:
    first = b"n,,n=,r=abc"
    for body in (b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first + b"x", b"OTHER\0\0\0\0\0", b"", b"x"):
        with pytest.raises(DatabaseError):
            Authentication("u", make_verifier("x", iterations=1)).take(body)
    taken = Authentication("u", make_verifier("x", iterations=1)).take(
        b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first
    )
    assert taken[:1] == b"R" and taken[5:9] == (11).to_bytes(4, "big")


def test_what_a_password_is_kept_as() -> None:
    kept = stored_form("secret")
    assert kept.startswith("SCRAM-SHA-256$4096:") and stored_form(kept) == kept
    assert stored_form("md5" + "0" * 32) == "md5" + "0" * 32
    assert is_empty("") and is_empty(str(make_verifier(""))) and not is_empty(kept)
    assert saslprep("I\u00adX") == "IX" and saslprep("\u2168") == "IX" and saslprep("\u0007") == "\u0007"


def test_users_that_cannot_log_in_look_like_others() -> None:
    def role(oid: int, password: str | None, valid_until: int | None = None) -> tuple[str, tuple[int, ...], Role]:
        return "R", (oid,), Role(oid, f"u{oid}", can_login=True, password=password, valid_until=valid_until)

    kept = make_verifier("secret", iterations=1)
    roles = NO_ROLES.apply([role(1, str(kept)), role(2, None), role(3, "md5" + "0" * 32), role(4, str(kept), 100)])
    assert verifier_of(roles, "u1", 0, "c") == kept
    assert verifier_of(roles, "u4", 99, "c") == kept
    for name in ("u2", "u3", "u4", "nobody"):
        first, again = verifier_of(roles, name, 100, "c"), verifier_of(roles, name, 100, "c")
        assert first.salt == again.salt and first.stored_key != again.stored_key


def connect(process: Process, user: str, password: str, database: str = "postgres") -> str:
    url = f"postgresql://{user}@127.0.0.1:{process.port}/{database}"
    try:
        with psycopg.connect(url, password=password or None) as connection:
            row = connection.execute("SELECT current_user").fetchone()
            assert row is not None
            return str(row[0])
    except psycopg.OperationalError as error:
        return str(error).partition("FATAL:  ")[2].strip() or str(error)


def test_a_node_that_asks_for_passwords(tmp_path: Path) -> None:
    process = Process(tmp_path).start()
    with process.connect() as connection:
        connection.execute("ALTER ROLE postgres PASSWORD 'top'")
        connection.execute("CREATE ROLE alice LOGIN PASSWORD 'wonderland'")
        connection.execute("CREATE ROLE late LOGIN PASSWORD 'x' VALID UNTIL '2001-01-01'")
        connection.execute("CREATE ROLE few LOGIN PASSWORD 'x' CONNECTION LIMIT 0")
        connection.execute("CREATE ROLE group_only PASSWORD 'x'")
    assert connect(process, "nobody", "") == 'role "nobody" does not exist'
    assert process.stop() == 0
    process.options = ("--auth", "scram-sha-256")
    process.start()
    assert connect(process, "postgres", "top") == "postgres"
    assert connect(process, "alice", "wonderland") == "alice"
    for user, password in (("alice", "wonder"), ("nobody", "x"), ("late", "x")):
        assert connect(process, user, password) == f'password authentication failed for user "{user}"'
    assert connect(process, "group_only", "x") == 'role "group_only" is not permitted to log in'
    assert connect(process, "few", "x") == 'too many connections for role "few"'
    assert connect(process, "alice", "wonderland", "nowhere") == 'database "nowhere" does not exist'
    assert "no password supplied" in connect(process, "alice", "")
    assert process.stop() == 0, process.log.read_text()
    assert "Traceback" not in process.log.read_text(), process.log.read_text()
