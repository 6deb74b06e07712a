"""The cluster under test: node processes, each in a network namespace of its own where the machine allows that.

In namespaces a node has two ways out: ``data``, through the switch to the other nodes (switch.py), and ``ctl``, a pair of
virtual cables to this process, over which clients come and nothing is ever cut.  Without the right to make namespaces (root,
``ip``, ``/dev/net/tun``) the nodes share the loopback, and faults of the network are left out; likewise a small file system of
a node's own, which a full disk needs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydistdb_tools.local_cluster import fetch_status, free_base_port

from tests.chaos.node import Faults
from tests.chaos.switch import DEVICE

READY_SECONDS = 60.0
STORE_MEGABYTES = 192
_FIRST_PORT = 10_000 + os.getpid() % 70 * 300


@dataclass
class Node:
    number: int
    folder: Path
    address: str
    data_address: str
    ports: tuple[int, int, int]
    namespace: str = ""
    process: subprocess.Popen[bytes] | None = None
    paused: bool = False
    is_wanted: bool = True
    """False while it is meant to be down."""
    absences: list[list[float]] = field(default_factory=list)
    """From when until when it was down, on the monotonic clock; no second moment: it is still."""
    ballast: Path = field(init=False)
    faults: Faults = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.faults = Faults(self.folder / "faults")
        self.store = self.folder / "disk" / "store"
        self.ballast = self.folder / "disk" / "ballast"
        self.ballast.parent.mkdir()

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{self.address}:{self.ports[0]}/postgres"

    @property
    def http(self) -> str:
        return f"{self.address}:{self.ports[1]}"

    def signal(self, number: int) -> None:
        if self.process is not None and self.running:
            self.process.send_signal(number)

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.http}/health", timeout=1):
                return True
        except OSError:
            return False


class ChaosCluster:
    """``with ChaosCluster(folder, 3) as cluster``: started, and gone without trace afterwards (but for the folder)."""

    def __init__(self, folder: Path, count: int, replication_factor: int = 0) -> None:
        self.folder = folder
        self.replication_factor = replication_factor or count
        self.skipped: list[str] = []
        """What this machine does not allow."""
        self._switch: subprocess.Popen[str] | None = None
        self._has_begun = False
        self._mounted: list[Path] = []
        self._tag = f"pc{os.getpid() % 100_000:05}"
        self.nodes: list[Node] = []
        self.has_network = can_make_namespaces()
        self._net = _free_net() if self.has_network else ""
        if not self.has_network:
            self.skipped.append("no network namespaces (root, ip and /dev/net/tun are needed): faults of the network")
        base = 5433 if self.has_network else free_base_port(_FIRST_PORT, count)
        for number in range(1, count + 1):
            offset = 0 if self.has_network else number - 1
            ports = (base + offset, base + 100 + offset, base + 200 + offset)
            address = f"{self._net}.{number}.2" if self.has_network else "127.0.0.1"
            data_address = f"10.212.0.{number}" if self.has_network else "127.0.0.1"
            namespace = f"{self._tag}n{number}" if self.has_network else ""
            self.nodes.append(Node(number, folder / f"n{number}", address, data_address, ports, namespace))
        self.has_small_disks = self._mount_disks()

    def __enter__(self) -> ChaosCluster:
        try:
            if self.has_network:
                self._lay_cables()
            self.start(self.nodes[0])
            self.wait_ready(self.nodes[:1])
            for node in self.nodes[1:]:
                self.start(node)
            self.wait_ready(self.nodes)
            self.wait_replicated()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------- surroundings

    def _lay_cables(self) -> None:
        for node in self.nodes:
            cable = f"{self._tag}c{node.number}"
            _ip("netns", "add", node.namespace)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "ctl", "netns", node.namespace)
            _ip("addr", "add", f"{self._net}.{node.number}.1/30", "dev", cable)
            _ip("link", "set", cable, "up")
            _ip("-n", node.namespace, "addr", "add", f"{node.address}/30", "dev", "ctl")
            for device in ("lo", "ctl"):
                _ip("-n", node.namespace, "link", "set", device, "up")
        command = [sys.executable, "-m", "tests.chaos.switch", *(node.namespace for node in self.nodes)]
        self._switch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._switch.stdout is not None
        if self._switch.stdout.readline() != "ready\n":
            raise RuntimeError("the switch does not start")
        for node in self.nodes:
            _ip("-n", node.namespace, "addr", "add", f"{node.data_address}/24", "dev", DEVICE)
            _ip("-n", node.namespace, "link", "set", DEVICE, "up")

    def network(self, **rules: Any) -> None:
        """Tell the switch its rules; none: all is well."""
        if self._switch is not None and self._switch.stdin is not None:
            self._switch.stdin.write(json.dumps(rules) + "\n")
            self._switch.stdin.flush()

    def _mount_disks(self) -> bool:
        for node in self.nodes:
            disk = node.ballast.parent
            mount = ["mount", "-t", "tmpfs", "-o", f"size={STORE_MEGABYTES}m", "chaos", str(disk)]
            try:
                done = subprocess.run(mount, capture_output=True, check=False)
            except FileNotFoundError:
                done = None
            if done is None or done.returncode:
                self.skipped.append("no file systems of the nodes' own (tmpfs): full disks")
                return False
            self._mounted.append(disk)
        return True

    def close(self) -> None:
        for node in self.nodes:
            node.is_wanted = False
            self.kill(node)
        if self._switch is not None:
            self._switch.kill()
            self._switch.wait()
            for node in self.nodes:
                subprocess.run(["ip", "link", "del", f"{self._tag}c{node.number}"], check=False)
                subprocess.run(["ip", "netns", "del", node.namespace], check=False)
        for disk in self._mounted:
            subprocess.run(["umount", "-l", str(disk)], check=False)

    # ------------------------------------------------------------------------------------------------------- nodes

    def start(self, node: Node) -> None:
        host = node.data_address
        command = ["ip", "netns", "exec", node.namespace] if node.namespace else []
        command += [sys.executable, "-m", "tests.chaos.node", str(node.folder / "faults")]
        command += ["--store", str(node.store), "--node-name", node.name, "--insecure"]
        command += ["--listen", f"{node.address}:{node.ports[0]}", "--http-listen", f"{node.address}:{node.ports[1]}"]
        command += ["--rpc-listen", f"{host}:{node.ports[2]}"]
        others = [f"{other.data_address}:{other.ports[2]}" for other in self.nodes if other is not node]
        if node is not self.nodes[0] or self._has_begun:
            command += ["--join", ",".join(others)]
        else:
            command += ["--replication-factor", str(self.replication_factor)]
        self._has_begun = True
        with (node.folder / "log").open("ab") as log:
            node.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        node.paused = False
        node.is_wanted = True
        if node.absences:
            node.absences[-1].append(time.monotonic())

    def kill(self, node: Node) -> None:
        node.absences.append([time.monotonic()])
        node.signal(signal.SIGKILL)
        if node.process is not None:
            node.process.wait()

    def stop(self, node: Node) -> None:
        """SIGTERM, and wait."""
        node.absences.append([time.monotonic()])
        node.signal(signal.SIGTERM)
        if node.process is not None:
            node.process.wait(30)

    def erase(self, node: Node) -> None:
        """What a node that is down has stored is lost."""
        shutil.rmtree(node.store)

    def pause(self, node: Node) -> None:
        node.signal(signal.SIGSTOP)
        node.paused = True

    def resume(self, node: Node) -> None:
        node.signal(signal.SIGCONT)
        node.paused = False

    def fill_disk(self, node: Node) -> None:
        size, step = 0, 1 << 24
        with node.ballast.open("wb") as file:
            while step >= 4096:  # the node goes on writing meanwhile
                try:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
                except OSError:
                    step //= 2

    def empty_disk(self, node: Node) -> None:
        node.ballast.unlink(missing_ok=True)

    def wait_ready(self, nodes: list[Node]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not all(node.is_healthy() for node in nodes):
            dead = [node.name for node in nodes if not node.running]
            if dead or time.monotonic() > deadline:
                raise RuntimeError(f"not ready: {dead or [node.name for node in nodes if not node.is_healthy()]}")
            time.sleep(0.2)

    def status(self) -> dict[str, Any] | None:
        """The cluster's status as any node tells it."""
        for node in self.nodes:
            if node.running and not node.paused and (found := fetch_status(node.http, 2.0)) is not None:
                return found
        return None

    def wait_replicated(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            status = self.status()
            voters = [
                sum(replica["role"] in ("leader", "follower") for replica in item["replicas"])
                for item in (status["ranges"] if status else ())
            ]
            if voters and min(voters) == self.replication_factor:
                return
            time.sleep(0.3)
        raise RuntimeError("the ranges do not get their replicas")

    def leader_of_most(self) -> Node:
        """The node that leads most ranges (any, if nobody can tell)."""
        status = self.status()
        if status is None:
            return self.nodes[0]
        names = {node["id"]: node["name"] for node in status["nodes"]}
        leaders = [names.get(item["leader"]) for item in status["ranges"]]
        name = max(set(leaders), key=leaders.count)
        return next((node for node in self.nodes if node.name == name), self.nodes[0])


def can_make_namespaces() -> bool:
    """Whether this machine lets us make namespaces with devices."""
    if os.geteuid() or shutil.which("ip") is None or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return False
    probe = f"pcprobe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return False
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return True


def _free_net() -> str:
    """The beginning of the addresses of this cluster's cables: no other run on this machine may have the same."""
    taken = _ip("-4", "addr")
    first = os.getpid() % 100
    return next(net for n in range(100) if f" {(net := f'10.{100 + (first + n) % 100}')}." not in taken)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
