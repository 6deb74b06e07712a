"""Generated DataRow encoders against a plain one."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.sql.errors import ProgramLimitExceeded
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.known import (
    BOOL,
    BYTEA,
    DATE,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    NUMERIC,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UUID,
    VARCHAR,
)
from pydistdb_server.rows import row_encoder

CONTEXT = EvalContext()

VALUES: dict[int, st.SearchStrategy[Any]] = {
    BOOL.oid: st.booleans(),
    INT2.oid: st.integers(-(2**15), 2**15 - 1),
    INT4.oid: st.integers(-(2**31), 2**31 - 1),
    INT8.oid: st.integers(-(2**63), 2**63 - 1),
    FLOAT8.oid: st.floats(),
    TEXT.oid: st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=2000),
    VARCHAR.oid: st.text("ab", max_size=5),
    BYTEA.oid: st.binary(max_size=10),
    UUID.oid: st.binary(min_size=16, max_size=16),
    NUMERIC.oid: st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-1000, max_value=1000),
    DATE.oid: st.integers(-1000, 10_000),
    TIMESTAMP.oid: st.integers(-(10**15), 10**15),
    TIMESTAMPTZ.oid: st.integers(-(10**15), 10**15),
}


def plain(rows: list[tuple[Any, ...]], oids: tuple[int, ...], formats: tuple[int, ...]) -> bytes:
    """What the manual says, without any haste."""
    out = b""
    for row in rows:
        body = struct.pack("!H", len(row))
        for value, oid, form in zip(row, oids, formats, strict=True):
            if value is None:
                body += struct.pack("!i", -1)
                continue
            io = registry.io(oid)
            data = io.encode(value) if form else io.format(value, CONTEXT).encode()
            body += struct.pack("!i", len(data)) + data
        out += b"D" + struct.pack("!I", len(body) + 4) + body
    return out


@given(st.data())
def test_generated_encoders_agree_with_the_plain_one(data: st.DataObject) -> None:
    oids = tuple(data.draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=4)))
    formats = tuple(data.draw(st.lists(st.integers(0, 1), min_size=len(oids), max_size=len(oids))))
    row = st.tuples(*(st.none() | VALUES[oid] for oid in oids))
    rows = data.draw(st.lists(row, max_size=3))
    assert row_encoder(oids, formats)(rows, CONTEXT) == plain(rows, oids, formats)


def test_encoders_are_kept() -> None:
    assert row_encoder((23, 25), (0, 1)) is row_encoder((23, 25), (0, 1))


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(ProgramLimitExceeded):
        row_encoder((23,) * 2000, (0,) * 2000)
