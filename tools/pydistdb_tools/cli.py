"""``proddb``: the one command.

Every subcommand is a function of the parsed arguments that returns an exit status; ``main`` turns the errors a user can
mend into a line on standard error, or an object with ``--format json`` (``errors.py``), and a status.  Commands that talk to
a cluster take ``--url`` (or ``PRODDB_URL``), any living node's, or ``--dir`` for a cluster made here by ``proddb init``.
What only some commands need, the Postgres driver first of all, is loaded when they run: ``--help`` has not to wait for it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from pydistdb_sqllogictest.arguments import add_arguments as add_slt_arguments

from pydistdb_tools.admin_arguments import add_admin_arguments, add_node_arguments, add_txn_arguments
from pydistdb_tools.errors import ClusterError, Interrupted, UsageError, complain
from pydistdb_tools.local_cluster import (
    DEFAULT_FOLDER,
    LocalCluster,
    free_base_port,
    parse_localities,
    plan_cluster,
    plural,
    start_cluster,
    stop_cluster,
)
from pydistdb_tools.ring import add_arguments as add_ring_arguments
from pydistdb_tools.ring import run as run_ring

DEFAULT_URL = "postgresql://postgres@127.0.0.1:5433/postgres"
DEFAULT_PORT = 5433


def _report(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _url(arguments: argparse.Namespace) -> str:
    if getattr(arguments, "dir", None) is not None:
        cluster = LocalCluster.load(arguments.dir)
        for node in cluster.nodes:
            if node.running:
                return node.url
        raise ClusterError(f"no node of the cluster in {arguments.dir} is running")
    return arguments.url or os.environ.get("PRODDB_URL") or DEFAULT_URL


def _start(arguments: argparse.Namespace) -> int:
    from pydistdb_server.__main__ import main as serve

    return serve(arguments.node_arguments)


def _init(arguments: argparse.Namespace) -> int:
    from pydistdb_tools.first_shards import prepare_shards
    from pydistdb_tools.status import cluster_report, topology_report

    folder: Path = arguments.dir
    is_new = not (folder / "cluster.json").exists()
    if is_new:
        factor = arguments.replication_factor or min(3, arguments.nodes)
        localities = parse_localities(arguments.locality)
        cluster = plan_cluster(folder, arguments.nodes, factor, arguments.base_port, localities)
        _report(f"[INFO] Initializing a database cluster in {folder}")
        _report(f"[INFO] {plural(arguments.nodes, 'node')}, {factor}-way replication per shard")
    else:
        cluster = LocalCluster.load(folder)
        _report(f"{folder} has a cluster of {len(cluster.nodes)} nodes already; starting what is not running")
    start_cluster(cluster, _report)
    status = prepare_shards(cluster, _report) if is_new else cluster.status()
    print(cluster_report(status))
    print()
    if is_new:
        print(topology_report(status))
        print()
    print("Connect to any node:")
    for node in cluster.nodes:
        print(f"  psql {node.url}")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    stop_cluster(LocalCluster.load(arguments.dir), _report, arguments.node)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from pydistdb_tools.remote import status_of
    from pydistdb_tools.status import cluster_report, raft_report

    if arguments.dir is not None:
        status = LocalCluster.load(arguments.dir).status()
    else:
        status = status_of(_url(arguments))
    if arguments.format == "json":
        print(json.dumps(status, indent=2))
    else:
        print(raft_report(status) if arguments.command == "raft" else cluster_report(status))
    return 0


def _sql(arguments: argparse.Namespace) -> int:
    from pydistdb_tools.shell import run_shell

    return run_shell(_url(arguments), arguments.execute, arguments.file)


def _demo(arguments: argparse.Namespace) -> int:
    from pydistdb_tools.demo import run_demo

    return run_demo(arguments.dir, arguments.nodes, arguments.base_port, arguments.keep)


def _benchmark(arguments: argparse.Namespace) -> int:
    from pydistdb_tools.benchmark import run_benchmark

    return run_benchmark(
        _url(arguments), arguments.duration, arguments.threads, arguments.workload, arguments.scale, arguments.format
    )


def _slt(arguments: argparse.Namespace) -> int:
    from pydistdb_sqllogictest.command import run_command

    for path in arguments.paths:
        if not path.exists():
            raise ClusterError(f"{path}: no such file or folder")
    if arguments.url or arguments.dir is not None or os.environ.get("PRODDB_URL"):
        return run_command(arguments, _url(arguments))
    with tempfile.TemporaryDirectory(prefix="proddb-slt-") as folder:
        cluster = plan_cluster(Path(folder), 1, 1, free_base_port(DEFAULT_PORT + 1000, 1))
        try:
            start_cluster(cluster, _report)
            return run_command(arguments, cluster.nodes[0].url)
        finally:
            stop_cluster(cluster, _report)


def _duration(text: str) -> float:
    """``60s``, ``2m``, ``500ms`` or plain seconds."""
    units = (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0))
    number, factor = next(((text[: -len(unit)], factor) for unit, factor in units if text.endswith(unit)), (text, 1.0))
    try:
        seconds = float(number) * factor
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a duration: {text!r} (examples: 60s, 2m, 500ms)") from None
    if not 0 < seconds < 1e7:
        raise argparse.ArgumentTypeError(f"not a sensible duration: {text!r}")
    return seconds


def _where_to_connect(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--url", help=f"a node's Postgres URL (default: $PRODDB_URL, else {DEFAULT_URL})")
    group.add_argument("--dir", type=Path, help="folder of a cluster made by proddb init")


class _Parser(argparse.ArgumentParser):
    """Raises what is wrong with the command line, so that it can be told as JSON; its subcommands' parsers do likewise."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.prog, self.format_usage())


class _Version(argparse.Action):
    """Prints the release; it is read from the installed package only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"{parser.prog} {version('pydistdb')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="proddb",
        description="PyDistDB: a distributed SQL database that speaks the Postgres protocol.",
        epilog="examples:\n  proddb demo\n  proddb init --nodes 3 --replication-factor 3 --dir data\n"
        "  proddb sql --dir data\n  proddb status --dir data\n  proddb stop --dir data",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the release and leave")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help_text: str, examples: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            epilog="examples:\n" + "\n".join("  " + line for line in examples.splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    # `start` hands its arguments on to the server, whose --help lists them.
    start = commands.add_parser("start", help="run one node in the foreground", add_help=False)
    start.add_argument("node_arguments", nargs=argparse.REMAINDER)
    start.set_defaults(run=_start)

    init = add(
        "init",
        "make and start a local cluster",
        "proddb init --nodes 3 --replication-factor 3 --dir data\n"
        "proddb init --nodes 9 --locality us-east-1a,us-east-1b,us-east-1c,us-west-2a,us-west-2b,us-west-2c,"
        "eu-west-1a,eu-west-1b,eu-west-1c",
    )
    init.add_argument("--nodes", type=int, default=3, help="how many node processes (default 3)")
    init.add_argument("--replication-factor", type=int, help="replicas of each range (default 3, or --nodes if fewer)")
    init.add_argument(
        "--dir", type=Path, default=DEFAULT_FOLDER, help=f"folder for everything (default {DEFAULT_FOLDER})"
    )
    init.add_argument(
        "--locality",
        action="append",
        default=[],
        metavar="PLACE",
        help="where the nodes stand, in turn: zones (eu-west-1a,us-east-1b), or one region=R,zone=Z for each time it is given",
    )
    init.add_argument("--base-port", type=int, default=DEFAULT_PORT, help=f"first SQL port (default {DEFAULT_PORT})")
    init.set_defaults(run=_init)

    stop = add("stop", "stop a local cluster, or a node of it", "proddb stop --dir data\nproddb stop --node node2")
    stop.add_argument("--dir", type=Path, default=DEFAULT_FOLDER)
    stop.add_argument("--node", default="", metavar="NAME", help="only this one; proddb init starts it again")
    stop.set_defaults(run=_stop)

    status = add(
        "status", "show nodes, ranges, leaders and lag", "proddb status --dir data\nproddb status --format json"
    )
    _where_to_connect(status)
    status.add_argument("--format", choices=["text", "json"], default="text")
    status.set_defaults(run=_status)

    raft = add("raft", "show the replicas of each range", "proddb raft status --dir data")
    raft.add_argument("what", choices=["status"], nargs="?", default="status")
    _where_to_connect(raft)
    raft.add_argument("--format", choices=["text", "json"], default="text")
    raft.set_defaults(run=_status)

    sql = add("sql", "open a SQL shell", "proddb sql\nproddb sql -c 'SELECT 1'\nproddb sql -f schema.sql")
    _where_to_connect(sql)
    sql.add_argument("-c", "--execute", action="append", default=[], help="run this statement and leave (repeatable)")
    sql.add_argument("-f", "--file", type=Path, help="run the statements of a file and leave")
    sql.set_defaults(run=_sql)

    demo = add("demo", "start a cluster with sample data and open a shell", "proddb demo\nproddb demo --keep")
    demo.add_argument("--dir", type=Path, help="folder (default: a temporary one, removed at the end)")
    demo.add_argument("--nodes", type=int, default=3)
    demo.add_argument("--base-port", type=int, default=DEFAULT_PORT)
    demo.add_argument("--keep", action="store_true", help="leave the cluster running")
    demo.set_defaults(run=_demo)

    benchmark = add(
        "benchmark",
        "measure point reads, writes and TPC-B, and verify the data afterwards",
        "proddb benchmark --duration 60s --threads 100\nproddb benchmark --workload reads --duration 10s",
    )
    _where_to_connect(benchmark)
    benchmark.add_argument("--duration", type=_duration, default=60.0, help="of each workload (default 60s)")
    benchmark.add_argument("--threads", type=int, default=100, help="concurrent connections (default 100)")
    benchmark.add_argument("--workload", choices=["all", "reads", "writes", "tpcb"], default="all")
    benchmark.add_argument("--scale", type=int, default=1, help="TPC-B branches, 100,000 accounts each (default 1)")
    benchmark.add_argument("--format", choices=["text", "json"], default="text")
    benchmark.set_defaults(run=_benchmark)

    slt = add(
        "slt",
        "run sqllogictest files, on a one-node cluster of their own unless a server is named",
        "proddb slt sqllogictest/suites\nproddb slt --url postgresql://postgres@127.0.0.1:5433/postgres suite.slt",
    )
    _where_to_connect(slt)
    add_slt_arguments(slt)
    slt.set_defaults(run=_slt)

    ring = add(
        "ring", "consistent hashing: who has which key, what moves", "proddb ring demo\nproddb ring lookup --key user:1"
    )
    add_ring_arguments(ring)
    ring.set_defaults(run=run_ring)

    admin = add(
        "admin",
        "see and steer shards: sizes, load, splits, moves, checks",
        "proddb admin shards --dir data\nproddb admin rebalance --check\nproddb admin split --table users --key 500\n"
        "proddb admin failover --simulate --node node1 --dir data\nproddb admin doctor --format json",
    )
    add_admin_arguments(admin, _where_to_connect, _url)
    node = add(
        "node", "see nodes, empty them, take them back", "proddb node ls\nproddb node decommission node4 --dir data"
    )
    add_node_arguments(node, _where_to_connect, _url)
    transactions = add(
        "txn",
        "see transactions over several shards, and finish those in doubt",
        "proddb txn log --dir data\nproddb txn show 4294967299\nproddb txn recover --format json",
    )
    add_txn_arguments(transactions, _where_to_connect, _url)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2 for a wrong command line, by argparse)."""
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough (``| head``).  The interpreter's own flush at its end must not fail for it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(raw: list[str]) -> int:
    started = time.monotonic()
    as_json = _asks_for_json(raw)
    try:
        if raw[:1] == ["start"]:
            parsed = argparse.Namespace(run=_start, node_arguments=raw[1:])
        else:
            parsed = _parser().parse_args(raw)
        as_json = getattr(parsed, "format", None) == "json"
        status: int = parsed.run(parsed)
        return status
    except ClusterError as error:
        return complain(error, as_json=as_json)
    except KeyboardInterrupt:
        return complain(Interrupted(time.monotonic() - started), as_json=as_json)


def _asks_for_json(raw: Sequence[str]) -> bool:
    """Whether a command line that may be wrong asks for JSON."""
    return "--format=json" in raw or ("--format", "json") in pairwise(raw)
