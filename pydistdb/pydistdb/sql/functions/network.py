"""Operators and functions on network addresses.

    inet '192.168.1.5' << inet '192.168.1/24'     t
    broadcast(inet '192.168.1.5/24')              192.168.1.255/24
    inet '192.168.1.6' + 25                       192.168.1.31

Source: PostgreSQL 15 manual, 9.12; network.c, mac.c, mac8.c.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from pydistdb.sql.errors import DatabaseError, InvalidParameterValue, NumericValueOutOfRange
from pydistdb.sql.functions.aggregates import extreme
from pydistdb.sql.functions.comparison import define_comparisons
from pydistdb.sql.functions.define import define, define_aggregate, implements
from pydistdb.sql.types import known
from pydistdb.sql.types.network import (
    WIDTHS,
    address_text,
    format_cidr,
    format_inet,
    make,
    network_address,
    parts,
)
from pydistdb.sql.types.ordering import comparator

# ------------------------------------------------------------------------------------------------ containment


def _common(left: bytes, right: bytes, bits: int) -> bool:
    """Whether two addresses of one family begin with the same bits."""
    if left[0] != right[0]:
        return False
    shift = WIDTHS[left[0]] - bits
    return parts(left)[1] >> shift == parts(right)[1] >> shift


@implements("network_sub(inet,inet)")
def is_inside(left: bytes, right: bytes) -> bool:
    mask = parts(right)[2]
    return left[0] == right[0] and parts(left)[2] > mask and _common(left, right, mask)


@implements("network_subeq(inet,inet)")
def is_inside_or_equal(left: bytes, right: bytes) -> bool:
    mask = parts(right)[2]
    return left[0] == right[0] and parts(left)[2] >= mask and _common(left, right, mask)


@implements("network_overlap(inet,inet)")
def overlaps(left: bytes, right: bytes) -> bool:
    return left[0] == right[0] and _common(left, right, min(parts(left)[2], parts(right)[2]))


# ------------------------------------------------------------------------------------------------ parts


def _host_bits(family: int, mask: int) -> int:
    return (1 << (WIDTHS[family] - mask)) - 1


@implements("broadcast(inet)")
def broadcast(value: bytes) -> bytes:
    family, address, mask = parts(value)
    return make(family, address | _host_bits(family, mask), mask)


@implements("network(inet)", "cidr(inet)")
def network(value: bytes) -> bytes:
    return make(value[0], network_address(value), parts(value)[2])


@implements("netmask(inet)")
def netmask(value: bytes) -> bytes:
    family, _, mask = parts(value)
    width = WIDTHS[family]
    return make(family, (1 << width) - 1 ^ _host_bits(family, mask), width)


@implements("hostmask(inet)")
def hostmask(value: bytes) -> bytes:
    family, _, mask = parts(value)
    return make(family, _host_bits(family, mask), WIDTHS[family])


@implements("host(inet)")
def host(value: bytes) -> str:
    family, address, _ = parts(value)
    return address_text(family, address)


@implements("abbrev(cidr)")
def abbreviated(value: bytes) -> str:
    family, address, mask = parts(value)
    if family == 6:
        return format_cidr(value, None)
    octets = address.to_bytes(4, "big")[: max(1, -(-mask // 8))]
    return ".".join(map(str, octets)) + f"/{mask}"


def _check_mask(family: int, mask: int) -> int:
    if not -1 <= mask <= WIDTHS[family]:
        raise InvalidParameterValue(f"invalid mask length: {mask}")
    return WIDTHS[family] if mask == -1 else mask


@implements("set_masklen(inet,int4)")
def set_mask(value: bytes, mask: int) -> bytes:
    family, address, _ = parts(value)
    return make(family, address, _check_mask(family, mask))


@implements("set_masklen(cidr,int4)")
def set_network_mask(value: bytes, mask: int) -> bytes:
    return network(set_mask(value, mask))


@implements("inet_merge(inet,inet)")
def merge(left: bytes, right: bytes) -> bytes:
    if left[0] != right[0]:
        raise InvalidParameterValue("cannot merge addresses from different families")
    family, first, first_mask = parts(left)
    _, second, second_mask = parts(right)
    mask = min(first_mask, second_mask, WIDTHS[family] - (first ^ second).bit_length())
    return network(make(family, first, mask))


# ------------------------------------------------------------------------------------------------ arithmetic


def _bitwise(word: str, combine: Callable[[int, int], int]) -> Callable[[bytes, bytes], bytes]:
    def body(left: bytes, right: bytes) -> bytes:
        if left[0] != right[0]:
            raise InvalidParameterValue(f"cannot {word} inet values of different sizes")
        family, first, first_mask = parts(left)
        _, second, second_mask = parts(right)
        return make(family, combine(first, second), max(first_mask, second_mask))

    return body


@implements("inetnot(inet)")
def invert(value: bytes) -> bytes:
    family, address, mask = parts(value)
    return make(family, (1 << WIDTHS[family]) - 1 ^ address, mask)


@implements("inetpl(inet,int8)")
def plus(value: bytes, number: int) -> bytes:
    family, address, mask = parts(value)
    if not 0 <= address + number < 1 << WIDTHS[family]:
        raise NumericValueOutOfRange("result is out of range")
    return make(family, address + number, mask)


@implements("inetmi(inet,inet)")
def minus(left: bytes, right: bytes) -> int:
    if left[0] != right[0]:
        raise InvalidParameterValue("cannot subtract inet values of different sizes")
    result = parts(left)[1] - parts(right)[1]
    if not -(1 << 63) <= result < 1 << 63:
        raise NumericValueOutOfRange("result is out of range")
    return result


# ------------------------------------------------------------------------------------------------ cards


def _on_bytes(combine: Callable[[int, int], int]) -> Callable[[bytes, bytes], bytes]:
    return lambda left, right: bytes(map(combine, left, right))


@implements("macaddr(macaddr8)")
def to_macaddr(value: bytes) -> bytes:
    if value[3:5] != b"\xff\xfe":
        raise DatabaseError.of(
            "22003",
            "macaddr8 data out of range to convert to macaddr",
            hint="Only addresses that have FF and FE as values in the 4th and 5th bytes from the left, for example "
            "xx:xx:xx:ff:fe:xx:xx:xx, are eligible to be converted from macaddr8 to macaddr.",
        )
    return value[:3] + value[5:]


def _define() -> None:
    define("network_sup(inet,inet)", lambda left, right: is_inside(right, left))
    define("network_supeq(inet,inet)", lambda left, right: is_inside_or_equal(right, left))
    define("family(inet)", lambda value: value[0])
    define("masklen(inet)", lambda value: parts(value)[2])
    define("text(inet)", lambda value: format_cidr(value, None))
    define("abbrev(inet)", lambda value: format_inet(value, None))
    define("inet_same_family(inet,inet)", lambda left, right: left[0] == right[0])
    define("inetand(inet,inet)", _bitwise("AND", operator.and_))
    define("inetor(inet,inet)", _bitwise("OR", operator.or_))
    define("int8pl_inet(int8,inet)", lambda number, value: plus(value, number))
    define("inetmi_int8(inet,int8)", lambda value, number: plus(value, -number))
    define("network_larger(inet,inet)", max)
    define("network_smaller(inet,inet)", min)
    define("macaddr8(macaddr)", lambda value: value[:3] + b"\xff\xfe" + value[3:])
    define("macaddr8_set7bit(macaddr8)", lambda value: bytes([value[0] | 2]) + value[1:])
    define("trunc(macaddr)", lambda value: value[:3] + bytes(3))
    define("trunc(macaddr8)", lambda value: value[:3] + bytes(5))
    for name in ("macaddr", "macaddr8"):
        define(f"{name}_and({name},{name})", _on_bytes(operator.and_))
        define(f"{name}_or({name},{name})", _on_bytes(operator.or_))
        define(f"{name}_not({name})", lambda value: bytes(255 - byte for byte in value))
    for pattern, name in (("network_*", "inet"), ("macaddr_*", "macaddr"), ("macaddr8_*", "macaddr8")):
        define_comparisons(pattern, name, name, None, None)
        define(f"{pattern[:-1]}cmp({name},{name})", comparator(known.BYTEA.oid))
    define_aggregate("max(inet)", extreme(known.BYTEA.oid, True))
    define_aggregate("min(inet)", extreme(known.BYTEA.oid, False))


_define()
