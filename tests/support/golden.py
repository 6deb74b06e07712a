"""Golden scripts: a text file of commands with the output they are expected to print.

Theory of operation
-------------------
A script is a sequence of blocks; a block is some command lines, ``---``, and the output of those commands, ended by a
blank line::

    # Three nodes elect the first one that times out.
    new peers=1,2,3
    campaign 1
    ---
    1: leader of term 1

    !propose 2 hello
    ---
    Error: not the leader; the leader is 1

* ``# …`` is a comment.  A line that begins with white space continues the command above it (for long SQL).
* Words are split as a shell does, quotes included.  ``key=value`` words become options, the others arguments; a command
  that is not split (SQL) reads ``command.text``, the raw rest of the line.
* ``!`` marks a command that must raise; what it raised is its output.  A command that raises without the mark, or one
  that does not raise with it, fails the test even when rewriting: so a typing mistake can't become golden.
* Output with blank lines in it is written with ``> `` before every line.

A test runs a script with a function from Command to str::

    def test_election() -> None:
        cluster = Cluster()
        golden.run(cluster.execute, Path(__file__).parent / "golden" / "election.txt")

``pytest --rewrite`` writes the actual output into the scripts instead of comparing; the diff shows what changed.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

rewrite = False
"""Set by ``pytest --rewrite`` (tests/conftest.py)."""


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    text: str
    """Everything behind the name, as written (continuation lines joined by newlines)."""
    line: int
    must_fail: bool = False
    arguments: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)

    def integer(self, name: str, default: int) -> int:
        return int(self.options.get(name, default))


@dataclass(slots=True)
class Block:
    """Source lines up to and including ``---``, the commands among them, and the output that follows."""

    source: list[str]
    commands: list[Command]
    expected: list[str]


def run(function: Callable[[Command], str | None], path: Path | str) -> None:
    """Run the script at ``path``; compares the output, or writes it back if ``pytest --rewrite`` was given."""
    path = Path(path)
    original = path.read_text(encoding="utf-8")
    pieces: list[str] = []
    for block in parse(original):
        output: list[str] = []
        for command in block.commands:
            output.extend(_execute(function, command, path))
        pieces.extend(block.source)
        if block.commands:
            pieces.extend(_quoted(output))
            pieces.append("")
    actual = "\n".join(pieces).rstrip("\n") + "\n"
    if actual == original:
        return
    if rewrite:
        path.write_text(actual, encoding="utf-8")
        return
    difference = difflib.unified_diff(
        original.splitlines(), actual.splitlines(), f"{path.name} (expected)", f"{path.name} (actual)", lineterm=""
    )
    raise AssertionError("the script prints something else (pytest --rewrite accepts it):\n" + "\n".join(difference))


def parse(text: str) -> Iterator[Block]:
    """Split a script into blocks; trailing comments form a block without commands."""
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        start = position
        while position < len(lines) and lines[position].strip() != "---":
            position += 1
        source = lines[start : position + 1]
        if position == len(lines):
            commands = _commands(source, start)
            if commands:
                source = [*_without_blank_tail(source), "---"]
            yield Block(source, commands, [])
            return
        commands = _commands(source[:-1], start)
        position += 1
        expected: list[str] = []
        while position < len(lines) and lines[position] != "":
            if lines[position] == "---":
                raise ValueError(f"line {position + 1}: a blank line must end the output before the next commands")
            expected.append(lines[position])
            position += 1
        position += 1
        yield Block(source, commands, expected)


def _without_blank_tail(lines: list[str]) -> list[str]:
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines


def _commands(lines: list[str], offset: int) -> list[Command]:
    merged: list[tuple[int, str]] = []
    for number, line in enumerate(lines, offset + 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace() and merged:
            merged[-1] = (merged[-1][0], merged[-1][1] + "\n" + line)
        else:
            merged.append((number, line))
    return [_command(number, line) for number, line in merged]


def _command(number: int, line: str) -> Command:
    must_fail = line.startswith("!")
    name, _, text = line.lstrip("!").strip().partition(" ")
    arguments: list[str] = []
    options: dict[str, str] = {}
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe in SQL, say: such commands read `text`
        words = text.split()
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key.replace("_", "").replace("-", "").isalnum():
            options[key] = value
        else:
            arguments.append(word)
    return Command(name, text, number, must_fail, arguments, options)


def _execute(function: Callable[[Command], str | None], command: Command, path: Path) -> list[str]:
    where = f"{path.name}:{command.line}"
    try:
        output = function(command) or ""
    except Exception as error:
        if not command.must_fail:
            raise AssertionError(f"{where}: {command.name} {command.text}: {type(error).__name__}: {error}") from error
        return f"Error: {error}".splitlines()
    if command.must_fail:
        raise AssertionError(f"{where}: {command.name} {command.text}: was expected to fail, but printed: {output}")
    return output.rstrip("\n").split("\n") if output else []


def _quoted(lines: list[str]) -> list[str]:
    """Output as it is written: marked line by line where it could be taken for the end of the block."""
    if any(line.strip() == "" or line.startswith("> ") or line == "---" for line in lines):
        return [f"> {line}".rstrip() for line in lines]
    return lines
