"""Row values: a msgpack array headed by the schema version that wrote it.

``[3, 17, "Alice", None]`` is a row of three columns written under version 3 of its table's descriptor.  msgspec's
msgpack was the fastest codec measured from Python (about 3M rows/s decoded, 6.8M encoded).  Values must be storage
values: None, bool, int (64 bit), float, str, bytes, or lists of them; whoever knows the column types converts the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
"""Encode a list whose first element is the schema version."""

decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(list[Any]).decode
"""Decode to a list whose first element is the schema version."""


def encode_row(schema_version: int, values: Sequence[Any]) -> bytes:
    return encode((schema_version, *values))


def decode_row(data: bytes) -> list[Any]:
    row: list[Any] = decode(data)
    return row
