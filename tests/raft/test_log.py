"""The in-memory log against a plain list of entries, under random appends, conflicts, writes, applies and trims."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydistdb.raft import NORMAL, Compacted, Entry, Membership
from pydistdb.raft.log import RaftLog

from tests.raft.disk import Disk

operations = st.lists(
    st.tuples(
        st.sampled_from(["append", "conflict", "write", "persist", "commit", "apply", "trim"]), st.integers(0, 5)
    ),
    max_size=60,
)


@given(operations)
@settings(max_examples=300)
def test_against_model(steps: list[tuple[str, int]]) -> None:
    disk = Disk(Membership())
    log = RaftLog(disk, 0, 0, max_cached_bytes=200)
    model: list[Entry] = []
    writing: deque[list[Entry]] = deque()
    term = 1
    for name, count in steps:
        match name:
            case "append":
                for _ in range(count):
                    entry = Entry(len(model) + 1, term, NORMAL, b"x" * count)
                    model.append(entry)
                    log.append(entry)
            case "conflict":
                term += 1
                keep = max(log.committed, len(model) - count)
                del model[keep:]
                model += [Entry(keep + 1 + step, term, NORMAL, b"y") for step in range(count + 1)]
                log.accept(model[max(0, keep - 1) :])
            case "write":
                if log.writing < log.last_index:
                    writing.append(log.take_unwritten())
            case "persist":
                if writing:
                    entries = writing.popleft()
                    disk._append(entries)
                    log.mark_stable(entries[-1].index, entries[-1].term)
            case "commit":
                log.commit_to(min(log.writing, log.committed + count))
            case "apply":
                if log.stable >= log.committed:
                    applied = log.take_committed(log.committed, 3)
                    if applied:
                        log.mark_applied(applied[-1].index)
            case _:
                log.trim(0)
        assert log.last_index == len(model)
        assert log.last_term == (model[-1].term if model else 0)
        for index in range(1, len(model) + 1):
            assert log.term(index) == model[index - 1].term
            assert log.slice(index, index + 1, 100)[0] == model[index - 1]


def test_slice_limits() -> None:
    log = RaftLog(Disk(Membership()), 0, 0, 1000)
    for index in range(1, 6):
        log.append(Entry(index, 1, NORMAL, b"x" * 10))
    assert len(log.slice(1, 6, 1000)) == 5
    assert len(log.slice(1, 6, 35)) == 3
    assert len(log.slice(1, 6, 1)) == 1  # one entry at least, however large
    assert log.slice(3, 3, 10) == []


def test_compacted() -> None:
    disk = Disk(Membership())
    disk.set_log([1, 1, 2, 2])
    disk.applied = 3
    disk.compact(3)
    log = RaftLog(disk, 3, 3, 1000)
    assert log.term(3) == 2
    for index in (1, 2):
        with pytest.raises(Compacted):
            log.term(index)
    assert log.conflict_hint(4, 1) == (2, 0)
