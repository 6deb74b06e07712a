"""What a node tells monitoring: names documented and served, format, dashboard, alerts, log lines."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydistdb_server.exposition import Buckets, Family, render
from pydistdb_server.http import BadRequest, parse_request
from pydistdb_server.logs import LineFormatter
from pydistdb_server.metrics import FAMILIES

from tests.server.test_node import Process

ROOT = Path(__file__).parents[2]
SAMPLE = re.compile(r'(pydistdb_[a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)+\})? (-?[\d.e+-]+)\Z')


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("metrics"), "--log-format", "json").start()
    yield process
    process.stop()


def _families(text: str) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE pydistdb_(\w+) (\w+)$", text, re.MULTILINE))


def test_every_metric_is_documented_and_served(node: Process) -> None:
    text = node.get("/metrics")
    documented = re.findall(
        r"^\| `pydistdb_(\w+)` \| (\w+) \| (.*) \|$", (ROOT / "docs/operations.md").read_text(), re.M
    )
    assert documented == [tuple(family) for family in FAMILIES.values()]
    assert _families(text) == {name: kind for name, kind, _ in documented}
    for line in text.splitlines():
        assert line.startswith("# ") or SAMPLE.match(line), line


def test_statements_are_counted_by_kind(node: Process) -> None:
    with node.connect() as connection:
        connection.execute("CREATE TABLE counted (id int PRIMARY KEY)")
        connection.execute("INSERT INTO counted SELECT generate_series(1, 10)")
        for _ in range(20):
            connection.execute("SELECT id FROM counted WHERE id = 1")
    text = node.get("/metrics")
    assert _value(text, 'sql_statements_total{kind="insert"}') == 1
    assert _value(text, 'sql_statements_total{kind="select"}') >= 20
    assert _value(text, 'sql_statement_seconds_count{kind="insert"}') == 1
    buckets = [float(count) for count in re.findall(r'_seconds_bucket\{kind="select",le="[^"]+"\} (\d+)', text)]
    assert buckets == sorted(buckets) and buckets[-1] == _value(text, 'sql_statement_seconds_count{kind="select"}')
    assert _value(text, 'ranges{state="leader"}') == _value(text, "leases") > 0
    assert _value(text, "ranges_underreplicated") == 0
    stats = json.loads(node.get("/stats"))
    assert stats.keys() == FAMILIES.keys()
    assert stats["sql_statement_seconds"]["insert"]["count"] == 1
    cluster = json.loads(node.get("/status"))["cluster_id"]
    assert [name.split(",")[1:] for name in stats["build_info"]] == [["1", "node1", cluster]]


def _value(text: str, sample: str) -> float:
    found = re.search(rf"^pydistdb_{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    assert found, sample
    return float(found.group(1))


def test_ready(node: Process) -> None:
    assert node.get("/health?ready=1") == "ok\n"
    with node.connect() as connection:
        connection.execute("SELECT proddb.drain(1)")
        with pytest.raises(Exception, match="503"):
            node.get("/health?ready=1")
        assert node.get("/health") == "ok\n"
        connection.execute("SELECT proddb.recommission(1)")
    assert node.get("/health?ready=1") == "ok\n"


@pytest.mark.parametrize("name", ["grafana.json", "alerts.yml"])
def test_dashboard_and_alerts_use_metrics_that_exist(name: str) -> None:
    text = (ROOT / "docs/monitoring" / name).read_text()
    if name.endswith("json"):
        json.loads(text)
    names = set(re.findall(r"pydistdb_[a-z_]+", text))
    served = {f"pydistdb_{family.name}" for family in FAMILIES.values()}
    served |= {
        f"pydistdb_{f.name}{end}" for f in FAMILIES.values() if f.kind == "histogram" for end in ("_bucket", "_count")
    }
    assert len(names) > 10 and names <= served


def test_the_log_is_one_json_object_per_line(node: Process) -> None:
    with node.connect() as connection:
        connection.execute("SET log_min_duration_statement = 0")
        connection.execute("SELECT 'a\nb'")
    lines = [json.loads(line) for line in node.log.read_text().splitlines() if line.startswith("{")]
    slow = next(line for line in lines if line.get("statement") == "SELECT 'a\nb'")
    assert (slow["event"], slow["user"], slow["level"], slow["node"]) == (
        "slow statement",
        "postgres",
        "warning",
        "node1",
    )
    assert slow["duration_ms"] >= 0


def test_exposition() -> None:
    family = Family("x_seconds", "histogram", "Time.")
    text = render([(family, [({"kind": 'a"\\\n'}, Buckets((0.001, 0.5), (1, 0, 2), 3.5))])]).decode()
    assert text == (
        "# HELP pydistdb_x_seconds Time.\n# TYPE pydistdb_x_seconds histogram\n"
        'pydistdb_x_seconds_bucket{kind="a\\"\\\\\\n",le="0.001"} 1\n'
        'pydistdb_x_seconds_bucket{kind="a\\"\\\\\\n",le="0.5"} 1\n'
        'pydistdb_x_seconds_bucket{kind="a\\"\\\\\\n",le="+Inf"} 3\n'
        'pydistdb_x_seconds_sum{kind="a\\"\\\\\\n"} 3.5\n'
        'pydistdb_x_seconds_count{kind="a\\"\\\\\\n"} 3\n'
    )


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("text", r"\S+ \S+ WARNING db: it happened n=1 what=\"a b\"\Z"),
        ("keyvalue", r'time=\S+Z level=warning logger=db node=n1 event="it happened" n=1 what="a b"\Z'),
        (
            "json",
            r'\{"time":"\S+Z","level":"warning","logger":"db","node":"n1","event":"it happened","n":1,"what":"a b"\}\Z',
        ),
    ],
)
def test_log_formats(format: str, expected: str) -> None:
    record = logging.LogRecord("db", logging.WARNING, "x.py", 1, "it %s", ("happened",), None)
    record.__dict__["fields"] = {"n": 1, "what": "a b"}
    assert re.match(expected, LineFormatter(format, "n1").format(record))


def test_an_exception_stays_on_its_line() -> None:
    try:
        raise ValueError("x\ny")
    except ValueError:
        record = logging.LogRecord("db", logging.ERROR, "x.py", 1, "failed", (), sys.exc_info())
    for format in ("keyvalue", "json"):
        assert "\n" not in LineFormatter(format, "n1").format(record)
    assert io.StringIO(LineFormatter("text", "n1").format(record)).readline().endswith("failed\n")


def test_requests_are_taken_apart() -> None:
    assert parse_request(b"GET /a?x=1&y=%20z HTTP/1.1\r\nHost: h\r\n") is None
    found = parse_request(b"GET /a%62?x=1&y=%20z HTTP/1.1\r\nHOST: h\r\n\r\n")
    assert found is not None
    assert (found.path, found.query, found.headers["host"]) == ("/ab", {"x": "1", "y": " z"}, "h")
    post = b"POST /p HTTP/1.1\r\nContent-Length: 7\r\n\r\n"
    assert parse_request(post + b"a=1&b") is None
    sent = parse_request(post + b"a=1&b=2")
    assert sent is not None and sent.form() == {"a": "1", "b": "2"}
    for bad in (b"nonsense\r\n\r\n", b"PUT / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
        with pytest.raises(BadRequest):
            parse_request(bad)
    with pytest.raises(BadRequest):
        parse_request(b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n")
    with pytest.raises(BadRequest):
        parse_request(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
