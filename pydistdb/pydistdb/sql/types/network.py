"""inet, cidr, macaddr and macaddr8: addresses of hosts, networks and cards.

The value of an inet or cidr is bytes that order as SQL orders the addresses, so comparing, hashing and indexing need
nothing more: the family (4 or 6), the network's address, the length of the mask, the address itself::

    192.168.1.5/24     04 c0a80100 18 c0a80105

A macaddr is its six bytes, a macaddr8 its eight.

Source: PostgreSQL 15 manual, 8.9; network.c, inet_net_pton.c, inet_cidr_ntop.c, mac.c, mac8.c.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from pydistdb.sql.errors import DatabaseError, InvalidTextRepresentation
from pydistdb.sql.types.base import EvalContext, TypeIO
from pydistdb.sql.types.integers import wrong_binary_length

WIDTHS = {4: 32, 6: 128}
_AF_INET = {4: 2, 6: 3}
"""The families' numbers in the binary format."""
_FAMILIES = {2: 4, 3: 6}
_MASK = re.compile(r"[0-9]{1,3}")
_OCTET = re.compile(r"[0-9]{1,10}")


def make(family: int, address: int, mask: int) -> bytes:
    """An inet's value."""
    width = WIDTHS[family]
    size = width // 8
    network = address >> (width - mask) << (width - mask)
    return bytes([family]) + network.to_bytes(size, "big") + bytes([mask]) + address.to_bytes(size, "big")


def parts(value: bytes) -> tuple[int, int, int]:
    """(family, address, length of the mask)."""
    size = WIDTHS[value[0]] // 8
    return value[0], int.from_bytes(value[size + 2 :], "big"), value[size + 1]


def network_address(value: bytes) -> int:
    return int.from_bytes(value[1 : 1 + WIDTHS[value[0]] // 8], "big")


# ------------------------------------------------------------------------------------------------ text


def _octets(text: str) -> list[int]:
    octets = []
    for word in text.split("."):
        if not _OCTET.fullmatch(word) or int(word) > 255:
            raise ValueError(word)
        octets.append(int(word))
    if len(octets) > 4:
        raise ValueError(text)
    return octets


def _mask(text: str | None, width: int) -> int | None:
    if text is None:
        return None
    if not _MASK.fullmatch(text) or int(text) > width:
        raise ValueError(text)
    return int(text)


def _class_of(octets: list[int]) -> int:
    """The mask that an IPv4 network without one has by its class."""
    first = octets[0]
    bits = 32 if first >= 240 else 8 if first >= 224 else 24 if first >= 192 else 16 if first >= 128 else 8
    bits = max(bits, 8 * len(octets))
    return 4 if bits == 8 and first == 224 else bits


def _read(text: str, is_network: bool) -> bytes:
    address, slash, tail = text.partition("/")
    mask_text = tail if slash else None
    if ":" in address:
        if "%" in address:
            raise ValueError(text)
        number = int(ipaddress.IPv6Address(address))
        mask = _mask(mask_text, 128)
        return make(6, number, 128 if mask is None else mask)
    octets = _octets(address)
    mask = _mask(mask_text, 32)
    if mask is None:
        if not is_network and len(octets) < 4:
            raise ValueError(text)
        mask = _class_of(octets) if is_network else 32
    elif not is_network and -(-mask // 8) > len(octets):
        raise ValueError(text)
    return make(4, int.from_bytes(bytes(octets).ljust(4, b"\0"), "big"), mask)


def parse_inet(text: str, modifier: int, context: EvalContext | None) -> bytes:
    try:
        return _read(text, False)
    except ValueError:
        raise InvalidTextRepresentation(f'invalid input syntax for type inet: "{text}"') from None


def parse_cidr(text: str, modifier: int, context: EvalContext | None) -> bytes:
    try:
        value = _read(text, True)
    except ValueError:
        raise InvalidTextRepresentation(f'invalid input syntax for type cidr: "{text}"') from None
    if parts(value)[1] != network_address(value):
        raise InvalidTextRepresentation(f'invalid cidr value: "{text}"', detail="Value has bits set to right of mask.")
    return value


def address_text(family: int, address: int) -> str:
    """An address without its mask."""
    if family == 4:
        return ".".join(map(str, address.to_bytes(4, "big")))
    words = [address >> 16 * (7 - index) & 0xFFFF for index in range(8)]
    start, length = _longest_zeros(words)
    if start == 0 and (length == 6 or (length == 5 and words[5] == 0xFFFF)):
        return ("::" if length == 6 else "::ffff:") + address_text(4, address & 0xFFFFFFFF)
    if length < 2:
        return ":".join(f"{word:x}" for word in words)
    head, tail = words[:start], words[start + length :]
    return ":".join(f"{word:x}" for word in head) + "::" + ":".join(f"{word:x}" for word in tail)


def _longest_zeros(words: list[int]) -> tuple[int, int]:
    best, start = (0, 0), -1
    for index, word in enumerate([*words, 1]):
        if word:
            if start >= 0 and index - start > best[1]:
                best = (start, index - start)
            start = -1
        elif start < 0:
            start = index
    return best


def format_inet(value: bytes, context: EvalContext | None) -> str:
    family, address, mask = parts(value)
    text = address_text(family, address)
    return text if mask == WIDTHS[family] else f"{text}/{mask}"


def format_cidr(value: bytes, context: EvalContext | None) -> str:
    family, address, mask = parts(value)
    return f"{address_text(family, address)}/{mask}"


# ------------------------------------------------------------------------------------------------ binary


def _encoder(is_network: bool) -> Callable[[bytes], bytes]:
    def encode(value: bytes) -> bytes:
        family, address, mask = parts(value)
        size = WIDTHS[family] // 8
        return bytes([_AF_INET[family], mask, is_network, size]) + address.to_bytes(size, "big")

    return encode


def _decoder(name: str, is_network: bool) -> Callable[[bytes], bytes]:
    def decode(data: bytes) -> bytes:
        if len(data) < 4:
            raise wrong_binary_length()
        family = _FAMILIES.get(data[0])
        if family is None:
            raise DatabaseError.of("22P03", f'invalid address family in external "{name}" value')
        if data[1] > WIDTHS[family]:
            raise DatabaseError.of("22P03", f'invalid bits in external "{name}" value')
        if data[3] != WIDTHS[family] // 8 or len(data) != 4 + data[3]:
            raise DatabaseError.of("22P03", f'invalid length in external "{name}" value')
        value = make(family, int.from_bytes(data[4:], "big"), data[1])
        if is_network and parts(value)[1] != network_address(value):
            raise DatabaseError.of(
                "22P03", 'invalid external "cidr" value', detail="Value has bits set to right of mask."
            )
        return value

    return decode


# ------------------------------------------------------------------------------------------------ cards

_CARD = re.compile(
    r"\s*(?:([0-9a-f]{1,2})([:-])([0-9a-f]{1,2})\2([0-9a-f]{1,2})\2([0-9a-f]{1,2})\2([0-9a-f]{1,2})\2([0-9a-f]{1,2})"
    r"|([0-9a-f]{6})[:-]([0-9a-f]{6})|([0-9a-f]{4})([.-])([0-9a-f]{4})\11([0-9a-f]{4})|([0-9a-f]{12}))\s*",
    re.IGNORECASE,
)
_CARD8 = re.compile(r"\s*((?:[0-9a-f]{2}[:.-]?)*[0-9a-f]{2})\s*", re.IGNORECASE)


def parse_macaddr(text: str, modifier: int, context: EvalContext | None) -> bytes:
    match = _CARD.fullmatch(text)
    if match is None:
        raise InvalidTextRepresentation(f'invalid input syntax for type macaddr: "{text}"')
    groups = [group for index, group in enumerate(match.groups(), 1) if group and index not in (2, 11)]
    if match[2]:
        return bytes(int(group, 16) for group in groups)
    return bytes.fromhex("".join(groups))


def parse_macaddr8(text: str, modifier: int, context: EvalContext | None) -> bytes:
    match = _CARD8.fullmatch(text)
    data = bytes.fromhex(re.sub("[:.-]", "", match[1])) if match is not None else b""
    if len(data) not in (6, 8) or len(set(text) & set(":.-")) > 1:
        raise InvalidTextRepresentation(f'invalid input syntax for type macaddr8: "{text}"')
    return data if len(data) == 8 else data[:3] + b"\xff\xfe" + data[3:]


def format_card(value: bytes, context: EvalContext | None) -> str:
    return value.hex(":")


def _decode_card(*sizes: int) -> Callable[[bytes], bytes]:
    def decode(data: bytes) -> bytes:
        if len(data) not in sizes:
            raise wrong_binary_length()
        data = bytes(data)
        return data[:3] + b"\xff\xfe" + data[3:] if len(data) < max(sizes) else data

    return decode


IO = {
    "inet": TypeIO(parse_inet, format_inet, _decoder("inet", False), _encoder(False), "bytes"),
    "cidr": TypeIO(parse_cidr, format_cidr, _decoder("cidr", True), _encoder(True), "bytes"),
    "macaddr": TypeIO(parse_macaddr, format_card, _decode_card(6), bytes, "bytes"),
    "macaddr8": TypeIO(parse_macaddr8, format_card, _decode_card(6, 8), bytes, "bytes"),
}
