"""node-postgres (the npm package pg), by a program that uses its everyday surface."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pydistdb_tools.local_cluster import LocalCluster

SOURCE = Path(__file__).parent / "node"


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
def test_node_postgres(one_node: LocalCluster, tmp_path: Path) -> None:
    for name in ("package.json", "everyday.js"):
        shutil.copy(SOURCE / name, tmp_path)
    install = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    command = ["node", "everyday.js", one_node.nodes[0].url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "ok\n", done.stdout + done.stderr
