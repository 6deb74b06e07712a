r"""Functions on bytea: cutting, bits and bytes, encodings, hashes.

    >>> encode(b"\x00\xff", "base64")
    'AP8='

Source: PostgreSQL 15 manual, 9.5.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import hashlib
import re

from pydistdb.sql.errors import DatabaseError, InvalidParameterValue
from pydistdb.sql.functions.define import define, implements
from pydistdb.sql.functions.limits import added_bytes
from pydistdb.sql.types.bytea import parse_escape, parse_hex
from pydistdb.sql.types.text import decode_text

# ------------------------------------------------------------------------------------------------ cutting

define("byteacat(bytea,bytea)", added_bytes)
define("length(bytea)", len, inline="len({0})")
define("octet_length(bytea)", len, inline="len({0})")
define("bit_length(bytea)", lambda value: len(value) * 8)
define("position(bytea,bytea)", lambda value, part: value.find(part) + 1)
define("bit_count(bytea)", lambda value: int.from_bytes(value, "big").bit_count())


@implements("substring(bytea,int4,int4)", "substr(bytea,int4,int4)")
def substring(value: bytes, start: int, length: int) -> bytes:
    if length < 0:
        raise DatabaseError.of("22011", "negative substring length not allowed")
    return value[max(start, 1) - 1 : max(start + length, 1) - 1]


@implements("substring(bytea,int4)", "substr(bytea,int4)")
def substring_to_end(value: bytes, start: int) -> bytes:
    return value[max(start, 1) - 1 :]


@implements("overlay(bytea,bytea,int4,int4)")
def overlay(value: bytes, replacement: bytes, start: int, length: int) -> bytes:
    if start <= 0:
        raise DatabaseError.of("22011", "negative substring length not allowed")
    return value[: start - 1] + replacement + value[max(start + length - 1, 0) :]


define("overlay(bytea,bytea,int4)", lambda value, new, start: overlay(value, new, start, len(new)))
define("btrim(bytea,bytea)", lambda value, characters: value.strip(characters) if characters else value)
define("ltrim(bytea,bytea)", lambda value, characters: value.lstrip(characters) if characters else value)
define("rtrim(bytea,bytea)", lambda value, characters: value.rstrip(characters) if characters else value)

# ------------------------------------------------------------------------------------------------ bytes and bits


def _check_index(index: int, size: int) -> None:
    if not 0 <= index < size:
        raise DatabaseError.of("2202E", f"index {index} out of valid range, 0..{size - 1}")


@implements("get_byte(bytea,int4)")
def get_byte(value: bytes, index: int) -> int:
    _check_index(index, len(value))
    return value[index]


@implements("set_byte(bytea,int4,int4)")
def set_byte(value: bytes, index: int, byte: int) -> bytes:
    _check_index(index, len(value))
    return value[:index] + bytes((byte & 0xFF,)) + value[index + 1 :]


@implements("get_bit(bytea,int8)")
def get_bit(value: bytes, index: int) -> int:
    _check_index(index, len(value) * 8)
    return value[index // 8] >> index % 8 & 1


@implements("set_bit(bytea,int8,int4)")
def set_bit(value: bytes, index: int, bit: int) -> bytes:
    _check_index(index, len(value) * 8)
    if bit not in (0, 1):
        raise InvalidParameterValue("new bit must be 0 or 1")
    mask = 1 << index % 8
    byte = value[index // 8] | mask if bit else value[index // 8] & ~mask
    return value[: index // 8] + bytes((byte,)) + value[index // 8 + 1 :]


# ------------------------------------------------------------------------------------------------ encodings


@implements("encode(bytea,text)")
def encode(value: bytes, format_: str) -> str:
    match format_.lower():
        case "hex":
            return value.hex()
        case "base64":
            text = base64.b64encode(value).decode()
            return "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
        case "escape":
            return _escape(value)
    raise InvalidParameterValue(f'unrecognized encoding: "{format_}"')


def _escape(value: bytes) -> str:
    """Unlike bytea's own escape output, this leaves control characters alone."""
    parts = []
    for byte in value:
        if byte == 0 or byte > 127:
            parts.append(f"\\{byte:03o}")
        else:
            parts.append("\\\\" if byte == 92 else chr(byte))
    return "".join(parts)


@implements("decode(text,text)")
def decode(text: str, format_: str) -> bytes:
    match format_.lower():
        case "hex":
            return parse_hex(text)
        case "base64":
            return _decode_base64(text)
        case "escape":
            return parse_escape(text)
    raise InvalidParameterValue(f'unrecognized encoding: "{format_}"')


_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]")


def _decode_base64(text: str) -> bytes:
    compact = re.sub(r"[ \t\n\r]", "", text)
    wrong = _NOT_BASE64.search(compact)
    if wrong is not None:
        raise InvalidParameterValue(f'invalid symbol "{wrong[0]}" found while decoding base64 sequence')
    try:
        return base64.b64decode(compact, validate=True)
    except binascii.Error:
        raise InvalidParameterValue(
            "invalid base64 end sequence",
            hint="Input data is missing padding, is truncated, or is otherwise corrupted.",
        ) from None


_ENCODINGS = {
    "utf8": "utf-8",
    "unicode": "utf-8",
    "latin1": "latin-1",
    "iso88591": "latin-1",
    "sqlascii": "utf-8",
    "win1252": "cp1252",
    "win1251": "cp1251",
    "win1250": "cp1250",
    "latin9": "iso8859-15",
    "latin2": "iso8859-2",
    "koi8r": "koi8-r",
    "eucjp": "euc_jp",
    "sjis": "shift_jis",
    "gbk": "gbk",
    "gb18030": "gb18030",
    "big5": "big5",
    "euckr": "euc_kr",
}


def codec_of(name: str) -> str | None:
    """The codec of an encoding by any of Postgres's names for it; None if it is not known."""
    return _ENCODINGS.get(re.sub("[^a-z0-9]", "", name.lower()))


def _codec(name: str, role: str) -> str:
    codec = codec_of(name)
    if codec is None:
        raise InvalidParameterValue(f'invalid {role} encoding name "{name}"')
    codecs.lookup(codec)
    return codec


@implements("convert_from(bytea,name)")
def convert_from(value: bytes, encoding: str) -> str:
    codec = _codec(encoding, "source")
    if codec == "utf-8":
        return decode_text(value)
    try:
        return value.decode(codec)
    except UnicodeDecodeError as error:
        shown = " ".join(f"0x{byte:02x}" for byte in value[error.start : error.end])
        raise DatabaseError.of("22021", f'invalid byte sequence for encoding "{encoding.upper()}": {shown}') from None


@implements("convert_to(text,name)")
def convert_to(text: str, encoding: str) -> bytes:
    try:
        return text.encode(_codec(encoding, "destination"))
    except UnicodeEncodeError as error:
        shown = " ".join(f"0x{byte:02x}" for byte in text[error.start].encode())
        raise DatabaseError.of(
            "22P05",
            f'character with byte sequence {shown} in encoding "UTF8" has no equivalent in encoding '
            f'"{encoding.upper()}"',
        ) from None


@implements("convert(bytea,name,name)")
def convert(value: bytes, source: str, destination: str) -> bytes:
    _codec(destination, "destination")
    return convert_to(convert_from(value, source), destination)


# ------------------------------------------------------------------------------------------------ hashes

define("md5(text)", lambda text: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest())
define("md5(bytea)", lambda value: hashlib.md5(value, usedforsecurity=False).hexdigest())
define("sha224(bytea)", lambda value: hashlib.sha224(value).digest())
define("sha256(bytea)", lambda value: hashlib.sha256(value).digest())
define("sha384(bytea)", lambda value: hashlib.sha384(value).digest())
define("sha512(bytea)", lambda value: hashlib.sha512(value).digest())
