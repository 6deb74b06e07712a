"""A part of a plan with joins, as it travels to the leaseholders; the gateway's side of it.

Like a fragment of a scan (fragment.py), only that it stands on several scans and given tables::

    SELECT u.city, count(*) FROM users u JOIN orders o USING (user_id) JOIN nation n USING (nation_id) GROUP BY u.city
      part        [scans u, o; given n; HashJoin(HashJoin(leaf u, leaf o), given n); aggregate [city] [count(*)]]
      arguments   [parameters …, tables = digest of n's rows, blocks = n's rows, the first time that a node is asked]

A node keeps parts and given tables by their digests (part_run.py), so a span that takes many answers has them sent once; a node
that has lost them says so, and they are sent again.
The other side is ``part_run.py``, who uses it ``at_shards.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from xxhash import xxh3_128_digest

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.exec.fragment import Portable, Row, bare, tail_sets
from pydistdb.sql.exec.spill import RowCodec
from pydistdb.sql.exec.tree_codec import check_type, dump
from pydistdb.sql.plan.cut import Cut
from pydistdb.sql.plan.distribute import Tail
from pydistdb.sql.plan.expressions import all_relations, direct_parts
from pydistdb.sql.tree import Expr, Rel

PART_HEAD, NAME_HEAD = b"part", b"name"
"""What a part begins with, and the name of one that the node should know."""
MOST_GIVEN_BYTES = 4 << 20
"""What all tables given to one part may come to."""
MOST_REFERENCE_BYTES = 16 << 20
"""The same, where REFERENCE tables are among them."""


def most_given_bytes(cut: Cut) -> int:
    """What the tables given to a part may come to."""
    return MOST_REFERENCE_BYTES if cut.references else MOST_GIVEN_BYTES


class ScanText(msgspec.Struct, array_like=True, frozen=True):
    table: Table
    index: int
    index_only: bool
    numbers: tuple[int, ...]
    identity: bytes
    """Of the entries that are its rows, in a colocation group; empty: all are."""


class PartText(msgspec.Struct, array_like=True, frozen=True):
    """``tree`` holds what ``tree_codec`` writes: see ``Part``."""

    scans: list[ScanText]
    by_bucket: bool
    kind: str
    tree: bytes


encode_part = msgspec.msgpack.Encoder().encode
decode_part = msgspec.msgpack.Decoder(PartText).decode


def _all_expressions(part: Rel) -> Iterator[Expr]:
    for relation in all_relations(part):
        yield from direct_parts(relation)[0]


class Part(Portable):
    """The part above a cut; raises NotPortable if it cannot be done elsewhere."""

    def __init__(
        self,
        cut: Cut,
        identities: Sequence[bytes],
        tail: Tail | None,
        *,
        deal: tuple[Expr, ...] = (),
        input_groups: tuple[tuple[Expr, ...], ...] = (),
    ) -> None:
        """``deal``: the keys by which its rows are dealt out; ``input_groups``: for each of the cut's inputs the groups whose
        states may come, none if rows do."""
        expressions = [*_all_expressions(cut.part), *deal]
        own = {column.id for relation in all_relations(cut.part) for column in relation.columns}
        for scan in cut.scans:
            expressions += [*scan.output, *(() if scan.node.condition is None else (scan.node.condition,))]
            own.update(column.id for column in scan.node.columns)
        super().__init__(tail, expressions, own, [column.type for column in cut.part.columns])
        self.cut = cut
        for given in (*cut.broadcast, *cut.inputs):
            for column in given.columns:
                check_type(column.type)
        self.codecs = [RowCodec([column.type for column in given.columns]) for given in cut.broadcast]
        scans = [
            ScanText(
                bare(scan.node.table, scan.node.access.index.storage_id),
                scan.node.access.index.storage_id,
                scan.node.index_only,
                scan.node.numbers,
                identity,
            )
            for scan, identity in zip(cut.scans, identities, strict=True)
        ]
        tree = (
            tuple(
                (
                    scan.node.columns,
                    () if scan.node.condition is None else (scan.node.condition,),
                    scan.columns,
                    scan.output,
                )
                for scan in cut.scans
            ),
            tuple(given.columns for given in cut.broadcast),
            cut.part,
            tuple(self.outer),
            tuple(self.parameters),
            *(self.tail.keys, self.tail.groups, self.tail.calls),
            tuple((each.columns, groups) for each, groups in zip(cut.inputs, input_groups, strict=True)),
            deal,
            *tail_sets(self.tail),
        )
        self.data = data = PART_HEAD + encode_part(PartText(scans, cut.by_bucket, self.tail.kind, dump(tree)))
        self.name = NAME_HEAD + xxh3_128_digest(data)

    def given(self, tables: Sequence[list[Row]]) -> tuple[bytes, list[bytes]]:
        """The rows of the given tables as blocks, and what they are called."""
        blocks = [codec.encode(rows) for codec, rows in zip(self.codecs, tables, strict=True)]
        return xxh3_128_digest(b"".join([len(block).to_bytes(8, "big") + block for block in blocks])), blocks
