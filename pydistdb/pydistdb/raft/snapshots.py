"""Snapshots in chunks: both ends.

Theory of operation
-------------------
When a follower needs entries that are compacted, the leader opens a ``SnapshotReader`` and streams it: at most
``max_snapshot_chunks_inflight`` chunks are read but unacknowledged at a time, so neither side holds more than that in
memory.  The receiver hands each chunk out for staging in its next Ready and acknowledges it when that is durable; with
the last one comes ``Ready.snapshot``, which says: install what was staged.

    leader    chunk 0, 1, 2, 3 ──▶                          chunk 4 (last) ──▶
    follower                    ◀── expected 2, 4                             ◀── AppendResponse(meta.index)

A chunk out of order is dropped and answered with the number that was expected; the leader then goes back to it (at once
the first time, later by a timer).  Every attempt has its own ``stream`` number, so chunks of an abandoned one can't be
mixed in.  A receiver that has lost its staging (a restart) expects 0; if nothing moves until the timer runs out the
leader starts over.

The reader sets the pace: while it holds back (``may_read``) no chunk is asked of it, and every tick tries again.
"""

from __future__ import annotations

from .messages import AppendResponse, InstallSnapshot, PeerId, SnapshotResponse
from .state import IncomingSnapshot, State
from .tracker import PeerState, Progress, SnapshotSender

CHUNKS_AT_ONCE = 2
"""Chunks read in one go, for which statements wait.  Every answer makes room for one, so the window opens by itself."""


MOST_IDLE_PERIODS = 20
"""How often chunks are sent again without an answer before a new snapshot is taken."""


def start_snapshot(state: State, progress: Progress) -> None:
    """Open a snapshot for a follower whose next entry is gone; if the store can't now, ask again after a heartbeat, or once
    more has been applied."""
    reader = state.storage.snapshot(progress.peer)
    if reader is None:
        state.snapshot_refused = True
        if progress.state is not PeerState.PROBE:
            progress.become_probe()
        progress.paused = True
        progress.poke = True
        return
    state.snapshot_stream += 1
    progress.become_snapshot(SnapshotSender(reader, state.snapshot_stream))
    pump_snapshot(state, progress)


def retry_snapshots(state: State) -> None:
    """Ask again for the snapshots that the store could not give."""
    state.snapshot_refused = False
    for progress in state.followers:
        if progress.state is PeerState.PROBE and progress.paused and progress.poke:
            progress.paused = False
            state.append_wanted = True


def pump_snapshot(state: State, progress: Progress) -> None:
    """Fill the window, a little at a time."""
    sender = progress.sender
    assert sender is not None, "a follower in SNAPSHOT state has a sender"
    config = state.config
    room = min(config.max_snapshot_chunks_inflight, len(sender.unacked) + CHUNKS_AT_ONCE)
    while not sender.all_read and len(sender.unacked) < room and sender.reader.may_read():
        data, done = sender.reader.read(config.snapshot_chunk_bytes)
        chunk = (sender.next_number, data, done)
        sender.next_number += 1
        sender.unacked.append(chunk)
        sender.all_read = done
        _send_chunk(state, progress.peer, sender, chunk)


def _send_chunk(state: State, peer: PeerId, sender: SnapshotSender, chunk: tuple[int, bytes, bool]) -> None:
    number, data, done = chunk
    state.messages.append(
        InstallSnapshot(peer, state.peer, state.term, sender.stream, sender.reader.meta, number, data, done)
    )


def handle_snapshot_response(state: State, message: SnapshotResponse) -> None:
    progress = state.progress.get(message.sender)
    if progress is None:
        return
    progress.recent_active = True
    sender = progress.sender
    if sender is None or sender.stream != message.stream:
        return
    unacked = sender.unacked
    news = False
    while unacked and unacked[0][0] < message.expected:
        unacked.popleft()
        news = True
    if news:
        sender.idle_ticks = sender.idle_periods = 0
        sender.seems_lost = False
        state.append_wanted = True
    elif message.expected < sender.next_number - len(unacked):
        sender.seems_lost = True  # or this is an old answer: see whether anything moves until the timer runs out
    elif unacked and sender.resent_number < message.expected:
        sender.resent_number = message.expected
        for chunk in unacked:
            _send_chunk(state, progress.peer, sender, chunk)


def restart_snapshot(state: State, progress: Progress) -> None:
    """Give this attempt up and look anew at where the follower stands."""
    progress.become_probe()
    progress.poke = True
    state.append_wanted = True


def snapshot_is_of_no_use(progress: Progress) -> bool:
    """Whether the follower has all that the snapshot brings: it takes no chunk of it then, however often it is sent."""
    sender = progress.sender
    return sender is not None and progress.match >= sender.reader.meta.index


def tick_snapshot(state: State, progress: Progress) -> None:
    """Send again what was not acknowledged for too long."""
    sender = progress.sender
    if sender is None:
        return
    pump_snapshot(state, progress)  # the reader may have held back
    sender.idle_ticks += 1
    if sender.idle_ticks < state.config.snapshot_resend_ticks:
        return
    sender.idle_ticks = 0
    if sender.seems_lost:
        restart_snapshot(state, progress)
    elif sender.unacked:
        sender.idle_periods += 1
        if sender.idle_periods >= MOST_IDLE_PERIODS:
            restart_snapshot(state, progress)  # it may be refused for what it brings, which has changed since
            return
        for chunk in sender.unacked:
            _send_chunk(state, progress.peer, sender, chunk)
    elif sender.all_read:
        snapshot_delivered(state, progress)


def snapshot_delivered(state: State, progress: Progress) -> None:
    """All has arrived, but no word that it is installed: ask with an append right behind it."""
    sender = progress.sender
    if sender is None:
        return
    behind = sender.reader.meta.index + 1
    progress.become_probe()
    progress.next = max(progress.next, behind)
    progress.poke = True
    state.append_wanted = True


def handle_install_snapshot(state: State, message: InstallSnapshot) -> None:
    """Take a chunk: stage it, and with the last one begin anew behind the snapshot."""
    log = state.log
    meta = message.meta
    if state.snapshot is not None:
        return
    if meta.index > log.committed and log.matches(meta.index, meta.term):
        log.commit_to(meta.index)  # everything up to there is here already
    if meta.index <= log.committed:
        state.incoming = None
        state.messages_after_persist.append(AppendResponse(message.sender, state.peer, state.term, log.committed))
        return
    incoming = state.incoming
    known = (
        incoming is not None
        and incoming.sender == message.sender
        and incoming.term == message.term
        and incoming.stream == message.stream
    )
    if not known:
        if incoming is not None and incoming.is_newer_than(message):
            return
        if message.number == 0:
            state.incoming = incoming = IncomingSnapshot(message.sender, message.term, message.stream)
        else:
            state.messages.append(SnapshotResponse(message.sender, state.peer, state.term, message.stream, 0))
            return
    assert incoming is not None
    if message.number == incoming.expected:
        incoming.expected += 1
        state.snapshot_chunks.append(message)
        if message.done:
            state.incoming = None
            log.restore(meta)
            state.set_membership(meta.membership)
            state.snapshot = meta
            state.messages_after_persist.append(AppendResponse(message.sender, state.peer, state.term, meta.index))
    state.messages_after_persist.append(
        SnapshotResponse(message.sender, state.peer, state.term, message.stream, incoming.expected)
    )
