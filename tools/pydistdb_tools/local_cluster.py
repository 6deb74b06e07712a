"""A cluster of node processes on this machine: start them, remember them, stop them.

``proddb init`` keeps what it knows in ``DIR/cluster.json``: per node its name, addresses, store folder, and the process
it runs as.  A process is known by pid *and* start time (``/proc/PID/stat``), so that a recycled pid is never signalled.

The first node bootstraps the cluster; the others join it and receive replicas until every range has as many as the
replication factor says.  Ports: SQL on ``base .. base+N-1``, HTTP 100 above, node-to-node 200 above.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import ascii_letters
from typing import Any

from pydistdb_tools.errors import ClusterError

FILE_NAME = "cluster.json"
DEFAULT_FOLDER = Path("proddb-data")
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 20.0
MAX_NODES = 64

Report = Callable[[str], None]


@dataclass
class LocalNode:
    """One node process; ``started`` is its kernel start time in clock ticks, 0 when it is not running."""

    name: str
    sql_port: int
    http_port: int
    rpc_port: int
    store: str
    log: str
    locality: str = ""
    pid: int = 0
    started: int = 0

    @property
    def running(self) -> bool:
        return self.pid > 0 and _start_time(self.pid) == self.started

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.sql_port}/postgres"


@dataclass
class LocalCluster:
    """What ``cluster.json`` holds."""

    folder: Path
    replication_factor: int
    nodes: list[LocalNode] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> LocalCluster:
        """Read ``folder``'s file; raises ClusterError if there is none or it is damaged."""
        path = folder / FILE_NAME
        try:
            content = json.loads(path.read_text())
            nodes = [LocalNode(**node) for node in content["nodes"]]
            return cls(folder, int(content["replication_factor"]), nodes)
        except FileNotFoundError:
            raise ClusterError(
                f"no cluster in {folder} (there is no {FILE_NAME}); make one with: proddb init"
            ) from None
        except OSError as error:
            raise ClusterError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ClusterError(f"{path} is damaged: {error}") from error

    def save(self) -> None:
        path = self.folder / FILE_NAME
        content = {"replication_factor": self.replication_factor, "nodes": [asdict(node) for node in self.nodes]}
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(path)

    def status(self) -> dict[str, Any]:
        """The cluster's status as any living node tells it; raises ClusterError if none does."""
        for node in self.nodes:
            if node.running and (found := fetch_status(f"127.0.0.1:{node.http_port}")) is not None:
                return found
        raise ClusterError(
            f"no node of the cluster in {self.folder} answers; start it with: proddb init --dir {self.folder}"
        )


def fetch_status(http_address: str, timeout_seconds: float = 3.0) -> dict[str, Any] | None:
    """One node's /status as a dictionary; None if it does not answer."""
    import urllib.request  # takes as long to load as all the rest here

    try:
        with urllib.request.urlopen(f"http://{http_address}/status", timeout=timeout_seconds) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (OSError, ValueError):  # a URLError is an OSError
        return None


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _start_time(pid: int) -> int:
    """The kernel's start time of a process in clock ticks since boot; 0 if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat[stat.rindex(")") + 2 :].split()
    return 0 if fields[0] == "Z" else int(fields[19])


def parse_localities(given: Sequence[str]) -> list[str]:
    """Where the nodes stand, in order, as ``proddb start --locality`` takes it.

    Each text is the place of one node, ``region=eu-west-1,zone=eu-west-1a``, or a list of zones, ``eu-west-1a,us-east-1b``,
    one per node, whose last letter names them within their region."""
    found: list[str] = []
    for text in given:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if not parts or (any("=" in part for part in parts) and not all("=" in part[1:-1] for part in parts)):
            raise ClusterError(f"--locality: {text!r} is neither KEY=VALUE,… nor a list of zones such as eu-west-1a,…")
        if "=" in parts[0]:
            found.append(",".join(parts))
        else:
            found += [
                f"region={zone.rstrip(ascii_letters) if zone[-2:-1].isdigit() else zone},zone={zone}" for zone in parts
            ]
    return found


def plan_cluster(
    folder: Path, nodes: int, replication_factor: int, base_port: int, localities: Sequence[str] = ()
) -> LocalCluster:
    """Lay out a new cluster, with the nodes in the given places in turn; raises ClusterError for impossible numbers or
    ports in use."""
    if not 1 <= nodes <= MAX_NODES:
        raise ClusterError(f"--nodes must be between 1 and {MAX_NODES}")
    if not 1 <= replication_factor <= nodes:
        raise ClusterError(f"--replication-factor must be between 1 and the number of nodes ({nodes})")
    if not 1024 <= base_port <= 65535 - 300:
        raise ClusterError("--base-port must be between 1024 and 65235")
    cluster = LocalCluster(folder.resolve(), replication_factor)
    for number in range(1, nodes + 1):
        port = base_port + number - 1
        name = f"node{number}"
        home = cluster.folder / name
        cluster.nodes.append(
            LocalNode(
                name,
                port,
                port + 100,
                port + 200,
                str(home / "store"),
                str(cluster.folder / f"{name}.log"),
                localities[(number - 1) % len(localities)] if localities else "",
            )
        )
    _require_free_ports(cluster.nodes)
    return cluster


def free_base_port(wanted: int, nodes: int) -> int:
    """The first base port at or above ``wanted`` whose cluster of ``nodes`` nodes would find all its ports free."""
    for base in range(wanted, wanted + 2000, 10):
        if all(_is_free(base + offset + node) for node in range(nodes) for offset in (0, 100, 200)):
            return base
    raise ClusterError(f"no {3 * nodes} free ports from {wanted} on")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _require_free_ports(nodes: list[LocalNode]) -> None:
    for port in sorted(port for node in nodes for port in (node.sql_port, node.http_port, node.rpc_port)):
        if not _is_free(port):
            raise ClusterError(f"port {port} is in use; choose another range with --base-port")


def start_node(cluster: LocalCluster, node: LocalNode) -> None:
    """Start one node process in the background; its output goes to its log file."""
    others = [f"127.0.0.1:{other.rpc_port}" for other in cluster.nodes if other is not node]
    command = [sys.executable, "-m", "pydistdb_server", "--store", node.store, "--node-name", node.name]
    command += ["--listen", f"127.0.0.1:{node.sql_port}", "--http-listen", f"127.0.0.1:{node.http_port}"]
    command += ["--rpc-listen", f"127.0.0.1:{node.rpc_port}"]
    if node.locality:
        command += ["--locality", node.locality]
    command += ["--node-id", str(cluster.nodes.index(node) + 1)]  # node2 is node 2, in whatever order they join
    first = node is cluster.nodes[0]
    if not first or (Path(node.store).exists() and others):
        command += ["--join", ",".join(others)]
    if first:
        command += ["--replication-factor", str(cluster.replication_factor)]
    Path(node.store).parent.mkdir(parents=True, exist_ok=True)
    with open(node.log, "ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=node_environment(cluster.folder),
            start_new_session=True,
            close_fds=True,
        )
    node.pid = process.pid
    node.started = _start_time(process.pid)
    cluster.save()


def node_environment(folder: Path) -> dict[str, str]:
    """What the nodes find in their environment: a cache of bytecode where Python may write none beside its source, in ``folder``
    unless the environment names one.

    Without one each node would compile the whole source again, half of the processor time that its start takes."""
    environment = dict(os.environ)
    if environment.pop("PYTHONDONTWRITEBYTECODE", None) and sys.pycache_prefix is None:
        environment.setdefault("PYTHONPYCACHEPREFIX", str(folder / "bytecode"))
    return environment


def start_cluster(cluster: LocalCluster, report: Report) -> None:
    """Start every node that is not running and wait until all serve and every range is fully replicated."""
    cluster.folder.mkdir(parents=True, exist_ok=True)
    waiting = [node for node in cluster.nodes if not node.running]
    first_start = not Path(cluster.nodes[0].store).exists()
    for node in waiting:
        report(f"starting {node.name} (SQL 127.0.0.1:{node.sql_port}, store {node.store})")
        start_node(cluster, node)
        if first_start and node is cluster.nodes[0]:
            _wait_healthy(node)  # the others join it
    for node in waiting:
        _wait_healthy(node)
    wait_replicated(cluster, report)


def _wait_healthy(node: LocalNode) -> None:
    import urllib.request

    for _ in until(START_TIMEOUT_SECONDS):
        if not node.running:
            raise ClusterError(f"{node.name} ended while starting; its log {node.log} ends with:\n{_tail(node.log)}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/health", timeout=2):
                return
        except OSError:
            continue
    raise ClusterError(f"{node.name} did not become ready; its log {node.log} ends with:\n{_tail(node.log)}")


def wait_replicated(cluster: LocalCluster, report: Report) -> None:
    """Wait until every range has a leader and its full number of voters."""
    told = time.monotonic()
    missing = "no status yet"
    for _ in until(START_TIMEOUT_SECONDS):
        try:
            ranges = cluster.status()["ranges"]
        except ClusterError:
            continue
        short = [item for item in ranges if not is_replicated(item, cluster.replication_factor)]
        if ranges and not short:
            return
        missing = f"{len(short)} of {len(ranges)} ranges wait for replicas or a leader"
        if time.monotonic() - told > 2:
            told = time.monotonic()
            report(missing)
    raise ClusterError(f"the cluster serves, but is not fully replicated yet: {missing}")


def is_replicated(item: dict[str, Any], replication_factor: int) -> bool:
    """Whether a range has a leader and its full number of voters: a learner does not count if a node dies."""
    voters = [replica for replica in item["replicas"] if replica["role"] in ("leader", "follower")]
    return bool(item["leader"]) and len(voters) >= replication_factor and len(voters) == len(item["replicas"])


def stop_cluster(cluster: LocalCluster, report: Report, name: str = "") -> None:
    """Stop every node, or the one of that name, with SIGTERM, and with SIGKILL what does not end in time."""
    if name and all(node.name != name for node in cluster.nodes):
        known = ", ".join(node.name for node in cluster.nodes)
        raise ClusterError(f"there is no node {name} in {cluster.folder}; there are {known}")
    running = [node for node in cluster.nodes if node.running and name in ("", node.name)]
    for node in running:
        os.kill(node.pid, signal.SIGTERM)
    for _ in until(STOP_TIMEOUT_SECONDS):
        _reap(running)
        if not any(node.running for node in running):
            break
    for node in running:
        if node.running:
            report(f"{node.name} does not end; killing it (nothing acknowledged is lost)")
            os.kill(node.pid, signal.SIGKILL)
        else:
            report(f"{node.name} stopped")
        node.pid = node.started = 0
    cluster.save()


def _reap(nodes: list[LocalNode]) -> None:
    for node in nodes:
        try:
            os.waitpid(node.pid, os.WNOHANG)
        except ChildProcessError:
            pass  # started by another proddb; init reaps it


def until(timeout_seconds: float) -> Iterator[float]:
    """Go round ten times a second, with the seconds that are left."""
    deadline = time.monotonic() + timeout_seconds
    while (left := deadline - time.monotonic()) > 0:
        yield left
        time.sleep(0.1)


def _tail(path: str, lines: int = 15) -> str:
    try:
        return "\n".join(Path(path).read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(cannot be read: {error})"
