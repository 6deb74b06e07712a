"""The command lines of ``proddb admin …``, ``proddb node …`` and ``proddb txn …``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module

SHARD_HELP = "its number, as proddb admin shards shows it"
MAX_SHARD = 2**63 - 1
NODE_HELP = "name or number of the node, as proddb node ls shows it"

Run = Callable[[argparse.Namespace], int]
AddPlace = Callable[[argparse.ArgumentParser], None]


def later(name: str) -> Run:
    """A command by module and function (``"admin.shards"``), loaded when it is run: the driver takes a tenth of a second."""

    def run(arguments: argparse.Namespace) -> int:
        module, _, function = name.partition(".")
        status: int = getattr(import_module(f"pydistdb_tools.{module}"), function)(arguments)
        return status

    return run


def _shard(text: str) -> int:
    """A shard's number; the server says whether there is one."""
    if not text.isdecimal() or int(text) > MAX_SHARD:
        raise argparse.ArgumentTypeError(f"not a shard's number: {text!r}")
    return int(text)


def _adder(
    parser: argparse.ArgumentParser, add_place: AddPlace, find_url: Run | Callable[[argparse.Namespace], str]
) -> Callable[..., argparse.ArgumentParser]:
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")

    def add(name: str, help_text: str, run: str, *, place: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        if place:
            add_place(command)
        command.add_argument("--format", choices=["table", "json"], default="table", help="(default: table)")
        command.set_defaults(run=later(run), find_url=find_url)
        return command

    return add


def add_admin_arguments(
    parser: argparse.ArgumentParser, add_place: AddPlace, find_url: Callable[[argparse.Namespace], str]
) -> None:
    add = _adder(parser, add_place, find_url)
    add("shards", "every shard: where it lies, how large and how busy it is", "admin.shards")
    add("hotspots", "the shards with requests, busiest first", "admin.hotspots")
    add(
        "jobs",
        "index builds, re-sharding, replicas being copied, nodes being emptied",
        "admin.jobs",
    )
    add("zones", "nodes, replicas and load by locality", "admin.zones")
    add("doctor", "check everything, checksums included (exit status 1: warnings, 2: errors)", "admin.doctor")

    for name, help_text, run in (
        ("split", "cut a shard near its middle, or a table before a key", "admin.split"),
        ("merge", "have a shard take in its right neighbour, or take the boundary before a key away", "admin.merge"),
    ):
        command = add(name, help_text, run)
        where = command.add_mutually_exclusive_group(required=True)
        where.add_argument("--range", type=_shard, metavar="SHARD", help=SHARD_HELP)
        where.add_argument("--table", metavar="NAME", help="the shard of this table's row, given by --key")
        command.add_argument(
            "--key", nargs="+", default=[], metavar="VALUE", help="with --table: the row's key, or its start"
        )

    lease = add("move-lease", "let another replica lead a shard", "admin.move_lease")
    lease.add_argument("--range", type=_shard, required=True, metavar="SHARD", help=SHARD_HELP)
    lease.add_argument("--to", required=True, metavar="NODE", help=f"who is to lead: {NODE_HELP}")

    replica = add("move-replica", "move a replica to another node", "admin.move_replica")
    replica.add_argument("--range", type=_shard, required=True, metavar="SHARD", help=SHARD_HELP)
    replica.add_argument("--from", dest="away", required=True, metavar="NODE", help=f"where it is: {NODE_HELP}")
    replica.add_argument("--to", required=True, metavar="NODE", help="where it is to be")

    even = add("rebalance", "how even the shards are, and what would help", "rebalance.run")
    what = even.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="look only")
    what.add_argument("--execute", action="store_true", help="do what --check recommends; Ctrl-C and again is fine")
    what.add_argument(
        "--pause", action="store_true", help="stop splits, merges and moves that the cluster makes itself"
    )
    what.add_argument("--resume", action="store_true", help="let them go on")

    simulated = add(
        "failover", "stop a node of a local cluster, see what that costs, and bring it back", "failover.run"
    )
    simulated.add_argument("--simulate", action="store_true", required=True, help="with a node made by proddb init")
    simulated.add_argument("--node", required=True, metavar="NODE", help=NODE_HELP)
    simulated.add_argument("--isolate", action="store_true", help="freeze the process instead of killing it")


def add_node_arguments(
    parser: argparse.ArgumentParser, add_place: AddPlace, find_url: Callable[[argparse.Namespace], str]
) -> None:
    add = _adder(parser, add_place, find_url)
    add("ls", "every node: state, load, disk, version", "admin.nodes")
    add("version", "the version that the cluster is at, and where a rolling upgrade stands", "admin.version")
    for name, help_text, run in (
        ("drain", "have a node give its leases away, before it is stopped for a while", "admin.drain"),
        ("decommission", "have a node give everything away, before it is stopped for good", "admin.decommission"),
    ):
        command = add(name, help_text, run)
        command.add_argument("node", metavar="NODE", help=NODE_HELP)
        command.add_argument("--no-wait", action="store_true", help="begin it only")
    command = add("recommission", "take drain or decommission back", "admin.recommission")
    command.add_argument("node", metavar="NODE", help=NODE_HELP)


def add_txn_arguments(
    parser: argparse.ArgumentParser, add_place: AddPlace, find_url: Callable[[argparse.Namespace], str]
) -> None:
    add = _adder(parser, add_place, find_url)
    log = add("log", "transactions over several shards: participants, votes, times", "transactions.log")
    log.add_argument("--limit", type=int, default=20, metavar="N", help="so many of the latest (default 20)")
    show = add("show", "one of them, and what shards still hold of it", "transactions.show")
    show.add_argument("id", metavar="ID", help="its number, its full id, or the name it was prepared under")
    add("recover", "finish transactions whose coordinators are gone, and say what was done", "transactions.recover")
