"""A fragment: what a leaseholder is told to make of its part of a scan, and how its answer is read.

The text of a fragment (table, columns, condition, output, tail) is the same for every run of a plan, so that a leaseholder
compiles it once; what changes from run to run goes along as its arguments: parameters, values of enclosing queries, the
transaction's time, the settings by which dates are written, how many rows are wanted::

    SELECT g, sum(v) FROM t WHERE v > $1 GROUP BY g
      fragment    [table t, primary index, (g, v), v > $1, aggregate [g] [sum(v)]]          about 1 kB, once compiled
      arguments   [$1 = 5, …]
      answer      [[1, 17], [2, 40], …]                                                     groups with their states

The other side is ``fragment_run.py``.  An answer of plain rows is a block of ``RowCodec``; states of aggregates go by
their own little code (``pack_states``), since they are of no SQL type.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.exec.codegen import evaluator
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.spill import RowCodec
from pydistdb.sql.exec.tree_codec import NotPortable, check_type, dump, runtime_form, storage_form
from pydistdb.sql.plan.distribute import FIRST_OF_GROUPS, Tail
from pydistdb.sql.plan.expressions import walk
from pydistdb.sql.resources import LIMITS
from pydistdb.sql.sketch import Sketch
from pydistdb.sql.tree import ColumnRef, Expr, Param
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import Interval, SqlType

if TYPE_CHECKING:
    from pydistdb.sql.exec.scan import TableScanOperator

Row = tuple[Any, ...]
SETTINGS = ("datestyle", "intervalstyle", "bytea_output", "extra_float_digits", *LIMITS)
"""What immutable and stable functions may look at, of the session's settings, and what says how much may be held."""
NO_TAIL = Tail("rows")


class Partials(list[Row]):
    """A batch of groups with the states of their aggregates, in place of rows."""


class Text(msgspec.Struct, array_like=True, frozen=True):
    """A fragment as it travels; ``tree`` holds what ``tree_codec`` writes."""

    table: Table
    index: int
    index_only: bool
    numbers: tuple[int, ...]
    kind: str
    tree: bytes


class DealTo(msgspec.Struct, array_like=True, frozen=True):
    """Where the rows go instead of into the answer: each to one of ``nodes``, as input number ``input`` of an exchange there."""

    exchange: bytes
    input: int
    nodes: tuple[int, ...]


class Arguments(msgspec.Struct, array_like=True, frozen=True):
    """The values of one run; the first two in the order in which the fragment names them, in storage form."""

    outer: list[Any]
    parameters: list[Any]
    most: int
    """How many rows are wanted; 0: all there are."""
    identity: bytes
    transaction_timestamp: int
    statement_timestamp: int
    timezone: str
    settings: dict[str, str]
    tables: bytes = b""
    """What the tables that a part of a plan was given are called (part.py), or a scan's key filter; empty: there are none."""
    blocks: list[bytes] = []
    """Their rows, unless this node has them already."""
    deal: DealTo | None = None
    known: bytes = b""
    """The digest of an answer that need not be given again (last_answers.py); empty: there is none."""
    first: int = 0
    """How many rows are wanted of each group.  Nodes of versions that know of no such tail pass it over, and give all rows."""

    @property
    def wanted(self) -> int:
        return self.most or self.first


encode_text = msgspec.msgpack.Encoder().encode
decode_text = msgspec.msgpack.Decoder(Text).decode
encode_arguments = msgspec.msgpack.Encoder().encode
decode_arguments = msgspec.msgpack.Decoder(Arguments).decode


class Portable:
    """The gateway's side of what is done elsewhere: its ``data``, the values of a run, and how an answer is read."""

    data: bytes

    def __init__(
        self, tail: Tail | None, parts: Iterable[Expr], own: Collection[int], output_types: Sequence[SqlType]
    ) -> None:
        """``parts``: all expressions in it, less the tail's; ``own``: the columns that it has of itself."""
        self.tail = tail = tail or NO_TAIL
        parts = [*parts, *_expressions(tail)]
        self.outer = list({p.id: p for p in _all(parts) if isinstance(p, ColumnRef) and p.id not in own}.values())
        self.parameters = list({p.index: p for p in _all(parts) if isinstance(p, Param)}.values())
        self.types = tuple(output_types)
        for sql_type in (*self.types, *(group.type for group in tail.groups)):
            check_type(sql_type)

    @cached_property
    def most(self) -> Any:
        return evaluator(self.tail.most)

    @cached_property
    def _codec(self) -> RowCodec:
        return RowCodec(self.types)

    def arguments(self, state: State, identity: bytes | None) -> Arguments:
        """The values of this run."""
        context = state.context
        known = [value for value in self.most(state) if value is not None] if self.tail.most else []
        wanted, of_groups = max(0, sum(known)), self.tail.kind in FIRST_OF_GROUPS
        return Arguments(
            [storage_form(column.type, state.outer[column.id]) for column in self.outer],
            [storage_form(parameter.type, state.parameters[parameter.index]) for parameter in self.parameters],
            0 if of_groups else wanted,
            identity or b"",
            context.transaction_timestamp,
            context.statement_timestamp,
            context.timezone,
            {name: context.settings[name] for name in SETTINGS if name in context.settings},
            first=wanted if of_groups else 0,
        )

    def read(self, output: bytes) -> list[Row]:
        """An answer's rows, or Partials."""
        if self.tail.kind == "aggregate":
            return unpack_states(output, [group.type for group in self.tail.groups])
        return self._codec.decode(output)


class Fragment(Portable):
    """A scan's fragment; raises NotPortable if the scan cannot be done elsewhere."""

    def __init__(self, scan: TableScanOperator, tail: Tail | None) -> None:
        node = scan.node
        condition = () if node.condition is None else (node.condition,)
        own = {column.id for column in (*node.columns, *scan.columns)}
        super().__init__(tail, [*scan.output, *condition, *scan.filter_keys], own, scan.types)
        tail = self.tail
        tree = (
            *(node.columns, condition, scan.columns, scan.output, tuple(self.outer), tuple(self.parameters)),
            *(tail.keys, tail.groups, tail.calls, *tail_sets(tail), scan.filter_keys),
        )
        text = Text(
            bare(node.table, node.access.index.storage_id),
            node.access.index.storage_id,
            node.index_only,
            node.numbers,
            tail.kind,
            dump(tree),
        )
        self.data = encode_text(text)


def bare(table: Table, storage_id: int) -> Table:
    """The descriptor, less what reading rows does not need."""
    indexes = table.indexes[:1] + tuple([index for index in table.indexes[1:] if index.storage_id == storage_id])
    columns = tuple([structs.replace(column, default=None) for column in table.columns])
    return structs.replace(
        table, columns=columns, indexes=indexes, checks=(), foreign_keys=(), referenced_by=(), depends_on=()
    )


def tail_sets(tail: Tail) -> list[Any]:
    """What nodes of versions that know neither of several grouping sets nor of lists can't read: they refuse."""
    return [tail.sets] if tail.sets or tail.grows else []


def _expressions(tail: Tail) -> list[Expr]:
    parts = [*tail.groups, *(key.expression for key in tail.keys)]
    for call in tail.calls:
        parts += [*call.arguments, *(key.expression for key in call.order_by)]
        if call.filter is not None:
            parts.append(call.filter)
    return parts


def _all(parts: Iterable[Expr]) -> Iterable[Expr]:
    for part in parts:
        yield from walk(part)


# ------------------------------------------------------------------------------------------------ states

_BIG, _DECIMAL, _INTERVAL, _TUPLE, _SKETCH = 1, 2, 3, 4, 5
_encoder = msgspec.msgpack.Encoder()


def _packed(value: Any) -> Any:
    kind = type(value)
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 63 else msgspec.msgpack.Ext(_BIG, str(value).encode())
    if kind is Decimal:
        return msgspec.msgpack.Ext(_DECIMAL, str(value).encode())
    if kind is list:
        return list(map(_packed, value))
    if kind is Interval:
        return msgspec.msgpack.Ext(_INTERVAL, _encoder.encode(tuple(value)))
    if kind is tuple:
        return msgspec.msgpack.Ext(_TUPLE, _encoder.encode(list(map(_packed, value))))
    if value is None or kind in (bool, float, str, bytes):
        return value
    if kind is Sketch:
        return msgspec.msgpack.Ext(_SKETCH, value.to_bytes())
    raise NotPortable(kind.__name__)


def _unpacked(code: int, data: memoryview) -> Any:
    match code:
        case 1:
            return int(bytes(data))
        case 2:
            return Decimal(bytes(data).decode())
        case 3:
            return Interval(*_decoder.decode(data))
        case 5:
            return Sketch(bytes(data))
        case _:
            return tuple(_decoder.decode(data))


_decoder = msgspec.msgpack.Decoder(ext_hook=_unpacked)


def pack_states(groups: Iterable[Sequence[Any]], group_types: Sequence[SqlType]) -> bytes:
    """Groups as [group values, state, state …] in bytes."""
    return _encoder.encode(
        [
            [
                *[storage_form(kind, value) for kind, value in zip(group_types, group[0], strict=True)],
                *map(_packed, group[1:]),
            ]
            for group in groups
        ]
    )


def unpack_states(data: bytes, group_types: Sequence[SqlType]) -> Partials:
    """Rows of group values and states."""
    count = len(group_types)
    rows = _decoder.decode(data)
    if all(_is_plain(kind) for kind in group_types):
        return Partials(map(tuple, rows))
    return Partials(
        (*[runtime_form(kind, cell) for kind, cell in zip(group_types, row, strict=False)], *row[count:])
        for row in rows
    )


class PartialsCodec:
    """Blocks of Partials in a spill file."""

    def __init__(self, group_types: Sequence[SqlType]) -> None:
        count = len(group_types)
        self.encode: Callable[[list[Row]], bytes] = lambda rows: pack_states(
            [(row[:count], *row[count:]) for row in rows], group_types
        )
        self.decode: Callable[[bytes], list[Row]] = lambda block: unpack_states(block, group_types)


def _is_plain(kind: SqlType) -> bool:
    return types.io(kind.oid).from_storage is None
