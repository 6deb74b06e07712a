"""The first rows of each group out of many, in memory and where they outgrow it."""

from __future__ import annotations

import pytest

from tests.support.sql_client import SqlServer

ROWS = "(select i % {groups} as g, i * 7919 % 97 as v, i from generate_series(1, 20000) as i) as s"


@pytest.fixture(scope="module")
def server() -> SqlServer:
    return SqlServer()


@pytest.mark.parametrize("work_mem", ["64kB", "4MB"])
@pytest.mark.parametrize("groups", [1, 50, 9_000])
@pytest.mark.parametrize(
    ("counting", "order"), [("row_number", "v, i"), ("rank", "v desc"), ("dense_rank", "v"), ("row_number", "i desc")]
)
def test_the_same_as_all_rows_numbered(
    server: SqlServer, work_mem: str, groups: int, counting: str, order: str
) -> None:
    client = server.connect()
    client.execute(f"set work_mem = '{work_mem}'")
    over = f"(partition by g order by {order})"
    numbered = f"select g, i, {counting}() over {over} as place from {ROWS.format(groups=groups)}"
    sums = "count(*), sum(hashint4(i)), sum(place * i), min(i), max(g)"
    plan = client.execute(f"explain select {sums} from ({numbered}) x where place <= 2")
    assert "Top-N Per Group" in str(plan)
    few = client.rows(f"select {sums} from ({numbered}) x where place <= 2")
    assert few == client.rows(f"select {sums} from ({numbered}) x where place + 0 * g <= 2")
