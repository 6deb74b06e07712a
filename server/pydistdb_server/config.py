"""What a node process is told: command line to ``NodeConfig``, with every fault explained before anything is opened."""

from __future__ import annotations

import argparse
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydistdb.kv.descriptor import MAX_REPLICATION_FACTOR
from pydistdb.kv.garbage import DEFAULT_TTL_SECONDS
from pydistdb.kv.hlc import DEFAULT_MAX_OFFSET_NS
from pydistdb.sql.resources import machine_memory_bytes

from pydistdb_server import logs
from pydistdb_server.authentication import METHODS
from pydistdb_server.clients import DEFAULT_MAX_CONNECTIONS

DEFAULT_LISTEN = "127.0.0.1:5433"
MAX_NAME_LENGTH = 63
MAX_NODE_ID = 1_000
SHORTEST_GC_TTL_NS = 10_000_000_000
SMALLEST_SQL_MEMORY_BYTES = 16 << 20
LONGEST_GC_TTL_NS = 720 * 3_600_000_000_000


class ConfigError(Exception):
    """Something in the configuration that the user can mend; the message says what."""


@dataclass(frozen=True, slots=True)
class Address:
    """``host:port``."""

    host: str
    port: int

    @staticmethod
    def parse(text: str, option: str) -> Address:
        host, separator, port = text.rpartition(":")
        host = host.strip("[]")
        if not separator or not host or not port.isdigit() or not 0 <= int(port) <= 65_535:
            raise ConfigError(f"{option}: {text!r} is not HOST:PORT")
        return Address(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            pass
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError:
            return False
        return all(ipaddress.ip_address(str(entry[4][0])).is_loopback for entry in found)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """How one node runs.  ``join`` empty: the node makes a new cluster, or goes on with the one in its store."""

    store: Path
    node_name: str = "node1"
    node_id: int = 0
    """The number to ask for when joining; 0: any."""
    listen: Address = Address("127.0.0.1", 5433)
    rpc_listen: Address | None = None
    """None: nobody can join, and nobody is joined; the node is a database of its own."""
    http_listen: Address | None = None
    advertise_host: str = ""
    """What other nodes and clients are told instead of a listening address such as 0.0.0.0."""
    join: tuple[Address, ...] = ()
    replication_factor: int = 3
    locality: tuple[tuple[str, str], ...] = ()
    insecure: bool = False
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    max_clock_offset_ns: int = DEFAULT_MAX_OFFSET_NS
    gc_ttl_ns: int = int(DEFAULT_TTL_SECONDS * 1e9)
    closed_interval_ns: int = 600_000_000
    """How long a replaced row version stays readable (for transactions that began before)."""
    max_sql_memory_bytes: int = 0
    """What all queries together may keep in memory; 0: a quarter of the machine's."""
    log_statements: bool = False
    log_format: str = "text"
    auth: str = "trust"
    """How clients prove who they are: trust (they need not) or scram-sha-256."""

    def check(self) -> None:
        """Raise ConfigError for what cannot work."""
        if not self.node_name or len(self.node_name) > MAX_NAME_LENGTH or not self.node_name.isprintable():
            raise ConfigError(f"--node-name must have 1 to {MAX_NAME_LENGTH} printable characters")
        if not 0 <= self.node_id <= MAX_NODE_ID:
            raise ConfigError(f"--node-id must be between 1 and {MAX_NODE_ID}")
        if not 1 <= self.replication_factor <= MAX_REPLICATION_FACTOR:
            raise ConfigError(f"--replication-factor must be between 1 and {MAX_REPLICATION_FACTOR}")
        if not 1 <= self.max_connections <= 100_000:
            raise ConfigError("--max-connections must be between 1 and 100000")
        if not 1_000_000 <= self.max_clock_offset_ns <= 10_000_000_000:
            raise ConfigError("--max-clock-offset must be between 1ms and 10s")
        if not SHORTEST_GC_TTL_NS <= self.gc_ttl_ns <= LONGEST_GC_TTL_NS:
            raise ConfigError("--gc-ttl must be between 10s and 720h")
        if not 200_000_000 <= self.closed_interval_ns <= 60_000_000_000:
            raise ConfigError("--closed-timestamp-interval must be between 200ms and 1min")
        if self.join and self.rpc_listen is None:
            raise ConfigError("--join needs --rpc-listen: the other nodes must be able to reach this one")
        for option, address in (
            ("--listen", self.listen),
            ("--rpc-listen", self.rpc_listen),
            ("--http-listen", self.http_listen),
        ):
            if address is None or address.is_loopback or self.insecure:
                continue
            if option == "--listen":
                if self.auth == "trust":
                    raise ConfigError(
                        f"--listen {address} can be reached from other machines, and --auth trust asks for no password: "
                        "listen on 127.0.0.1, use --auth scram-sha-256, or say --insecure if the network is trusted"
                    )
                continue
            raise ConfigError(
                f"{option} {address} can be reached from other machines, and has no authentication: "
                "listen on 127.0.0.1, or say --insecure if the network is trusted"
            )
        if self.store.exists() and not self.store.is_dir():
            raise ConfigError(f"--store {self.store} is not a folder")

    def advertised(self, address: Address | None, port: int = 0) -> str:
        """What others are told to connect to."""
        if address is None:
            return ""
        return str(Address(self.advertise_host or address.host, port or address.port))


def parse_arguments(arguments: Sequence[str] | None = None) -> NodeConfig:
    """The configuration that a command line asks for; raises ConfigError."""
    given = _parser().parse_args(arguments)
    rpc_listen = Address.parse(given.rpc_listen, "--rpc-listen") if given.rpc_listen else None
    config = NodeConfig(
        store=Path(given.store),
        node_name=given.node_name,
        node_id=given.node_id,
        listen=Address.parse(given.listen, "--listen"),
        rpc_listen=rpc_listen,
        http_listen=Address.parse(given.http_listen, "--http-listen") if given.http_listen else None,
        advertise_host=given.advertise_host,
        join=tuple(Address.parse(seed, "--join") for seed in given.join.split(",") if seed),
        replication_factor=given.replication_factor if rpc_listen is not None else 1,
        locality=_locality(given.locality),
        insecure=given.insecure,
        max_connections=given.max_connections,
        max_clock_offset_ns=_duration_ns(given.max_clock_offset, "--max-clock-offset"),
        gc_ttl_ns=_duration_ns(given.gc_ttl, "--gc-ttl"),
        closed_interval_ns=_duration_ns(given.closed_timestamp_interval, "--closed-timestamp-interval"),
        max_sql_memory_bytes=_memory_bytes(given.max_sql_memory, "--max-sql-memory"),
        log_statements=given.log_statements,
        log_format=given.log_format,
        auth=given.auth,
    )
    config.check()
    return config


_UNITS_NS = (
    ("ms", 1_000_000),
    ("us", 1_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("s", 1_000_000_000),
)


def _locality(text: str) -> tuple[tuple[str, str], ...]:
    tiers = []
    for tier in filter(None, text.split(",")):
        key, separator, value = tier.partition("=")
        if not separator or not key or not value:
            raise ConfigError(f"--locality: {tier!r} is not KEY=VALUE")
        tiers.append((key.strip(), value.strip()))
    return tuple(tiers)


_UNITS_BYTES = {"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


def _memory_bytes(text: str, option: str) -> int:
    percent = text.removesuffix("%")
    if percent != text and percent.isdigit() and 1 <= int(percent) <= 100:
        return machine_memory_bytes() * int(percent) // 100
    number, unit = text[:-2], text[-2:]
    if number.isdigit() and unit in _UNITS_BYTES and int(number) * _UNITS_BYTES[unit] >= SMALLEST_SQL_MEMORY_BYTES:
        return int(number) * _UNITS_BYTES[unit]
    raise ConfigError(f"{option}: {text!r} is not a size such as 512MB, 4GB or 25%, of at least 16MB")


def _duration_ns(text: str, option: str) -> int:
    for suffix, factor in _UNITS_NS:
        number = text.removesuffix(suffix)
        if number != text and number.replace(".", "", 1).isdigit():
            return int(float(number) * factor)
    raise ConfigError(f"{option}: {text!r} is not a duration such as 250ms, 30s, 5min or 2h")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="proddb start", description="Run a PyDistDB node: a database that Postgres clients connect to."
    )
    parser.add_argument("--store", required=True, metavar="DIR", help="folder of this node's data; made if need be")
    parser.add_argument(
        "--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="SQL clients (default %(default)s)"
    )
    parser.add_argument("--rpc-listen", metavar="HOST:PORT", help="other nodes (default: a database of its own)")
    parser.add_argument("--http-listen", metavar="HOST:PORT", help="console, /health, /metrics … (default: none)")
    parser.add_argument("--advertise-host", default="", metavar="HOST", help="what others connect to, if not the above")
    parser.add_argument(
        "--join", default="", metavar="HOST:PORT,…", help="--rpc-listen of nodes of an existing cluster"
    )
    parser.add_argument("--node-name", default="node1", metavar="NAME", help="(default %(default)s)")
    parser.add_argument(
        "--node-id", type=int, default=0, metavar="N", help="number to ask for when joining (default: the next one)"
    )
    parser.add_argument("--replication-factor", type=int, default=3, metavar="N", help="of a new cluster (default 3)")
    parser.add_argument(
        "--locality", default="", metavar="KEY=VALUE,…", help="where this node stands: region=eu,zone=a"
    )
    parser.add_argument("--max-connections", type=int, default=DEFAULT_MAX_CONNECTIONS, metavar="N")
    parser.add_argument("--max-clock-offset", default="250ms", metavar="TIME", help="(default %(default)s)")
    parser.add_argument(
        "--gc-ttl",
        default="5min",
        metavar="TIME",
        help="how long replaced row versions are kept for older transactions (default %(default)s)",
    )
    parser.add_argument(
        "--closed-timestamp-interval",
        default="600ms",
        metavar="TIME",
        help="how often followers are told up to when they are complete (default %(default)s)",
    )
    parser.add_argument(
        "--max-sql-memory",
        default="25%",
        metavar="SIZE",
        help="what all queries together may keep in memory: 512MB, 4GB, 10%% of the machine's (default 25%%)",
    )
    parser.add_argument("--log-format", choices=logs.FORMATS, default="text", help="of the log (default %(default)s)")
    parser.add_argument("--log-statements", action="store_true", help="write every statement to the log")
    parser.add_argument(
        "--auth", choices=METHODS, default="trust", help="what clients are asked for (default %(default)s: nothing)"
    )
    parser.add_argument("--insecure", action="store_true", help="allow listening where other machines can reach it")
    return parser
