"""The web console over plain HTTP: pages, who may look and act, forged requests; and how its pictures are cut."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from urllib.parse import urlencode

import pytest
from pydistdb.kv.in_doubt import InDoubt, joined
from pydistdb_server.console import charts, heat_map, html
from pydistdb_server.console.heat_map import Band
from pydistdb_server.console.history import HeatColumn, add_spans
from pydistdb_server.console.site import PAGES

from tests.server.test_node import Process

VOID = frozenset({"meta", "link", "input", "rect", "line", "path"})


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("console")).start()
    with process.connect() as connection:
        connection.execute('CREATE TABLE "<b>&table" (id int PRIMARY KEY, v text)')
        connection.execute("""INSERT INTO "<b>&table" SELECT g, repeat('x', 50) FROM generate_series(1, 500) g""")
        connection.execute("""SELECT proddb.split_at('"<b>&table"', '0')""")
        connection.execute("CREATE ROLE ann LOGIN")
        connection.execute("CREATE ROLE sue LOGIN SUPERUSER PASSWORD 'secret'")
    yield process
    process.stop()


class Browser:
    """Keeps the cookie."""

    def __init__(self, node: Process) -> None:
        self._port = node.http_port
        self.cookie = ""

    def ask(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> tuple[int, str, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            sent["Cookie"] = self.cookie
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        cookie = answer.headers.get("Set-Cookie", "")
        if cookie:
            self.cookie = cookie.partition(";")[0] if "Max-Age=0" not in cookie else ""
        return answer.status, text, answer.headers

    def get(self, path: str, **headers: str) -> str:
        status, text, _ = self.ask("GET", path, None, **headers)
        assert status == 200, (status, text)
        return text

    def post(self, path: str, fields: dict[str, str], **headers: str) -> int:
        return self.ask("POST", path, urlencode(fields), **headers)[0]

    def sign_in(self, user: str, password: str = "") -> int:
        return self.post("/console/sign-in", {"user": user, "password": password})

    def csrf(self, path: str = "/console/ranges") -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get(path))
        assert found
        return found[1]


class Balance(HTMLParser):
    """Checks that every element is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_whole_and_load_nothing_from_elsewhere(node: Process, path: str) -> None:
    status, text, headers = Browser(node).ask("GET", f"/console{path}")
    assert status == 200
    assert text.startswith("<!DOCTYPE html>") and "<h1>" in text and '<html lang="en">' in text
    balance = Balance()
    balance.feed(text)
    assert not balance.open
    assert not re.search(r'(src|href)="(https?:)?//(?!127\.0\.0\.1)', text)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert not re.search(r"\son\w+=|\sstyle=", text)  # the policy forbids both
    assert "<b>&table" not in text
    if path:
        assert f'href="/console{path}" aria-current="page"' in text or path == "/statement"


def test_what_pages_show(node: Process) -> None:
    browser = Browser(node)
    assert "Every node answers" in browser.get("/console")
    assert "&lt;b&gt;&amp;table/0" in browser.get("/console/ranges?find=table&order=key")
    assert "No range fits" in browser.get("/console/ranges?find=nosuchtable")
    statements = browser.get("/console/statements?order=rows")
    link = re.search(r'href="(/console/statement\?id=[\d.-]+)"><code class="clip wide">INSERT INTO', statements)
    assert link and "500" in browser.get(link[1])
    with node.connect(application_name="<i>me") as connection:
        connection.execute("SELECT 1")
        assert "&lt;i&gt;me" in browser.get("/console/sessions")
    fragment = browser.get("/console/nodes", X_Fragment="main")
    assert fragment.startswith("<h1>Nodes") and "node1" in fragment
    for bad in ("/console/ranges?page=-1&order=%3Cx", "/console/keys?minutes=99999", "/console/statement?id=1.x"):
        browser.get(bad)


def test_prepared_transactions_wait_for_their_clients(node: Process) -> None:
    with node.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("""INSERT INTO "<b>&table" VALUES (9999, 'x')""")
        connection.execute("PREPARE TRANSACTION 'left <behind>'")
        in_doubt = "SELECT state, intents > 0, anchor_pretty FROM proddb.transactions_in_doubt"
        assert connection.execute(in_doubt).fetchall() == [("prepared", True, "<b>&table/9999")]
        assert "<code>left &lt;behind&gt;</code>" in Browser(node).get("/console/transactions")
        connection.execute("ROLLBACK PREPARED 'left <behind>'")
    assert "Nobody has prepared a transaction" in Browser(node).get("/console/transactions")


def test_files_are_cached_by_their_content(node: Process) -> None:
    browser = Browser(node)
    for name in ("console.css", "console.js", "icon.svg"):
        status, _, headers = browser.ask("GET", f"/console/{name}")
        assert status == 200
        assert browser.ask("GET", f"/console/{name}", if_none_match=headers["ETag"])[0] == 304
    assert browser.ask("GET", "/")[0] == 303
    assert browser.ask("GET", "/console/split")[0] == 405
    assert browser.ask("POST", "/console/ranges", "")[0] == 405


def test_pages_of_other_names_cannot_be_read(node: Process) -> None:
    browser = Browser(node)
    assert browser.ask("GET", "/console", None, host="evil.example:80")[0] == 403
    for host in ("localhost:7180", "[::1]:7180", "127.0.0.1", "db.localhost"):
        assert browser.ask("GET", "/console", None, host=host)[0] == 200


def test_only_superusers_split_and_only_from_our_own_page(node: Process) -> None:
    reader, ann, sue = Browser(node), Browser(node), Browser(node)
    assert "data-confirm" not in reader.get("/console/ranges")
    assert reader.post("/console/split", {"range": "2"}) == 403
    assert ann.sign_in("ann") == 303
    assert "Split range" not in ann.get("/console/ranges")
    assert ann.post("/console/split", {"range": "2", "csrf": ann.csrf()}) == 403
    assert sue.sign_in("sue") == 403 and sue.sign_in("sue", "wrong") == 403
    assert sue.sign_in("nobody", "x") == 403
    assert sue.sign_in("sue", "secret") == 303
    text = sue.get("/console/ranges?find=table")
    splittable = re.findall(r'name="range" value="(\d+)"', text)
    number = max(splittable, key=int)  # not the one with the system's records
    fields = {"range": number, "csrf": sue.csrf()}
    assert sue.post("/console/split", {"range": number}) == 403
    assert sue.post("/console/split", {**fields, "csrf": ann.csrf()}) == 403
    assert sue.post("/console/split", fields, Sec_Fetch_Site="cross-site") == 403
    assert sue.post("/console/split", fields, Origin="http://evil.example") == 403
    assert sue.post("/console/split", fields) == 303
    text = sue.get("/console/ranges?find=table")
    assert f"Range {number} was split" in text and len(re.findall(r'name="range"', text)) == len(splittable) + 1
    assert "was split" not in sue.get("/console/ranges")  # told once
    assert sue.post("/console/split", {"range": "999999", "csrf": sue.csrf()}) == 303
    assert "was not split" in sue.get("/console/ranges")
    with node.connect() as connection:
        connection.execute("ALTER ROLE sue NOSUPERUSER")
        assert sue.post("/console/split", fields) == 403
        connection.execute("ALTER ROLE sue SUPERUSER")
    assert sue.post("/console/sign-out", {"csrf": "x"}) == 403
    assert sue.post("/console/sign-out", {"csrf": sue.csrf()}) == 303
    assert sue.post("/console/split", fields) == 403


def test_with_passwords_nobody_looks_without_signing_in(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("scram")
    process = Process(folder).start()
    with process.connect() as connection:
        for statement in (
            "ALTER ROLE postgres PASSWORD 'pg'",
            "CREATE ROLE watcher LOGIN PASSWORD 'w' IN ROLE pg_monitor",
            "CREATE ROLE plain LOGIN PASSWORD 'p'",
            "CREATE ROLE bare LOGIN SUPERUSER",
        ):
            connection.execute(statement)
    process.stop()
    process.options = ("--auth", "scram-sha-256")
    process.start()
    try:
        for path in PAGES:
            status, text, headers = Browser(process).ask("GET", f"/console{path}")
            assert (status, text, headers["Location"]) == (303, "", "/console/sign-in")
        watcher, plain = Browser(process), Browser(process)
        assert "password" in watcher.get("/console/sign-in")
        assert Browser(process).sign_in("bare") == 403  # no password: no way in
        assert watcher.sign_in("watcher", "w") == 303
        assert "Overview" in watcher.get("/console")
        assert watcher.post("/console/split", {"range": "1", "csrf": watcher.csrf()}) == 403
        assert plain.sign_in("plain", "p") == 303
        status, text, _ = plain.ask("GET", "/console/statements")
        assert status == 403 and "pg_monitor" in text
        watcher.cookie = "proddb_console=forged"
        assert watcher.ask("GET", "/console")[0] == 303
        guesser = Browser(process)
        for _ in range(5):
            guesser.sign_in("postgres", "guess")
        assert guesser.sign_in("postgres", "pg") == 403  # even the right one has to wait now
    finally:
        process.stop()


# ------------------------------------------------------------------------------------------------ parts


def test_everything_is_escaped() -> None:
    made = html.tag(
        "a", "<script>", html.Html("<b>ok</b>"), None, 3, href='"><x', class_="c", disabled=True, hidden=False
    )
    assert made == '<a href="&quot;&gt;&lt;x" class="c" disabled>&lt;script&gt;<b>ok</b>3</a>'
    assert html.table("T", ("a", "#b"), []) == '<p class="nothing">None.</p>'
    assert '<td class="number">&lt;</td>' in html.table("T", ("a", "#b"), [("x", "<")])


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (html.size(999), "999 B"),
        (html.size(1_500), "1.5 kB"),
        (html.size(2.5e12), "2.5 TB"),
        (html.size(None), "–"),
        (html.milliseconds(0.0123), "12 µs"),
        (html.milliseconds(12.34), "12.3 ms"),
        (html.milliseconds(90_000), "90 s"),
        (html.duration(7_300), "2 h"),
        (html.rate(0), "0.0"),
        (html.rate(0.25), "0.25"),
        (html.rate(12_345.6), "12,346"),
    ],
)
def test_figures_for_people(made: str, expected: str) -> None:
    assert made == expected


def _bands(count: int) -> list[Band]:
    def key(number: int) -> bytes:
        return number.to_bytes(2, "big")

    return [Band(key(n), key(n + 1), f"t{n // 100}", f"{n}", f"{n + 1}") for n in range(count)]


def test_a_thousand_ranges_become_few_bands_and_busy_ones_stay_alone() -> None:
    bands = _bands(1_000)
    made = heat_map.make_bands(bands, {bands[n].start: 50.0 for n in range(300, 320)})
    assert len(made) == heat_map.MOST_BANDS
    assert [band.title for band in made if 300 <= int(band.first) < 320] == [f"{n} – {n + 1}" for n in range(300, 320)]
    assert (made[0].start, made[-1].end, sum(band.ranges for band in made)) == (bands[0].start, bands[-1].end, 1_000)
    assert all(one.end == other.start for one, other in pairwise(made))
    assert max(band.ranges for band in made) < 40  # the cold ones are cut evenly, and most of them within their table
    assert sum("…" in band.label for band in made) < 5
    cold = heat_map.make_bands(_bands(50_000), {})
    assert len(cold) == heat_map.MOST_BANDS and sum(band.ranges for band in cold) == 50_000
    assert heat_map.make_bands(bands[:7], {}) == bands[:7]


def test_what_a_range_got_before_its_split_is_shared_out() -> None:
    bands = _bands(4)
    columns = [
        HeatColumn(10, [(bands[0].start, bands[3].end, 40.0)]),
        HeatColumn(11, [(bands[1].start, bands[1].end, 7.0), (bands[2].start, bands[3].end, 2.0)]),
        HeatColumn(99, [(bands[1].start, bands[1].end, 7.0)]),
    ]
    matrix = heat_map.Matrix(bands, [10, 11])
    for column in columns:
        matrix.add(column)
    assert matrix.rows == [[10.0, 0.0], [10.0, 7.0], [10.0, 1.0], [10.0, 1.0]]
    drawn = heat_map.heat_map(bands, matrix.rows, [50, 55], 5)
    assert 'class="heat9"' in drawn and "at most 10.0 requests per second" in drawn
    assert heat_map.level_of(0, 100) == 0 and heat_map.level_of(0.1, 100) == 1 and heat_map.level_of(100, 100) == 9
    assert "<svg" in heat_map.heat_map([], [], [], 5)


def test_means_of_spans() -> None:
    found: dict[tuple[bytes, bytes], float] = {}
    add_spans(found, [(b"a", b"b", 4.0)], 0.5)
    add_spans(found, [(b"a", b"b", 2.0), (b"b", b"c", 1.0)], 0.5)
    assert found == {(b"a", b"b"): 3.0, (b"b", b"c"): 0.5}


def test_lines() -> None:
    drawn = charts.lines("A <title>", [charts.Series("x", [None, 1.0, None, 3.0, 4.0])], 60)
    path = re.search(r'class="line line0" d="([^"]*)"', drawn)
    assert path and [part[0] for part in re.findall(r"[ML]", path[1])] == ["M", "M", "L"]
    assert "A &lt;title&gt;: x now 4.0" in drawn
    assert charts.linear([]).marks[-1] == 1 and charts.linear([437.0]).marks[-1] == 500
    scale = charts.logarithmic([0.02, 900.0])
    assert [scale.place(mark) for mark in (scale.marks[0], scale.marks[-1])] == [0.0, 1.0]
    assert "nan" not in charts.lines("empty", [charts.Series("x", [])], 60)


def test_parts_of_a_transaction_in_doubt_are_joined() -> None:
    one, two = b"1" * 16, b"2" * 16
    found = joined(
        [
            InDoubt(one, b"k", 3, (7,), ""),
            InDoubt(one, b"k", 1, (9, 7), "undecided"),
            InDoubt(two, b"x", 2, (8,), ""),
            InDoubt(two, b"x", 0, (), "committed"),
        ]
    )
    assert found == [InDoubt(one, b"k", 4, (7, 9), "undecided"), InDoubt(two, b"x", 2, (8,), "committed")]
