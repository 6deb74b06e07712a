"""The sqllogictest runner: reading its dialects, comparing results, and our own suites against a node."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from pydistdb_sqllogictest.command import dialect_of, find_files
from pydistdb_sqllogictest.compare import Result, digest, matches, render
from pydistdb_sqllogictest.parse import MAX_PAUSE_SECONDS, parse_script
from pydistdb_sqllogictest.records import Dialect, Failure, Let, Pause, Query, ScriptError, Sort, Statement
from pydistdb_sqllogictest.run import FileResult, Options, judge, run_file, run_script
from pydistdb_sqllogictest.session import ConnectionLost, ServerError
from pydistdb_tools.cli import main
from pydistdb_tools.local_cluster import LocalCluster

from tests.cluster.conftest import one_node

__all__ = ["one_node"]

SUITES = Path(__file__).parents[2] / "sqllogictest" / "suites"
BOOL, TEXT, INT4, TIMESTAMP = 16, 25, 23, 1114


def result(*rows: list[str | None], types: list[int] | None = None) -> Result:
    width = len(rows[0]) if rows else 1
    return Result(list(rows), types or [TEXT] * width, ["c"] * width, len(rows))


def query(types: str, expected: list[str], sort: Sort = Sort.NONE) -> Query:
    return Query(1, "SELECT", types, sort, tuple(expected))


def agrees(dialect: Dialect, types: str, expected: list[str], found: Result, sort: Sort = Sort.NONE) -> bool:
    wanted = query(types, expected, sort)
    return matches(render(found, wanted, dialect), wanted, dialect)


def test_records_of_the_pg_dialect() -> None:
    script = parse_script(
        "# head\n\nstatement ok\nCREATE TABLE t (a int);\nSELECT 1\n\nconnection two\nstatement count 3\nDELETE FROM t\n\n"
        "statement error 42P01\nSELECT * FROM u\n\nquery IT rowsort\nSELECT 1, 'a  '\n----\n1\ta  \n",
        Dialect.PG,
    )
    assert script.records == (
        Statement(3, "CREATE TABLE t (a int);\nSELECT 1"),
        Statement(8, "DELETE FROM t", "two", 3),
        Failure(11, "SELECT * FROM u", "default", "42P01"),
        Query(14, "SELECT 1, 'a  '", "IT", Sort.ROWS, ("1\ta  ",)),
    )


def test_conditions_hold_for_the_next_record_alone() -> None:
    text = (
        "skipif postgresql\nstatement ok\nA\n\nonlyif mysql # why\nstatement ok\nB\n\nskipif mysql\nstatement ok\nC\n\n"
        "onlyif postgres\nstatement ok\nD\n\nonlyif mysql\nhalt\n\nstatement ok\nE\n\nhalt\n\nstatement ok\nF\n"
    )
    assert [record.sql for record in parse_script(text, Dialect.SQLITE).records] == ["C", "D", "E"]


def test_loops_are_unrolled() -> None:
    body = "query I\nSELECT ${i}::${t}\n----\n${i}\n\n"
    text = f"loop i 0 2\n\nforeach t int <signed>\n\n{body}endloop\n\nendloop\n\nstatement ok\nX\n"
    records = parse_script(text, Dialect.DUCKDB).records
    assert [record.sql for record in records[:2]] == ["SELECT 0::int", "SELECT 0::smallint"]
    assert len(records) == 9
    assert isinstance(records[4], Query) and records[4].expected == ("1",)


def test_what_only_duckdb_knows() -> None:
    text = "require skip_reload\n\nmode skip\n\nstatement ok\nA\n\nmode unskip\n\nstatement ok con1\nB\n"
    assert parse_script(text, Dialect.DUCKDB).records == (Statement(10, "B", "con1"),)
    assert parse_script("require parquet\n\nstatement ok\nA\n", Dialect.DUCKDB).skipped == "requires parquet"


def test_datafusion_error_texts_end_with_two_blank_lines() -> None:
    text = "query error\nSELECT x\n----\none\n\ntwo\n\n\nstatement ok\nA\n"
    assert [type(record) for record in parse_script(text, Dialect.DATAFUSION).records] == [Failure, Statement]


def test_directives_of_cockroachdb(tmp_path: Path) -> None:
    text = (
        "subtest one\n\nlet $x\nSELECT 1\n\nuser testuser nodeidx=1\n\nstatement error pgcode 42501 denied\nA $x\n\n"
        "user root\n\nretry\nstatement ok\nB\n\nrepeat 3\nstatement notice WARNING: x\nC\n\nsleep 50ms\n\n"
        "onlyif config local\nstatement ok\nD\n\nskipif config local\nquery TT partialsort(1, 2),colnames,retry lbl\nE\n"
        "----\na b\n\nskip_on_retry\n\nquery T nodeidx=2\nF\n"
    )
    assert parse_script(text, Dialect.COCKROACH).records == (
        Let(3, "SELECT 1", "$x"),
        Failure(8, "A $x", user="testuser"),
        Statement(14, "B", retry=True),
        *[Statement(18, "C")] * 3,
        Pause(21, 0.05),
        Query(28, "E", "TT", Sort.ROWS, ("a b",), label="lbl", with_column_names=True, retry=True),
        Query(35, "F", "T", Sort.NONE, None),
    )


def test_directives_of_duckdb() -> None:
    text = (
        "test-env LIMIT 5\n\ntags slow\n\nconcurrentloop i 0 3\n\nskipif i=1\nonlyif postgresql\nstatement ok\n"
        "A ${i} ${LIMIT}\n\nendloop\n\nmode output_hash\n\nreset label\n\nsleep 1 second\n\nstatement ok retry\nB\n"
    )
    records = parse_script(text, Dialect.DUCKDB).records
    assert [record.sql for record in records if isinstance(record, Statement)] == ["A 0 5", "A 2 5", "B"]
    assert [record.seconds for record in records if isinstance(record, Pause)] == [1.0]
    assert parse_script("sleep 2 minutes\n", Dialect.DUCKDB).records == (Pause(1, MAX_PAUSE_SECONDS),)


def test_directives_of_materialize_and_risingwave(tmp_path: Path) -> None:
    (tmp_path / "part.slt").write_text("statement ok retry 3 backoff 1s\nA\n")
    text = (
        "mode cockroach\n\nreset-server\n\ninclude ./part.sl?\n\nquery T multiline\nB\n----\none\n\ntwo\nEOF\n\n"
        "query I rowsort retry 5 backoff 100ms\nC\n----\n1\n\ncontrol substitution on\n\ncontrol sortmode rowsort\n\n"
        "query I\nD\n----\n2\n"
    )
    script = parse_script(text, Dialect.PG, tmp_path)
    assert script.dialect is Dialect.COCKROACH
    assert script.records == (
        Statement(1, "A", retry=True),
        Query(7, "B", "T", Sort.NONE, ("one", "", "two")),
        Query(15, "C", "I", Sort.ROWS, ("1",), retry=True),
        Query(24, "D", "I", Sort.ROWS, ("2",)),
    )
    (tmp_path / "part.slt").write_text("include part.slt\n")
    with pytest.raises(ScriptError, match="cannot be included"):
        parse_script("include part.slt\n", Dialect.PG, tmp_path)
    with pytest.raises(ScriptError, match="no file 'other'"):
        parse_script("include other\n", Dialect.PG, tmp_path)


@pytest.mark.parametrize(
    ("directive", "why"),
    [
        ("system ok", "line 3: 'system' runs programs"),
        ("simple conn=a,user=b", "'simple' compares the messages"),
        ("statement async x ok", "go on by themselves"),
        ("awaitstatement x", "'awaitstatement' needs"),
        ("query T kvtrace", "look into another server"),
        ("copy t data.csv", "'copy' reads files"),
        ("require-env HOME", "environment"),
        ("skip #12 flaky", "#12 flaky"),
    ],
)
def test_what_is_refused_is_said(directive: str, why: str) -> None:
    text = f"# head\n\n{directive}\nX\n\nstatement ok\nA\n"
    skipped = parse_script(text, Dialect.COCKROACH).skipped
    assert skipped is not None and why in skipped
    assert parse_script(f"mode skip\n\n{text}", Dialect.DUCKDB).skipped is None or directive.startswith(
        ("state", "query")
    )


class Scripted:
    """A session that answers from a list, and remembers what it was asked."""

    def __init__(self, *answers: Result | ServerError) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def execute(self, sql: str) -> Result | ServerError:
        self.asked.append(sql)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def close(self) -> None:
        pass


def test_values_of_let_and_records_that_take_a_while() -> None:
    text = (
        "let $id\nSELECT 7\n\nlet $id2\nSELECT 8\n\nstatement ok\nA $id2 $id\n\nquery T retry\nB\n----\n9\n\n"
        "let $none\nSELECT WHERE false\n"
    )
    session = Scripted(*(result([str(n)]) for n in (7, 8, 0, 1, 9)), Result([], [TEXT], ["c"], 0))
    outcome = FileResult(Path("x"))
    run_script(parse_script(text, Dialect.COCKROACH), lambda user: session, Options(""), outcome)
    assert session.asked == ["SELECT 7", "SELECT 8", "A 8 7", "B", "B", "SELECT WHERE false"]
    assert (outcome.total, outcome.failed) == (5, 1)
    assert outcome.problems[0].expected == "a single value"


def test_other_roles_have_sessions_of_their_own(one_node: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "roles.slt"
    path.write_text(
        "statement ok\nCREATE TABLE t (a int)\n\nuser slt_other\n\nquery T\nSELECT current_user\n----\nslt_other\n\n"
        "statement error\nSELECT * FROM t\n\nuser root\n\nstatement ok\nSELECT * FROM t\n"
    )
    outcome = run_file(path, Dialect.COCKROACH, Options(one_node.nodes[0].url))
    assert (outcome.total, outcome.failed) == (4, 0)
    with psycopg.connect(one_node.nodes[0].url) as admin:
        admin.execute("DROP ROLE slt_other")


@pytest.mark.parametrize("text", ["frobnicate\n", "statement perhaps\nA\n", "loop i 0 2\n\nstatement ok\nA\n"])
def test_a_file_that_is_none_names_its_line(text: str) -> None:
    with pytest.raises(ScriptError, match="line 1"):
        parse_script(text, Dialect.PG)


def test_pg_compares_exactly() -> None:
    found = result(["1.50", None, ""], ["2", "b", "t"])
    assert agrees(Dialect.PG, "RTT", ["1.50\tNULL\t(empty)", "2\tb\tt"], found)
    assert not agrees(Dialect.PG, "RTT", ["1.5\tNULL\t(empty)", "2\tb\tt"], found)
    assert not agrees(Dialect.PG, "RTT", ["2\tb\tt", "1.50\tNULL\t(empty)"], found)
    assert agrees(Dialect.PG, "RTT", ["2\tb\tt", "1.50\tNULL\t(empty)"], found, Sort.ROWS)
    assert agrees(Dialect.PG, "T", ["two", "lines"], result(["two\nlines"]))
    assert agrees(Dialect.PG, "T", [], result())


def test_sqlite_formats_by_type_letters_and_knows_hashes() -> None:
    found = result(["3.9", "2", "a\x01b"], ["-1", None, ""])
    values = ["3", "2.000", "a@b", "-1", "NULL", "(empty)"]
    assert agrees(Dialect.SQLITE, "IRT", values, found)
    assert agrees(Dialect.SQLITE, "IRT", sorted(values), found, Sort.VALUES)
    hashed = digest([values])
    assert agrees(Dialect.SQLITE, "IRT", [f"6 values hashing to {hashed}"], found)
    assert not agrees(Dialect.SQLITE, "IRT", [f"7 values hashing to {hashed}"], found)


def test_cockroach_and_datafusion_compare_words() -> None:
    moment = ["t", "2020-01-01 00:00:00"]
    types = [BOOL, TIMESTAMP]
    assert agrees(Dialect.COCKROACH, "BT", ["true   2020-01-01 00:00:00 +0000 +0000"], result(moment, types=types))
    assert agrees(Dialect.DATAFUSION, "BP", ["true 2020-01-01T00:00:00"], result(moment, types=types))
    assert agrees(Dialect.COCKROACH, "RT", ["1.5  ·"], result(["1.50", ""]))
    assert not agrees(Dialect.COCKROACH, "I", ["1"], result(["2"]))


def test_duckdb_takes_rows_or_values() -> None:
    found = result(["1", "t"], ["2", "f"], types=[INT4, BOOL])
    assert agrees(Dialect.DUCKDB, "IB", ["1\ttrue", "2\tfalse"], found)
    assert agrees(Dialect.DUCKDB, "IB", ["1", "1", "2", "0"], found)
    assert agrees(Dialect.DUCKDB, "R", ["0.1"], result(["0.10000000000000001"]))


def test_results_of_one_label_are_equal() -> None:
    labels: dict[str, str] = {}
    record = Query(1, "A", "I", Sort.ROWS, (), label="same")
    assert judge(record, result(["1"]), Dialect.DUCKDB, labels) is None
    assert judge(record, result(["1"]), Dialect.DUCKDB, labels) is None
    assert judge(record, result(["2"]), Dialect.DUCKDB, labels) is not None


def test_errors_are_compared_by_sqlstate() -> None:
    record = Failure(1, "A", sqlstate="42P01")
    assert judge(record, ServerError("42P01", "no"), Dialect.PG, {}) is None
    problem = judge(record, ServerError("XX000", "no"), Dialect.PG, {})
    assert problem is not None and problem.got == "error XX000 no"
    assert judge(Failure(1, "A"), ServerError("XX000", "no"), Dialect.DUCKDB, {}) is None
    assert judge(record, result(), Dialect.PG, {}) is not None
    assert judge(Statement(1, "A", count=2), result(["1"]), Dialect.PG, {}) is not None
    assert judge(Statement(1, "A"), ServerError("22012", "no"), Dialect.PG, {}) is not None


class OneShotSession:
    """Answers once, then is gone."""

    def __init__(self) -> None:
        self.left = 1
        self.closed = False

    def execute(self, sql: str) -> Result:
        if not self.left:
            raise ConnectionLost("gone")
        self.left -= 1
        return result()

    def close(self) -> None:
        self.closed = True


def test_a_lost_connection_fails_the_rest_of_the_file() -> None:
    script = parse_script("statement ok\nA\n\nstatement ok\nB\n\nstatement ok\nC\n", Dialect.PG)
    session, outcome = OneShotSession(), FileResult(Path("f"))
    run_script(script, lambda user: session, Options(""), outcome)
    assert (outcome.total, outcome.passed, outcome.failed, session.closed) == (3, 1, 2, True)
    assert outcome.problems[0].got == "connection lost: gone"


def test_files_and_their_dialects(tmp_path: Path) -> None:
    for name in ("derived/duckdb/a.slt", "verbatim/duckdb/b.test", "c.test", "d.slt", "e/f", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "INDEX.tsv").write_text("path\tdialect\ne/f\tcockroach\n")
    files = find_files([tmp_path], ["d.slt"])
    assert [(path.name, dialect_of(path, {})) for path in files] == [
        ("c.test", Dialect.SQLITE),
        ("a.slt", Dialect.PG),
        ("f", Dialect.COCKROACH),
        ("b.test", Dialect.DUCKDB),
    ]


def test_a_run_reports_what_failed(one_node: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.slt").write_text("statement ok\nCREATE TABLE t (a int)\n")
    (tmp_path / "bad.slt").write_text("query I nosort\nSELECT 1\n----\n2\n\nstatement error 22012\nSELECT 1 / 0\n")
    url, junit = one_node.nodes[0].url, tmp_path / "report" / "junit.xml"
    assert main(["slt", "--url", url, "--jobs", "2", "--junit", str(junit), str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert f"{tmp_path}/bad.slt:1" in shown and "2 of 3 records passed (66.67 %)" in shown
    assert 'failures="1"' in junit.read_text()
    assert main(["slt", "--url", url, "--skip", "bad", str(tmp_path)]) == 0


def test_no_statement_can_hang_the_runner(one_node: LocalCluster, tmp_path: Path) -> None:
    script = tmp_path / "slow.slt"
    script.write_text("statement ok\nSELECT count(*) FROM generate_series(1, 10000000000)\n\nstatement ok\nSELECT 1\n")
    outcome = run_file(script, Dialect.PG, Options(one_node.nodes[0].url, timeout_seconds=0.3))
    assert (outcome.passed, outcome.failed) == (1, 1)
    assert "no answer within 0.3 s" in outcome.problems[0].got


@pytest.mark.parametrize("suite", find_files([SUITES], []), ids=lambda path: path.stem)
def test_our_suites(one_node: LocalCluster, suite: Path) -> None:
    outcome = run_file(suite, dialect_of(suite, {}), Options(one_node.nodes[0].url))
    assert outcome.total and not outcome.problems
