"""psql 15's commands over one object of every kind: what it prints here is what it prints of PostgreSQL 15.

``psql.sql`` is run by psql itself, the transcript compared with ``psql.out`` (``pytest --rewrite`` writes it anew; then compare
it with that of a PostgreSQL: ``psql -X -f psql.sql``).  Only the name of the database and times are left out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pydistdb_tools.local_cluster import LocalCluster

from tests.drivers.test_pg_dump import _new_database
from tests.support import golden

_FOLDER = Path(__file__).parent
_PSQL = next(
    (path for folder in ("/usr/lib/postgresql/15/bin", "/usr/bin") if (path := shutil.which("psql", path=folder))), ""
)
_TIMES = re.compile(r"^.*\(every [\d.]+s\)$", re.MULTILINE)


def transcript(url: str) -> str:
    """What psql prints, errors in their places."""
    environment = os.environ | {"PSQL_EDITOR": "cat", "TZ": "UTC", "LC_ALL": "C.UTF-8", "PSQLRC": "/dev/null"}
    done = subprocess.run(
        [_PSQL, url, "-X", "-f", "psql.sql"],
        cwd=_FOLDER,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    without_places = re.sub(r"^(?:psql:psql\.sql:\d+: |LOCATION:.*\n)", "", done.stdout, flags=re.MULTILINE)
    return _TIMES.sub("(every 0.01s)", without_places)


def test_psql_prints_what_it_prints_of_postgres(one_node: LocalCluster) -> None:
    if (
        not _PSQL
        or " 15." not in subprocess.run([_PSQL, "--version"], capture_output=True, text=True, check=True).stdout
    ):
        pytest.skip("psql 15 is not installed")
    expected = _FOLDER / "psql.out"
    actual = transcript(_new_database(one_node, "shown"))
    if golden.rewrite:
        expected.write_text(actual, encoding="utf-8")
    assert actual.split("\n") == expected.read_text(encoding="utf-8").split("\n")
