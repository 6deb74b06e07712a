"""``proddb ring``: its output, and its errors in a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydistdb_tools.cli import main


def _lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["ring", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_demo_moves_only_what_must(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _lines(capsys, "demo")
    assert "Nodes: A, B, C (100 virtual nodes each)" in lines
    assert "  Node A: 3,485 keys (34.8%)" in lines
    added, removed = lines.index("Adding node D"), lines.index("Removing node B")
    assert lines[added + 1] == "  Keys moved: 2,288 (22.9%), all of them to D"
    assert lines[removed + 1] == "  Keys moved: 2,466 (24.7%), all of them from B"


def test_a_key_is_looked_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert _lines(capsys, "lookup", "--key", "user:12345") == [
        "Key: user:12345",
        "Hash: 0xEE6DDCE90FFEE5B3",
        "Position on the ring: 335.3°",
        "Primary node: C",
        "Replica nodes: B, A (next 2 clockwise)",
    ]
    assert _lines(capsys, "lookup", "--key", "x", "--nodes", "only")[-1] == "Replica nodes: none (next 0 clockwise)"


def test_adding_and_removing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "all of them to D" in _lines(capsys, "add", "--node", "D=2", "--keys", "1000")[0]
    assert "all of them from C" in _lines(capsys, "remove", "--node", "C", "--keys", "1000")[0]


def test_the_picture_is_well_formed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "ring.svg"
    assert _lines(capsys, "plot", "--nodes", "A,<B>", "--virtual-nodes", "7", "--output", str(picture)) == [
        f"{picture}: 2 nodes, 14 virtual nodes"
    ]
    tags = [element.tag.rpartition("}")[2] for element in ElementTree.parse(picture).getroot()]
    assert tags.count("path") == 14 and tags.count("text") == 2
    assert _lines(capsys, "plot")[0].startswith("  0°")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "--node", "A"], "node A is on the ring already"),
        (["demo", "--nodes", "A=x"], "the weight of node A is not a number: x"),
        (["demo", "--nodes", ","], "a node needs a name"),
        (["demo", "--keys", "0"], "--keys must be between"),
        (["demo", "--nodes", "A=1e308,B=1e308"], "the weight of node A must be at most"),
        (["lookup", "--key", "a", "--replicas", "-3"], "--replicas must not be negative"),
        (["plot", "--output", "/nonexistent/x.svg"], "cannot write"),
    ],
)
def test_errors_are_a_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ring", *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["ring", "demo"], ["--help"]])
def test_a_reader_that_goes_early_is_no_accident(arguments: list[str]) -> None:
    """``proddb … | head -1`` ends without a word."""
    command = [sys.executable, "-m", "pydistdb_tools.entry", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
