"""Every script in tests/raft/golden (the command language is in tests/raft/cluster.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.raft.cluster import Cluster
from tests.support import golden

SCRIPTS = sorted((Path(__file__).parent / "golden").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    golden.run(Cluster().execute, path)
