"""COPY data in another encoding: transcoded from and to UTF-8 before anything else looks at them.

    Decoder("LATIN1").feed(b"caf\\xe9\\n")     b"caf\\xc3\\xa9\\n"

The rest of COPY knows UTF-8 only.  That is also Postgres's order: a line is converted first and its escapes are read after
(copyfromparse.c), so that ``\\351`` names a byte of the server's encoding whatever the file's is.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from pydistdb.sql.copy.formats import RowWriter
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.binary import codec_of, convert_to


def is_utf8(encoding: str) -> bool:
    return codec_of(encoding) == "utf-8"


class Decoder:
    """Bytes of one encoding, in pieces cut anywhere, to UTF-8."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._decoder = None if is_utf8(encoding) else codecs.getincrementaldecoder(codec_of(encoding) or "")()

    def feed(self, data: bytes, *, final: bool = False) -> bytes:
        if self._decoder is None:
            return data  # the reader looks for bad bytes itself, and knows their line
        try:
            return self._decoder.decode(data, final).encode()
        except UnicodeDecodeError as error:
            shown = " ".join(f"0x{byte:02x}" for byte in error.object[error.start : error.end])
            raise DatabaseError.of("22021", f'invalid byte sequence for encoding "{self._encoding}": {shown}') from None

    def finish(self) -> bytes:
        """What is left; raises if it is half a character."""
        return self.feed(b"", final=True)


def encode_line(line: bytes, encoding: str) -> bytes:
    """A line of UTF-8 in another encoding; raises 22P05 if that lacks a character."""
    return line if is_utf8(encoding) else convert_to(line.decode(), encoding)


def encoded(write: RowWriter, encoding: str) -> RowWriter:
    """The writer, giving lines in that encoding."""
    if is_utf8(encoding):
        return write

    def write_encoded(rows: Sequence[tuple[Any, ...]]) -> list[bytes]:
        return [encode_line(line, encoding) for line in write(rows)]

    return write_encoded
