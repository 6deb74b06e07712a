"""DataRow encoders, generated per column types and formats.

Theory of operation
-------------------
A generic encoder asks for each value what type it is; a generated one is a loop whose body is written for these very
columns, which is twice as fast for the usual ones (docs/architecture.md).  For ``(int4, text)`` in text format the
source is::

    def encode(rows, context):
        out = []
        for c0, c1 in rows:
            if c0 is None:
                f0 = NULL
            else:
                v = b"%d" % c0; n = len(v); f0 = LENGTH[n] + v
            …
            row = b"%b%b" % (f0, f1); n = len(row)
            out.append(HEAD[n] if n < CACHED else head(b"D", n + 6, 2)); out.append(row)
        return b"".join(out)

The common types have their expression here; the others call their ``TypeIO`` (pydistdb.sql.types), which knows
Postgres's text and binary formats.  Compiling takes some 200 µs, so encoders are kept by (types, formats), up to a
limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

from pydistdb.sql.errors import DatabaseError, ProgramLimitExceeded
from pydistdb.sql.types import known, registry
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.composite import encode_as_seen
from pydistdb.sql.types.user import FIRST_USER_OID, derived_from_types

RowEncoder = Callable[[Sequence[tuple[Any, ...]], EvalContext], bytes]

CACHED_LENGTHS = 1024
MAX_ENCODERS = 2_000
MAX_ROW_BYTES = 1 << 30
MAX_COLUMNS = 1_664

_pack_length = Struct("!i").pack
_pack_head = Struct("!cIH").pack

_LENGTHS = [_pack_length(length) for length in range(CACHED_LENGTHS)]
_heads: dict[int, list[bytes]] = {}

_INTEGERS = frozenset({known.INT2.oid, known.INT4.oid, known.INT8.oid, known.OID.oid})
_STRINGS = frozenset({known.TEXT.oid, known.VARCHAR.oid, known.BPCHAR.oid, known.NAME.oid, 705})
"""705 is the type of an untyped literal."""

_PREFIXED_BINARY: dict[int, str] = {
    known.INT2.oid: 'Struct("!ih").pack',
    known.INT4.oid: 'Struct("!ii").pack',
    known.OID.oid: 'Struct("!iI").pack',
    known.INT8.oid: 'Struct("!iq").pack',
    known.FLOAT8.oid: 'Struct("!id").pack',
    known.DATE.oid: 'Struct("!ii").pack',
    known.TIMESTAMP.oid: 'Struct("!iq").pack',
    known.TIMESTAMPTZ.oid: 'Struct("!iq").pack',
    known.TIME.oid: 'Struct("!iq").pack',
}
"""Fixed-length types: one pack call writes the length and the value."""

_encoders: dict[tuple[tuple[int, ...], tuple[int, ...]], RowEncoder] = derived_from_types({})


def row_encoder(type_oids: tuple[int, ...], formats: tuple[int, ...]) -> RowEncoder:
    """The encoder for these columns: ``formats`` has 0 (text) or 1 (binary) for each."""
    key = (type_oids, formats)
    encoder = _encoders.get(key)
    if encoder is None:
        if len(_encoders) >= MAX_ENCODERS:
            _encoders.clear()
        encoder = _encoders[key] = _compile(type_oids, formats)
    return encoder


def _heads_of(columns: int) -> list[bytes]:
    heads = _heads.get(columns)
    if heads is None:
        heads = _heads[columns] = [_pack_head(b"D", length + 6, columns) for length in range(CACHED_LENGTHS)]
    return heads


def _too_large() -> DatabaseError:
    return ProgramLimitExceeded(f"row is larger than {MAX_ROW_BYTES} bytes")


def _compile(type_oids: tuple[int, ...], formats: tuple[int, ...]) -> RowEncoder:
    columns = len(type_oids)
    if columns > MAX_COLUMNS:
        raise ProgramLimitExceeded(f"target lists can have at most {MAX_COLUMNS} entries")
    namespace: dict[str, Any] = {
        "NULL": b"\xff\xff\xff\xff",
        "LENGTH": _LENGTHS,
        "HEAD": _heads_of(columns),
        "TRUE": b"\0\0\0\x01t",
        "FALSE": b"\0\0\0\x01f",
        "ONE": b"\0\0\0\x01\x01",
        "ZERO": b"\0\0\0\x01\0",
        "length": _pack_length,
        "head": _pack_head,
        "too_large": _too_large,
    }
    lines = ["def encode(rows, context):", "    out = []", "    append = out.append"]
    names = ", ".join(f"c{index}" for index in range(columns))
    lines.append(f"    for {names}{',' if columns == 1 else ''} in rows:" if columns else "    for _ in rows:")
    for index, (oid, format_code) in enumerate(zip(type_oids, formats, strict=True)):
        lines.append(f"        if c{index} is None: f{index} = NULL")
        lines.append("        else:")
        lines.extend("            " + line for line in _field(index, oid, format_code, namespace))
    fields = ", ".join(f"f{index}" for index in range(columns))
    lines.append(f"        row = b'{'%b' * columns}' % ({fields}{',' if columns == 1 else ''})")
    lines.append("        n = len(row)")
    lines.append(f"        if n >= {MAX_ROW_BYTES}: raise too_large()")
    lines.append(f"        append(HEAD[n] if n < {CACHED_LENGTHS} else head(b'D', n + 6, {columns}))")
    lines.append("        append(row)")
    lines.append("    return b''.join(out)")
    exec(compile("\n".join(lines), f"<row encoder {type_oids}>", "exec"), namespace)
    encoder: RowEncoder = namespace["encode"]
    return encoder


def _field(index: int, oid: int, format_code: int, namespace: dict[str, Any]) -> list[str]:
    """The statements that set ``f{index}`` from ``c{index}``, which is not None."""
    value, field = f"c{index}", f"f{index}"
    if oid == known.BOOL.oid:
        true, false = ("ONE", "ZERO") if format_code else ("TRUE", "FALSE")
        return [f"{field} = {true} if {value} else {false}"]
    if format_code and oid in _PREFIXED_BINARY:
        pack = namespace[f"pack{index}"] = eval(_PREFIXED_BINARY[oid], {"Struct": Struct})
        return [f"{field} = pack{index}({len(pack(0, 0)) - 4}, {value})"]
    if oid in _STRINGS:
        expression = f"{value}.encode()"
    elif format_code and oid in (known.BYTEA.oid, known.UUID.oid):
        expression = value
    elif not format_code and oid in _INTEGERS:
        expression = f"b'%d' % {value}"
    elif format_code and oid >= FIRST_USER_OID:
        namespace["encode_as_seen"] = encode_as_seen
        expression = f"encode_as_seen({oid}, {value}, context)"
    else:
        io = registry.io(oid)
        namespace[f"write{index}"] = io.encode if format_code else io.format
        expression = f"write{index}({value})" if format_code else f"write{index}({value}, context).encode()"
    return [
        f"v = {expression}",
        "n = len(v)",
        f"{field} = (LENGTH[n] if n < {CACHED_LENGTHS} else length(n)) + v",
    ]
