"""Passwords as they are kept: SCRAM-SHA-256 verifiers, from which nobody can log in and no password can be read.

    SCRAM-SHA-256$4096:salt$StoredKey:ServerKey          (the last three in base64)

A client proves that it knows the password by the key that StoredKey is the hash of; the server proves that it knows the
verifier by a signature with ServerKey (pgwire/scram.py).  Text that already is a verifier is kept as it is, so that a dump
of roles can be restored.

Source: RFC 5802, 7677, 4013; PostgreSQL 15 manual, 53.5.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from typing import NamedTuple

ITERATIONS = 4096
SALT_BYTES = 16
MOST_PASSWORD_BYTES = 8_192
_MD5 = re.compile(r"md5[0-9a-f]{32}\Z")
_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


class Verifier(NamedTuple):
    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def __str__(self) -> str:
        salt, stored, server = (base64.b64encode(part).decode() for part in self[1:])
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored}:{server}"


def saslprep(password: str) -> str:
    """The password normalised as RFC 4013 says; as it is, if that forbids it (Postgres does the same)."""
    mapped = "".join(
        " " if stringprep.in_table_c12(letter) else letter for letter in password if not stringprep.in_table_b1(letter)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not prepared or any(table(letter) for letter in prepared for table in _PROHIBITED):
        return password
    if any(map(stringprep.in_table_d1, prepared)) and (
        any(map(stringprep.in_table_d2, prepared))
        or not stringprep.in_table_d1(prepared[0])
        or not stringprep.in_table_d1(prepared[-1])
    ):
        return password
    return prepared


def make_verifier(password: str, salt: bytes | None = None, iterations: int = ITERATIONS) -> Verifier:
    """The verifier of a password; costs a few milliseconds, which is its point."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    return Verifier(iterations, salt, stored_key, hmac.digest(salted, b"Server Key", "sha256"))


def parse_verifier(text: str) -> Verifier | None:
    """Read a verifier; None for anything else."""
    match text.split("$"):
        case ["SCRAM-SHA-256", numbers, keys]:
            iterations, _, salt = numbers.partition(":")
            stored, _, server = keys.partition(":")
            if not iterations.isascii() or not iterations.isdigit() or len(iterations) > 9:
                return None
            try:
                parts = [base64.b64decode(part, validate=True) for part in (salt, stored, server)]
            except (binascii.Error, ValueError):
                return None
            if int(iterations) > 0 and parts[0] and len(parts[1]) == len(parts[2]) == 32:
                return Verifier(int(iterations), *parts)
    return None


def stored_form(password: str) -> str:
    """What is kept for a password given to CREATE or ALTER ROLE."""
    if parse_verifier(password) is not None or _MD5.match(password):
        return password
    return str(make_verifier(password))


def is_empty(password: str) -> bool:
    """Tell whether it is the empty password (or a verifier of it), which Postgres takes for none at all."""
    verifier = parse_verifier(password)
    if verifier is None:
        return not password
    return make_verifier("", verifier.salt, verifier.iterations).stored_key == verifier.stored_key
