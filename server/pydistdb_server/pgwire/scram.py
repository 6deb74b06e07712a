"""SCRAM-SHA-256, the server's side: who knows the password proves it without saying it.

Theory of operation
-------------------
Bytes in, bytes out, and the nonce is passed in.  With the verifier of a password (catalog/passwords.py)::

    exchange = ScramExchange(verifier, server_nonce)
    challenge = exchange.first(b"n,,n=,r=rOprNGfw…")            # r=<both nonces>,s=<salt>,i=<iterations>
    signature = exchange.final(b"c=biws,r=…,p=<proof>")          # v=<signature>; raises WrongPassword

The proof is the client's key, masked with a signature over the whole conversation; unmasked, its hash must be StoredKey.
The answer shows the client that the server has the verifier.

``mock_verifier`` stands in for users that do not exist or have no password: the conversation goes on as for others, with a
salt that stays the same for a name, and fails at its end.  Channel binding needs TLS, which there is not.

Source: RFC 5802 and 7677; PostgreSQL 15, auth-scram.c, for what is refused in which words.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

from pydistdb.sql.catalog.passwords import ITERATIONS, SALT_BYTES, Verifier
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, ProtocolViolation

MECHANISM = "SCRAM-SHA-256"
NONCE_BYTES = 18
KEY_BYTES = 32


class WrongPassword(Exception):
    """The proof does not fit the verifier."""


def new_nonce() -> str:
    """A nonce for one exchange: printable, without a comma."""
    return base64.b64encode(secrets.token_bytes(NONCE_BYTES)).decode()


def mock_verifier(user: str, secret: bytes) -> Verifier:
    """A verifier that no password fits, always the same for a user."""
    salt = hmac.digest(secret, user.encode("utf-8", "replace"), "sha256")[:SALT_BYTES]
    return Verifier(ITERATIONS, salt, secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES))


def _malformed(detail: str) -> DatabaseError:
    return ProtocolViolation("malformed SCRAM message", detail=detail)


def _attributes(text: str, names: str) -> list[str]:
    """The values of attributes in the order that the RFC lays down; what follows them is let be."""
    values = []
    rest = text
    for name in names:
        part, _, rest = rest.partition(",")
        if part[:2] != f"{name}=":
            found = f'"{part[:1]}"' if part else "end of message"
            raise _malformed(f'Expected attribute "{name}" but found {found}.')
        values.append(part[2:])
    return values


class ScramExchange:
    """One conversation; see the module's introduction."""

    def __init__(self, verifier: Verifier, server_nonce: str) -> None:
        self._verifier = verifier
        self._server_nonce = server_nonce
        self._header = ""
        self._client_first = ""
        self._server_first = ""
        self._nonce = ""

    def first(self, data: bytes) -> bytes:
        """The answer to the client's first message: nonce, salt and iterations."""
        text = _decoded(data)
        flag, comma, rest = text.partition(",")
        identity, second_comma, bare = rest.partition(",")
        if not comma or not second_comma:
            raise _malformed("Comma expected, but found end of message.")
        if flag.startswith("p="):
            raise ProtocolViolation("client requires SCRAM channel binding, but it is not supported")
        if flag not in ("n", "y"):
            raise _malformed(f'Unexpected channel-binding flag "{flag[:1]}".')
        if identity:
            raise FeatureNotSupported("client uses authorization identity, but it is not supported")
        if bare.startswith("m="):
            raise FeatureNotSupported("client requires an unsupported SCRAM extension")
        _, client_nonce = _attributes(bare, "nr")  # the name in the startup packet is what counts
        if not client_nonce or not (client_nonce.isascii() and client_nonce.isprintable()):
            raise _malformed("non-printable characters in SCRAM nonce")
        self._header = text[: len(flag) + len(identity) + 2]
        self._client_first = bare
        self._nonce = client_nonce + self._server_nonce
        salt = base64.b64encode(self._verifier.salt).decode()
        self._server_first = f"r={self._nonce},s={salt},i={self._verifier.iterations}"
        return self._server_first.encode()

    def final(self, data: bytes) -> bytes:
        """The answer to the client's proof: ours; raises WrongPassword."""
        text = _decoded(data)
        without_proof, _, proof_text = text.rpartition(",p=")
        binding, nonce = _attributes(without_proof, "cr")
        if binding != base64.b64encode(self._header.encode()).decode():
            raise ProtocolViolation("unexpected SCRAM channel-binding attribute in client-final-message")
        if not hmac.compare_digest(nonce.encode(), self._nonce.encode()):
            raise ProtocolViolation("invalid SCRAM response", detail="Nonce does not match.")
        try:
            proof = base64.b64decode(proof_text, validate=True)
        except (binascii.Error, ValueError):
            proof = b""
        if len(proof) != KEY_BYTES:
            raise _malformed("Malformed proof in client-final-message.")
        conversation = f"{self._client_first},{self._server_first},{without_proof}".encode()
        verifier = self._verifier
        signature = hmac.digest(verifier.stored_key, conversation, "sha256")
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        if not hmac.compare_digest(hashlib.sha256(client_key).digest(), verifier.stored_key):
            raise WrongPassword
        return b"v=" + base64.b64encode(hmac.digest(verifier.server_key, conversation, "sha256"))


def _decoded(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _malformed("The message is not valid UTF-8.") from None
    if not text or "\0" in text:
        raise _malformed("The message is empty." if not text else "Message length does not match input length.")
    return text
