"""pg_amop and pg_amproc: which operators and functions an index of a family uses, as Postgres lists them.

Only the families of btree and hash indexes are listed; their facts come from data files.
"""

from __future__ import annotations

from pydistdb.sql.pg_catalog.define import read_lines, static_rows

static_rows(
    "pg_amop",
    [
        {
            "oid": int(oid),
            "amopfamily": int(family),
            "amoplefttype": int(left),
            "amoprighttype": int(right),
            "amopstrategy": int(strategy),
            "amoppurpose": "s",
            "amopopr": int(operator),
            "amopmethod": int(method),
            "amopsortfamily": 0,
        }
        for oid, family, left, right, strategy, operator, method in read_lines("access_operators.txt")
    ],
    by=("oid", "amopfamily", "amopopr"),
)
static_rows(
    "pg_amproc",
    [
        {
            "oid": int(oid),
            "amprocfamily": int(family),
            "amproclefttype": int(left),
            "amprocrighttype": int(right),
            "amprocnum": int(number),
            "amproc": int(function),
        }
        for oid, family, left, right, number, function in read_lines("access_functions.txt")
    ],
    by=("oid", "amprocfamily"),
)
