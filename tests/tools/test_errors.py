"""How proddb tells what went wrong: on a terminal, to programs, and before it has loaded what it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest
from pydistdb_tools import admin_arguments, cli
from pydistdb_tools.cli import main
from pydistdb_tools.errors import ClusterError, Interrupted, UsageError, complain
from pydistdb_tools.remote import refusal_code

NOWHERE = ["--url", "postgresql://postgres@127.0.0.1:1/postgres"]


def _json_error(capsys: pytest.CaptureFixture[str]) -> dict[str, str | None]:
    written = capsys.readouterr()
    assert written.out == ""
    (line,) = written.err.splitlines()
    answer = json.loads(line)
    assert list(answer) == ["error"]
    error: dict[str, str | None] = answer["error"]
    assert list(error) == ["code", "message", "detail", "hint"]
    return error


@pytest.mark.parametrize(
    "command",
    [["admin", "shards"], ["admin", "doctor"], ["node", "ls"], ["txn", "log"], ["status"], ["raft", "status"]],
)
def test_no_connection(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, *NOWHERE]) == 1
    assert capsys.readouterr().err.startswith("proddb: cannot connect to")
    assert main([*command, *NOWHERE, "--format", "json"]) == 1
    error = _json_error(capsys)
    assert error["code"] == "08001"
    assert str(error["message"]).startswith("cannot connect to")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ('connection to server at "x", port 1 failed: FATAL:  database "a b" does not exist', "3D000"),
        ('failed: FATAL:  role "nobody" does not exist', "28000"),
        ('failed: FATAL:  password authentication failed for user "postgres"', "28P01"),
        ("failed: FATAL:  sorry, too many clients already", "53300"),
        ('failed: FATAL:  too many connections for role "r"', "53300"),
        ("connection failed: Connection refused", "08001"),
        ('database "shop" does not exist', "08001"),
    ],
)
def test_why_a_server_takes_no_client(words: str, code: str) -> None:
    assert refusal_code(words) == code


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:se:c@ret@127.0.0.1:1/x", "postgresql://ann@127.0.0.1:1/x"),
        ("postgresql://ann@127.0.0.1:1/x?password=secret&a=b", "postgresql://ann@127.0.0.1:1/x?password=…&a=b"),
        ("host=127.0.0.1 port=1 password='a secret' user=ann", "host=127.0.0.1 port=1 password=… user=ann"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["admin", "shards", "--url", url]) == 1
    assert capsys.readouterr().err.startswith(f"proddb: cannot connect to {shown}: ")


def test_no_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["admin", "jobs", "--dir", str(tmp_path), "--format=json"]) == 1
    assert _json_error(capsys)["code"] == "cluster"
    (tmp_path / "file").touch()
    assert main(["admin", "jobs", "--dir", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith(f"proddb: cannot read {tmp_path}/file/cluster.json: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["admin", "split", "--range", "x"], "argument --range: not a shard's number: 'x'"),
        (["admin", "merge", "--range", str(2**64)], "argument --range: not a shard's number: '18446744073709551616'"),
        (["admin", "nothing"], "argument WHAT: invalid choice: 'nothing'"),
        (["admin", "split"], "one of the arguments --range --table is required"),
        (["node", "drain"], "the following arguments are required: NODE"),
    ],
)
def test_wrong_command_lines(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    for form in (["--format", "json"], ["--format=json"]):
        assert main([*arguments, *form]) == 2
        error = _json_error(capsys)
        assert error["code"] == "usage"
        assert str(error["message"]).startswith(message)
        assert str(error["hint"]).startswith("usage: proddb ")
    assert main(arguments) == 2
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("usage: proddb ")
    assert f"error: {message}" in last


def test_the_same_error_in_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    error = ClusterError("no such shard", code="42704", hint="look it up")
    assert complain(error, as_json=False) == complain(error, as_json=True) == 1
    assert capsys.readouterr().err.splitlines() == [
        "proddb: no such shard",
        "look it up",
        '{"error": {"code": "42704", "message": "no such shard", "detail": null, "hint": "look it up"}}',
    ]
    assert complain(Interrupted(2.4), as_json=True) == 130
    assert _json_error(capsys)["message"] == "interrupted after 2 s"
    assert complain(UsageError("no", "proddb x", "usage: proddb x Y\n"), as_json=False) == 2
    assert capsys.readouterr().err == "usage: proddb x Y\nproddb x: error: no\n"


def test_every_command_is_there_to_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are named by texts, which no type checker follows."""
    named: list[str] = []
    monkeypatch.setattr(admin_arguments, "later", named.append)
    cli._parser()
    assert len(named) > 15
    for name in named:
        module, _, function = name.partition(".")
        assert callable(getattr(import_module(f"pydistdb_tools.{module}"), function)), name


def test_a_command_is_loaded_when_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb_tools.admin.shards", lambda arguments: arguments.number)
    assert admin_arguments.later("admin.shards")(Namespace(number=7)) == 7


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_waits_for_no_driver(option: str) -> None:
    """Whatever takes long to load is loaded by the commands that need it."""
    code = (
        "import sys, atexit\n"
        "heavy = {'psycopg', 'trio', 'asyncio', 'lmdb', 'pglast', 'sqlglot', 'prompt_toolkit', 'urllib.request'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "from pydistdb_tools.entry import main\n"
        "sys.exit(main())"
    )
    done = _python(code, option)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "proddb" in done.stdout


def test_ctrl_c_while_loading_ends_quietly() -> None:
    """The interrupt comes at the first import that the entry makes."""
    code = (
        "import sys\n"
        "from pydistdb_tools.entry import main\n"
        "class Interrupting:\n"
        "    def find_spec(self, *_): raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.exit(main())"
    )
    done = _python(code, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
