"""A fragment at the leaseholder: compiled once by the executor's own code, then run over chunks of entries.

``run_fragment(text, arguments, node)`` is what a node registers with its range server (kv/fragments.py)::

    gateway.server.fragments.start = partial(run_fragment, node=resources)

Compiled fragments are kept by their text, the MOST_COMPILED used last.  What is done to their rows is in tail_run.py; whole
parts of a plan, with joins, are run by part_run.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from pydistdb.kv.fragments import FragmentRun
from pydistdb.sql.exec.fragment import Arguments, decode_arguments, decode_text
from pydistdb.sql.exec.kept import kept
from pydistdb.sql.exec.key_filter import KeyFilter
from pydistdb.sql.exec.last_answers import unless_known
from pydistdb.sql.exec.part import NAME_HEAD, PART_HEAD
from pydistdb.sql.exec.part_run import part_run
from pydistdb.sql.exec.scan import of_identity
from pydistdb.sql.exec.tail_run import Compiled, leaf_of
from pydistdb.sql.exec.tree_codec import load
from pydistdb.sql.layout import picks_of
from pydistdb.sql.resources import NodeResources
from pydistdb.sql.sampling import SAMPLE_TEXT, SampleRun
from pydistdb.sql.sampling import decode_arguments as decode_sample_arguments

MOST_COMPILED = 256
_ARRAY_BYTES = 16


class CompiledFragment(Compiled):
    """A scan with its tail."""

    def __init__(self, data: bytes) -> None:
        text = decode_text(data)
        columns, condition, output_columns, output, outer, parameters, *tail, filter_keys = load(text.tree)
        self.scan = self.rows = leaf_of(text, columns, condition).project(output_columns, output)
        self.outer = outer
        self.parameters = parameters
        self.set_tail(text.kind, *tail)
        self.rows.filter_keys = filter_keys


compiled = lru_cache(maxsize=MOST_COMPILED)(CompiledFragment)


def run_fragment(text: bytes, arguments: bytes, node: NodeResources | None = None) -> FragmentRun:
    """Begin a run, which counts what it holds for ``node``; raises whatever is wrong with the fragment."""
    if text == SAMPLE_TEXT:
        return SampleRun(decode_sample_arguments(arguments))
    values = decode_arguments(arguments)
    if text.startswith((PART_HEAD, NAME_HEAD)):
        return part_run(text, values, node)
    return ScanRun(compiled(text), values, node)


class ScanRun:
    """The rows of a scan, through their tail."""

    is_upkeep = False

    def __init__(self, fragment: CompiledFragment, arguments: Arguments, node: NodeResources | None) -> None:
        self.fragment = fragment
        self.state = fragment.state(arguments, node)
        self.identity = arguments.identity
        self.picks = picks_of(self.identity)
        self.known = arguments.known
        self.tail = fragment.make(fragment, self.state, arguments.wanted)
        self.keys: KeyFilter | None = None
        if arguments.tables:
            if arguments.blocks:
                kept.put(arguments.tables, arguments.blocks)
            self.keys = KeyFilter(kept.get(arguments.tables)[0])

    def take(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        if self.identity:
            keys, values = of_identity(keys, values, self.identity)
        if keys:
            rows = self.fragment.rows.decode(keys, values, self.state)
            if self.keys is not None:
                rows = self.fragment.rows.filtered(rows, self.state, self.keys.may_hold)
            if rows:
                self.tail.bytes += len(rows) * (sum(map(len, values)) // len(values) + _ARRAY_BYTES)
                self.tail.add(rows)

    def step(self) -> bool:
        return False

    def close(self, resume: bytes | None, end: bytes) -> bytes | None:
        return resume

    @property
    def is_full(self) -> bool:
        return self.tail.is_full

    def outgoing(self) -> Sequence[tuple[int, bytes]]:
        return ()

    def finish(self) -> bytes:
        return unless_known(self.tail.finish(), self.known)

    @property
    def peaks_bytes(self) -> tuple[int, int]:
        return self.state.resources.peaks_bytes

    def release(self) -> None:
        self.state.close()
