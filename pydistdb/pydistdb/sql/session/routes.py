"""SET proddb.trace = on: after each query, where it was done.

::

    SELECT u.city, count(*) FROM users u JOIN orders o USING (user_id) GROUP BY u.city;
    NOTICE:  [Distributed query, collocated join, partial aggregate, 3 shards queried] [45 ms]
    SELECT * FROM users WHERE user_id = 12345;
    NOTICE:  [Single-shard query, 1 shard queried] [1 ms]

A shard is a range here, as in EXPLAIN, by which this is found out, after the query has been answered.
"""

from __future__ import annotations

from time import perf_counter_ns

from pydistdb.sql.exec import RunContext
from pydistdb.sql.exec.query import CompiledQuery


async def route_of(query: CompiledQuery, run: RunContext, started_ns: int) -> str | None:
    """The line for a query that ``run`` has run; None if it read no table."""
    elapsed_ms = (perf_counter_ns() - started_ns) / 1e6
    touched = await query.touched(run)
    count = len(touched.ranges)
    if not count:
        return None
    if count == 1:
        words = ["Single-shard query"]
    else:
        words = ["Distributed query", *dict.fromkeys(each for each in touched.strategies if each != "scan")]
    shards = f"{count} shard{'s' if count > 1 else ''} queried"
    return f"[{', '.join([*words, shards])}] [{elapsed_ms:.0f} ms]"
