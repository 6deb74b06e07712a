"""``proddb ring``: consistent hashing to look at: who has which key, and what moves when nodes come and go.

A ring is named by its nodes: ``--nodes A,B,C``, or with weights ``--nodes A,B=2,C``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from pydistdb.kv.placement.ring import DEFAULT_VIRTUAL_NODES, Movement, Ring, RingError, degrees, hash_of

from pydistdb_tools.errors import ClusterError

DEFAULT_NODES = "A,B,C"
DEFAULT_KEYS = 10_000
MAX_KEYS = 10_000_000
MAX_WEIGHT = 1e9
_BAR_CELLS = 60
_COLORS = ("#4472c4", "#ed7d31", "#70ad47", "#ffc000", "#7030a0", "#c00000", "#00b0f0", "#7f7f7f")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands of ``proddb ring``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo = commands.add_parser("demo", help="add and remove a node, and see what moves")
    demo.set_defaults(show=_demo)
    lookup = commands.add_parser("lookup", help="where a key belongs")
    lookup.add_argument("--key", required=True)
    lookup.add_argument("--replicas", type=int, default=2, metavar="N", help="further nodes (default 2)")
    lookup.set_defaults(show=_lookup)
    add = commands.add_parser("add", help="what moves if a node is added")
    add.add_argument("--node", required=True, metavar="NAME[=WEIGHT]")
    add.set_defaults(show=_add)
    remove = commands.add_parser("remove", help="what moves if a node is removed")
    remove.add_argument("--node", required=True, metavar="NAME")
    remove.set_defaults(show=_remove)
    plot = commands.add_parser("plot", help="draw the ring")
    plot.add_argument("--output", type=Path, metavar="FILE.svg", help="as a picture (default: text)")
    plot.set_defaults(show=_plot)
    for command in (demo, lookup, add, remove, plot):
        command.add_argument("--nodes", default=DEFAULT_NODES, metavar="NAME[=WEIGHT],…", help="(default %(default)s)")
        command.add_argument("--virtual-nodes", type=int, default=DEFAULT_VIRTUAL_NODES, metavar="N", help="per node")
        command.add_argument("--keys", type=int, default=DEFAULT_KEYS, metavar="N", help="keys tried (default 10000)")


def run(arguments: argparse.Namespace) -> int:
    """Run one of them; returns the exit status."""
    if not 1 <= arguments.keys <= MAX_KEYS:
        raise ClusterError(f"--keys must be between 1 and {MAX_KEYS}")
    try:
        ring = Ring(_weights(arguments.nodes), arguments.virtual_nodes)
        print("\n".join(arguments.show(ring, arguments)))
    except RingError as error:
        raise ClusterError(str(error)) from error
    return 0


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for name, weight in map(_named, text.split(",")):
        if name in weights:
            raise RingError(f"there are two nodes {name}")
        weights[name] = weight
    return weights


def _named(text: str) -> tuple[str, float]:
    name, separator, weight = text.strip().partition("=")
    if not name:
        raise RingError("a node needs a name")
    try:
        number = float(weight) if separator else 1.0
    except ValueError:
        raise RingError(f"the weight of node {name} is not a number: {weight}") from None
    if number > MAX_WEIGHT:
        raise RingError(f"the weight of node {name} must be at most {MAX_WEIGHT:,.0f}")
    return name, number


def _keys(arguments: argparse.Namespace) -> list[str]:
    return [f"user:{number}" for number in range(arguments.keys)]


# ---------------------------------------------------------------------------------------------- demo, add, remove


def _demo(ring: Ring, arguments: argparse.Namespace) -> list[str]:
    keys = _keys(arguments)
    names = list(ring.weights)
    new = next(name for name in map(_letter, range(len(names) + 1)) if name not in ring.weights)
    gone = names[1] if len(names) > 1 else names[0]
    grown = ring.with_node(new)
    shrunk = grown.without_node(gone)
    return [
        "Consistent hashing demo",
        "=======================",
        "",
        f"Nodes: {', '.join(names)} ({ring.virtual_nodes} virtual nodes each)",
        "",
        *_bar(ring),
        "",
        f"Distributing {len(keys):,} keys",
        *_shares(ring, keys),
        "",
        f"Adding node {new}",
        *_moved(grown.moved(ring, keys), f"all of them to {new}"),
        *_shares(grown, keys),
        "",
        f"Removing node {gone}",
        *_moved(shrunk.moved(grown, keys), f"all of them from {gone}"),
        *_shares(shrunk, keys),
    ]


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"N{number}"


def _add(ring: Ring, arguments: argparse.Namespace) -> list[str]:
    node, weight = _named(arguments.node)
    keys, grown = _keys(arguments), ring.with_node(node, weight)
    return [*_moved(grown.moved(ring, keys), f"all of them to {node}"), *_shares(grown, keys)]


def _remove(ring: Ring, arguments: argparse.Namespace) -> list[str]:
    keys, shrunk = _keys(arguments), ring.without_node(arguments.node)
    return [*_moved(shrunk.moved(ring, keys), f"all of them from {arguments.node}"), *_shares(shrunk, keys)]


def _shares(ring: Ring, keys: Sequence[str]) -> list[str]:
    found = ring.distribution(keys)
    lines = [f"  Node {node}: {count:,} keys ({found.share(node):.1%})" for node, count in found.keys.items()]
    return [*lines, f"  Standard deviation: {found.deviation:.1%}"]


def _moved(movement: Movement, which: str) -> list[str]:
    lines = [f"  Keys moved: {movement.moved_keys:,} ({movement.fraction:.1%}), {which}"]
    lines += [f"    {old} to {new}: {count:,}" for (old, new), count in sorted(movement.moves.items())]
    return lines


# ---------------------------------------------------------------------------------------------- lookup, plot


def _lookup(ring: Ring, arguments: argparse.Namespace) -> list[str]:
    if arguments.replicas < 0:
        raise ClusterError("--replicas must not be negative")
    position = hash_of(arguments.key)
    primary, *others = ring.replicas(arguments.key, arguments.replicas + 1)
    return [
        f"Key: {arguments.key}",
        f"Hash: 0x{position:016X}",
        f"Position on the ring: {degrees(position):.1f}°",
        f"Primary node: {primary}",
        f"Replica nodes: {', '.join(others) or 'none'} (next {len(others)} clockwise)",
    ]


def _plot(ring: Ring, arguments: argparse.Namespace) -> list[str]:
    if arguments.output is None:
        shares = [f"  Node {node}: {share:.1%} of the circle" for node, share in ring.shares().items()]
        return [*_bar(ring), *shares]
    try:
        arguments.output.write_text(_picture(ring), encoding="utf-8")
    except OSError as error:
        raise ClusterError(f"cannot write {arguments.output}: {error.strerror}") from error
    return [f"{arguments.output}: {len(ring.weights)} nodes, {len(ring.places())} virtual nodes"]


def _owner_at(ring: Ring, angle: float) -> str:
    places = ring.places()
    return next((node for place, node in places if place >= angle), places[0][1])


def _bar(ring: Ring) -> list[str]:
    """The circle cut open: a letter for whoever has the middle of each cell."""
    cells = [_owner_at(ring, (cell + 0.5) * 360 / _BAR_CELLS)[:1] for cell in range(_BAR_CELLS)]
    quarter = _BAR_CELLS // 4
    scale = "".join(f"{number * 90}°".ljust(quarter) for number in range(4)) + "360°"
    return [f"  {scale}", f"  {''.join(cells)}"]


def _picture(ring: Ring) -> str:
    """An SVG: one arc per virtual node, coloured by node, and a legend with the shares."""
    center, radius, width = 200.0, 140.0, 40
    color = {node: _COLORS[number % len(_COLORS)] for number, node in enumerate(ring.weights)}
    places = ring.places()
    arcs: list[str] = []
    previous = places[-1][0] - 360
    for angle, node in places:
        start, end = _point(center, radius, previous), _point(center, radius, angle)
        large = int(angle - previous > 180)
        arcs.append(
            f'<path d="M {start} A {radius} {radius} 0 {large} 1 {end}" fill="none" stroke="{color[node]}" '
            f'stroke-width="{width}"/>'
        )
        previous = angle
    legend = [
        f'<text x="420" y="{60 + 24 * number}" fill="{color[node]}">{_escaped(node)}: {share:.1%}</text>'
        for number, (node, share) in enumerate(ring.shares().items())
    ]
    height = max(400, 80 + 24 * len(legend))
    body = "\n".join([*arcs, *legend])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="620" height="{height}" font-family="sans-serif" '
        f'font-size="16">\n{body}\n</svg>\n'
    )


def _point(center: float, radius: float, angle: float) -> str:
    turned = math.radians(angle - 90)
    return f"{center + radius * math.cos(turned):.2f} {center + radius * math.sin(turned):.2f}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
