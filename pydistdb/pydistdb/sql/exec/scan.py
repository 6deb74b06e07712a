"""Scans of stored and virtual tables.

A scan turns its access path into key spans (or single keys), fetches chunks of entries from the transaction and decodes
them in one generated list comprehension that filters and computes the output in the same pass::

    return [(r[1], from3(r[3])) for r in map(decode, values) if r[2] > p0]

Only what is asked for is converted; if no column is asked for, values are not even decoded.  Through a secondary index
the entries are primary keys, whose rows are fetched in one request a chunk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice, product
from typing import Any

from pydistdb_storage import rows

from pydistdb.kv.api import MustWait, Transaction
from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.exec.codegen import Code, evaluator, tuple_source
from pydistdb.sql.exec.fragment import Fragment
from pydistdb.sql.exec.inverted_scan import InvertedBounds, candidates
from pydistdb.sql.exec.key_filter import SentKeys, key_source
from pydistdb.sql.exec.merged_indexes import MergedBounds
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.exec.shards import over_shards
from pydistdb.sql.exec.skip_scan import SkipBounds
from pydistdb.sql.exec.tree_codec import NotPortable
from pydistdb.sql.functions.row_keys import row_version
from pydistdb.sql.layout import (
    HASH_IDENTITY_END,
    HASH_IDENTITY_START,
    MOST_KEY_BYTES,
    IndexLayout,
    Span,
    TableLayout,
    picks_of,
    storage_prefix,
)
from pydistdb.sql.plan.distribute import Tail
from pydistdb.sql.plan.physical import Access, TableScan, Term, VirtualTableScan
from pydistdb.sql.plan.short_ranges import values_between
from pydistdb.sql.shard_map import Limit
from pydistdb.sql.tree import KEY_NUMBER, VERSION_NUMBER, ColumnRef, Expr, OutputColumn

FIRST_CHUNK_ROWS = 256
MOST_SPANS = 100_000


class Bounds:
    """An access path made ready: gives the keys or spans of one run, in scan order."""

    def __init__(self, layout: TableLayout, access: Access) -> None:
        self.layout = layout
        self.access = access
        self.index: IndexLayout = layout.by_storage_id[access.index.storage_id]
        self.is_point = access.is_point
        self.gate = access.gate
        self.is_full = not (access.equal or access.lower or access.upper or access.is_routed)
        told = self.index.shard_positions
        self.by_shard = self.index.hashed and (told is None or max(told) >= len(access.equal))
        """The shards to read do not follow from the index's columns."""

    @cached_property
    def values(self) -> Callable[[State], tuple[Any, ...]]:
        return evaluator(self.access.expressions)

    @cached_property
    def opens(self) -> Callable[[State], bool]:
        """Whether the gate's terms are true, in this run."""
        terms = evaluator(self.gate)
        return lambda state: all(value is True for value in terms(state))

    @staticmethod
    def choices(term: Term, values: Iterator[Any]) -> Sequence[Any] | None:
        """What a column may equal, each value once; NULLs equal nothing.  None: too many values lie between its bounds."""
        if term.is_null:
            return [None]
        if term.between:
            (_, takes_least), (_, takes_most) = term.between
            return values_between((next(values), takes_least), (next(values), takes_most))
        candidates = list(islice(values, len(term.alternatives)))
        if term.array is not None:
            array = next(values)
            candidates.extend(() if array is None else array.items)
        return [value for value in dict.fromkeys(candidates) if value is not None]

    @classmethod
    def combinations(cls, terms: Sequence[Term], values: Iterator[Any]) -> Iterator[tuple[Any, ...]]:
        """Every combination of values for an index's equality terms, none of which is a range."""
        return product(*[cls.choices(term, values) or () for term in terms])

    @staticmethod
    def limits(
        lower: Sequence[tuple[Expr, bool]], upper: Sequence[tuple[Expr, bool]], values: Iterator[Any]
    ) -> tuple[Limit, Limit] | None:
        """The values of bounds; None if one is NULL, which nothing is beyond."""
        least = (next(values), lower[0][1]) if lower else None
        most = (next(values), upper[0][1]) if upper else None
        if (least is not None and least[0] is None) or (most is not None and most[0] is None):
            return None
        return least, most

    def points(self, state: State) -> list[bytes]:
        """Keys of a point access, in key order."""
        layout, index, values = self.layout, self.index, iter(self.values(state))
        keys = {layout.point_key(index, combination) for combination in self.combinations(self.access.equal, values)}
        keys.discard(None)
        return sorted(
            (key for key in keys if key is not None and len(key) <= MOST_KEY_BYTES), reverse=self.access.reverse
        )

    def spans(self, state: State) -> list[Span]:
        """Spans of a range access, in key order (backwards if the scan goes backwards)."""
        layout, index, access = self.layout, self.index, self.access
        if self.gate and not self.opens(state):
            return []
        numbered = self.by_shard and layout.shards is not None and not layout.shards.is_hash
        if self.is_full and not numbered:
            return [layout.index_span(access.index)]
        values = iter(self.values(state))
        combinations = list(self.combinations(access.equal, values))
        limits = self.limits(access.lower, access.upper, values)
        shards = self._shards(values) if self.by_shard else [None]
        if limits is None or shards is None:
            return []
        found = {layout.bounds(index, each, *limits, shard=shard) for each in combinations for shard in shards}
        spans = [
            Span(span.start[:MOST_KEY_BYTES], span.end[:MOST_KEY_BYTES], span.identity)
            for span in found
            if span is not None
        ]
        return sorted(spans, reverse=self.access.reverse)

    def _shards(self, values: Iterator[Any]) -> Sequence[int | None] | None:
        """The shards to read; None if there are none."""
        access, shards = self.access, self.layout.shards
        assert shards is not None
        choices = [self.choices(term, values) for term in access.shards]
        limits = self.limits(access.shard_lower, access.shard_upper, values)
        told = [choice for choice in choices if choice is not None]
        if len(told) < len(choices):
            return [None] if shards.is_hash else shards.between(None, None)
        if access.shards:
            return sorted({shards.number(each) for each in product(*told)})
        return None if limits is None else shards.between(*limits)

    def shards(self, state: State) -> list[int]:
        """The shards that a run looks into, by number."""
        prefix = len(storage_prefix(self.layout.table))
        keys = self.points(state) if self.is_point else [span.start for span in self.spans(state)]
        return sorted({int.from_bytes(key[prefix : prefix + 2], "big") for key in keys})


class TableScanOperator(Operator):
    """Rows of a stored table; ``output`` may compute a projection in the same pass."""

    def __init__(self, node: TableScan) -> None:
        self.node = node
        self.layout = TableLayout.of(node.table)
        self.bounds = Bounds(self.layout, node.access)
        self.is_secondary = self.bounds.index is not self.layout.primary and not node.index_only
        self.inverted = _merging(self.layout, node.access)
        self.skip = None if node.access.skip is None else SkipBounds(self.bounds)
        self.places: dict[int, int] = {}
        """Where columns stand in an entry of a covering index, by number."""
        if node.index_only:
            self.places = {number: place for place, number in enumerate(self.bounds.index.covered, 1)}
        not_null_numbers = {column.number for column in node.table.columns if column.not_null}
        not_null_numbers |= {KEY_NUMBER, VERSION_NUMBER}
        self.numbers = dict(zip((column.id for column in node.columns), node.numbers, strict=True))
        self.is_projected = False
        self.tail: Tail | None = None
        """What other nodes do to the rows before they send them (the compiler sets it)."""
        self.source_not_null = frozenset(
            column for column, number in self.numbers.items() if number in not_null_numbers
        )
        self.filter_keys: tuple[Expr, ...] = ()
        """What a join above may send the keys of its other side for (key_filter.py; the compiler sets it)."""
        self.filters_here = False
        """Steps between the scan and that join are spared the other rows at this node, too."""
        self.output: tuple[Expr, ...] = tuple(ColumnRef(column.type, column.id) for column in node.columns)
        super().__init__(node.columns, self.source_not_null & {column.id for column in node.columns})

    @property
    def is_span(self) -> bool:
        """Whole spans of an index are read."""
        return not (self.bounds.is_point or self.inverted is not None or self.skip is not None or self.node.current_of)

    def project(self, columns: Sequence[OutputColumn], expressions: Sequence[Expr]) -> TableScanOperator:
        """The same scan computing ``expressions`` instead."""
        scan = TableScanOperator(self.node)
        code = scan.row_code()
        scan.output = tuple(expressions)
        scan.is_projected = True
        not_null = frozenset(
            column.id for column, expression in zip(columns, expressions, strict=True) if not code.nullable(expression)
        )
        Operator.__init__(scan, columns, not_null)
        return scan

    def row_code(self) -> Code:
        """Code over a storage row ``r`` (and its key ``k``)."""
        namespace: dict[str, Any] = {}
        columns: dict[int, tuple[str, bool]] = {}
        for column, number in self.numbers.items():
            nullable = column not in self.source_not_null
            place = self.places.get(number)
            if number > 0:
                source = self.layout.column_source(number, "r", namespace, nullable, place)
            else:
                source = "k" if number == KEY_NUMBER else "row_version(v)"
            columns[column] = (source, nullable)
        used = self.numbers.values()
        variables = ["r", *(["k"] if KEY_NUMBER in used else []), *(["v"] if VERSION_NUMBER in used else [])]
        code = Code(columns, variables)
        code.namespace.update(namespace, row_version=row_version)
        return code

    @cached_property
    def decode(self) -> Callable[[Sequence[bytes], Sequence[bytes], State], Batch]:
        """``f(keys, values, S)``: the output rows of a chunk."""
        code = self.row_code()
        sources = [code.value(expression) for expression in self.output]
        condition = self.node.condition
        test = "" if condition is None else f" if {code.truth(condition)}"
        needs_key = KEY_NUMBER in self.numbers.values()
        needs_value = VERSION_NUMBER in self.numbers.values()
        if not test and not needs_value and not any("r[" in source or "(r" in source for source in sources):
            loop = "for k in keys" if needs_key else "for _ in values"
            function: Callable[..., Batch] = code.build(
                "f(keys, values, S)", f"return [{tuple_source(sources)} {loop}]"
            )
            return function
        code.namespace.update(decode=rows.decode, pad=self.layout.pad)
        storage_rows = "map(decode, values)"
        body = ""
        greatest = max(self.numbers.values(), default=0)
        if self.layout.may_be_short and not self.node.index_only:
            body = (
                f"stored = list(map(decode, values))\nif min(map(len, stored), default={greatest + 1}) <= {greatest}:\n"
            )
            body += "    stored = list(map(pad, stored))\n"
            storage_rows = "stored"
        loop = f"for k, r in zip(keys, {storage_rows})" if needs_key else f"for r in {storage_rows}"
        if needs_value:
            loop = f"for k, v, r in zip(keys, values, {storage_rows})"
        body += f"return [{tuple_source(sources)} {loop}{test}]"
        function = code.build("f(keys, values, S)", body)
        return function

    @cached_property
    def filtered(self) -> Callable[[Batch, State, Callable[[Any], bool]], Batch]:
        """``f(batch, S, may_hold)``: the rows that may find a partner in the join that they are read for."""
        code = self.code()
        key, tests = key_source(code, self.filter_keys)
        test = " and ".join([*tests, f"may_hold({key})"])
        function: Callable[[Batch, State, Callable[[Any], bool]], Batch] = code.build(
            "f(batch, S, may_hold)", f"return [r for r in batch if {test}]"
        )
        return function

    def wanted(self, batch: Batch, state: State) -> Batch:
        """The rows, or those whose keys a join above has told."""
        sent: SentKeys | None = state.shared.get(id(self)) if self.filters_here and self.filter_keys else None
        return batch if sent is None else self.filtered(batch, state, sent.holds)

    @cached_property
    def storage_decode(self) -> Callable[[bytes], list[Any]]:
        """One value to its (padded) storage row."""
        if not self.layout.may_be_short:
            return rows.decode
        pad, decode = self.layout.pad, rows.decode
        return lambda value: pad(decode(value))

    @cached_property
    def most_rows(self) -> Callable[[State], tuple[Any, ...]]:
        return evaluator(self.node.most_rows)

    def first_chunk_rows(self, state: State) -> int:
        if not self.node.most_rows:
            return FIRST_CHUNK_ROWS
        asked = [value for value in self.most_rows(state) if value is not None]
        return max(1, min(sum(asked), BATCH_ROWS)) if asked else FIRST_CHUNK_ROWS

    @cached_property
    def fragment(self) -> Fragment | None:
        """The scan as other nodes can do it; None if they cannot."""
        if self.is_secondary:
            return None
        found = self._fragment()
        if found is None and self.filter_keys:
            self.filter_keys = ()
            found = self._fragment()
        return found

    def _fragment(self) -> Fragment | None:
        for tail in (None,) if self.tail is None else (self.tail, None):
            try:
                return Fragment(self, tail)
            except NotPortable:
                continue
        return None

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        decode = self.decode
        filters = self.filters_here
        if self.node.current_of:
            chunks = self._current(state)
        elif self.inverted is not None:
            chunks = self._candidates(self.inverted, state)
        elif self.skip is not None:
            chunks = self._skipping(self.skip, state)
        elif self.bounds.is_point:
            chunks = self._points(state)
        else:
            spans = self.bounds.spans(state)
            is_local = state.transaction.is_local
            if not all(is_local(span.start, span.end) for span in spans):
                async for output in over_shards(self, spans, state):
                    yield output
                return
            chunks = self.chunks(state, spans)
        async for keys, values in chunks:
            output = decode(keys, values, state)
            if filters:
                output = self.wanted(output, state)
            if output:
                yield output
            await state.breathe()

    async def _current(self, state: State) -> AsyncIterator[tuple[Sequence[bytes], Sequence[bytes]]]:
        """The row that a cursor is on, if it is still there."""
        session: Any = state.context.extra
        if session is None:
            raise FeatureNotSupported("cursors need a session")
        key = session.cursors.current_key(self.node.current_of, self.node.table)
        yield present([key], await get_many(state.transaction, [key]))

    async def _candidates(
        self, bounds: InvertedBounds | MergedBounds, state: State
    ) -> AsyncIterator[tuple[Sequence[bytes], Sequence[bytes]]]:
        """The rows that an inverted index finds; every row, where no token narrows the question."""
        transaction = state.transaction
        source = bounds.source(state)
        if source is None:
            primary = Access(self.node.table.indexes[0])
            everything = TableScanOperator(replace(self.node, access=primary))
            async for chunk in everything.chunks(state, everything.bounds.spans(state)):
                yield chunk
            return
        async for primary_keys in candidates(source):
            yield present(primary_keys, await get_many(transaction, primary_keys))

    async def _skipping(self, skip: SkipBounds, state: State) -> AsyncIterator[tuple[Sequence[bytes], Sequence[bytes]]]:
        """The rows that a skip scan finds."""
        assert self.node.access.skip is not None
        if not self.node.access.skip.first:
            async for spans in skip.spans(state):
                async for chunk in self.chunks(state, spans):
                    yield chunk
            return
        async for keys, values in skip.entries(state):
            if self.is_secondary:
                keys = self.bounds.index.row_keys(values)
                yield present(keys, await get_many(state.transaction, keys))
            else:
                yield keys, values

    async def _points(self, state: State) -> AsyncIterator[tuple[Sequence[bytes], Sequence[bytes]]]:
        wanted = self.bounds.points(state)
        for start in range(0, len(wanted), BATCH_ROWS):
            yield await self.fetch(state.transaction, wanted[start : start + BATCH_ROWS])

    async def fetch(self, transaction: Transaction, keys: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Primary keys and values behind index keys, those that exist."""
        found_keys, found = present(keys, await get_many(transaction, keys))
        if self.is_secondary:
            primary_keys = self.bounds.index.row_keys(found)
            return present(primary_keys, await get_many(transaction, primary_keys))
        return found_keys, found

    async def chunks(
        self, state: State, spans: Sequence[Span]
    ) -> AsyncIterator[tuple[Sequence[bytes], Sequence[bytes]]]:
        """The rows' keys and values, read entry by entry."""
        transaction = state.transaction
        reverse = self.node.access.reverse
        limit = self.first_chunk_rows(state)
        for start, end, identity in spans:
            picks = None if identity is None else picks_of(identity)
            while True:
                try:
                    found = transaction.try_scan(start, end, limit=limit, reverse=reverse, picks=picks)
                except MustWait:
                    found = await transaction.scan(start, end, limit=limit, reverse=reverse, picks=picks)
                keys, values, resume = found
                if identity is not None:
                    keys, values = of_identity(keys, values, identity)
                if keys:
                    if self.is_secondary:
                        primary_keys = self.bounds.index.row_keys(values)
                        yield present(primary_keys, await get_many(transaction, primary_keys))
                    else:
                        yield keys, values
                if resume is None:
                    break
                if reverse:
                    end = resume
                else:
                    start = resume
                limit = min(limit * 4, BATCH_ROWS)
                await state.breathe()


def _merging(layout: TableLayout, access: Access) -> InvertedBounds | MergedBounds | None:
    """Where rows are found by merging streams of index entries."""
    if access.also:
        return MergedBounds([Bounds(layout, each) for each in (access, *access.also)])
    return InvertedBounds(layout, access) if access.probes else None


async def get_many(transaction: Transaction, keys: Sequence[bytes]) -> list[bytes | None]:
    """Values at ``keys``; a single key usually lies at hand."""
    if len(keys) == 1:
        try:
            return [transaction.try_get(keys[0])]
        except MustWait:
            pass
    return await transaction.get_many(keys) if keys else []


def present(keys: Sequence[bytes], values: Sequence[bytes | None]) -> tuple[list[bytes], list[bytes]]:
    """The keys that have a value, and their values."""
    if None not in values:
        return list(keys), list(values)  # type: ignore[arg-type]
    pairs = [(key, value) for key, value in zip(keys, values, strict=True) if value is not None]
    return [key for key, _ in pairs], [value for _, value in pairs]


def of_identity(keys: Sequence[bytes], values: Sequence[bytes], identity: bytes) -> tuple[list[bytes], list[bytes]]:
    """The entries of one index among those of a whole colocation group."""
    pairs = [
        (key, value)
        for key, value in zip(keys, values, strict=True)
        if key[HASH_IDENTITY_START:HASH_IDENTITY_END] == identity
    ]
    return [key for key, _ in pairs], [value for _, value in pairs]


class VirtualScanOperator(Operator):
    """Rows computed from the catalog."""

    def __init__(self, node: VirtualTableScan) -> None:
        super().__init__(node.columns)
        self.node = node

    @cached_property
    def lookup_value(self) -> Callable[[State], tuple[Any, ...]]:
        assert self.node.lookup_value is not None
        return evaluator([self.node.lookup_value])

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        node = self.node
        if node.lookup_value is not None:
            (value,) = self.lookup_value(state)
            if value is None:
                return
            source = node.table.lookups[node.lookup_column](state.run.catalog, state.context, value)
        elif node.table.gather is not None and node.table.rows_gathered is not None:
            gathered = await node.table.gather(state.context)
            source = node.table.rows_gathered(state.run.catalog, state.context, gathered)
        else:
            source = node.table.rows(state.run.catalog, state.context)
        iterator = iter(source)
        positions = node.positions
        while batch := [tuple([row[position] for position in positions]) for row in islice(iterator, BATCH_ROWS)]:
            yield batch
            await state.breathe()
