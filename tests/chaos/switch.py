"""The network between the nodes of a chaos run: a switch in user space that can lose, delay and cut.

    python -m tests.chaos.switch NAMESPACE NAMESPACE ...

Every node lives in a network namespace.  Its way to the other nodes is a TUN device there, ``data``, whose other end is this
process: what it reads from one device it writes to another, if the rules say so.  So the kernel's own TCP meets real loss and
delay, and a cut looks like a pulled cable: nothing is refused, nothing comes.  (Linux has tc netem and nftables for that;
not every kernel has them, whereas TUN is everywhere.)

Rules come as lines of JSON on standard input, each the whole of them: ``{"cut": [[1, 2]], "loss": 0.1, "delay_ms": [20, 60]}``;
``[1, 2]`` cuts what node 1 sends to node 2, and only that direction.  Node N has the address 10.212.0.N.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from pathlib import Path

DEVICE = "data"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_SOURCE, _TARGET = 15, 19
"""Where an IPv4 packet has the last byte of its addresses."""


def open_device(namespace: str) -> int:
    """Make the device in a namespace; returns this end of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/net").open() as home, Path("/run/netns", namespace).open() as away:
        if libc.setns(away.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace}")
        try:
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
        finally:
            libc.setns(home.fileno(), _CLONE_NEWNET)
    return device


class Switch:
    def __init__(self, devices: dict[int, int], seed: int = 0) -> None:
        self._devices = devices
        self._rand = random.Random(seed)
        self._cut: set[tuple[int, int]] = set()
        self._loss = 0.0
        self._delay = (0.0, 0.0)
        self._flying: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._arrival: dict[tuple[int, int], float] = {}

    def rule(self, line: str) -> None:
        rules = json.loads(line)
        self._cut = {(source, target) for source, target in rules.get("cut", ())}
        self._loss = rules.get("loss", 0.0)
        low, high = rules.get("delay_ms", (0.0, 0.0))
        self._delay = (low / 1_000, high / 1_000)

    def take(self, packet: bytes) -> None:
        """Pass a packet on, now or later or never; packets of one pair stay in order."""
        if packet[0] >> 4 != 4:
            return
        source, target = packet[_SOURCE], packet[_TARGET]
        if target not in self._devices or (source, target) in self._cut or self._rand.random() < self._loss:
            return
        if not self._delay[1] and not self._flying:
            self._deliver(target, packet)
            return
        at = max(time.monotonic() + self._rand.uniform(*self._delay), self._arrival.get((source, target), 0.0))
        self._arrival[source, target] = at
        self._count += 1
        heapq.heappush(self._flying, (at, self._count, target, packet))

    def _deliver(self, target: int, packet: bytes) -> None:
        try:
            os.write(self._devices[target], packet)
        except OSError:
            pass  # the device is down or its queue full: a lost packet

    def run(self) -> None:
        poll = select.epoll()
        for device in (*self._devices.values(), 0):
            poll.register(device, select.EPOLLIN)
        while True:
            now = time.monotonic()
            while self._flying and self._flying[0][0] <= now:
                _, _, target, packet = heapq.heappop(self._flying)
                self._deliver(target, packet)
            wait = max(0.0, self._flying[0][0] - now) if self._flying else -1
            for ready, _ in poll.poll(wait):
                if ready == 0:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    self.rule(line)
                else:
                    self._drain(ready)

    def _drain(self, device: int) -> None:
        for _ in range(64):
            try:
                packet = os.read(device, 65_536)
            except OSError:
                return
            self.take(packet)


def main() -> None:
    devices = {number: open_device(namespace) for number, namespace in enumerate(sys.argv[1:], 1)}
    print("ready", flush=True)
    Switch(devices).run()


if __name__ == "__main__":
    main()
