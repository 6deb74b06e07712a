"""pgjdbc (Debian's libpostgresql-jdbc-java), by a program that uses its everyday surface."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pydistdb_tools.local_cluster import LocalCluster

SOURCE = Path(__file__).parent / "jdbc" / "Everyday.java"
DRIVER = Path("/usr/share/java/postgresql.jar")


@pytest.mark.skipif(not shutil.which("javac") or not DRIVER.exists(), reason="a JDK and pgjdbc are not installed")
def test_jdbc(one_node: LocalCluster, tmp_path: Path) -> None:
    compile_it = ["javac", "-cp", str(DRIVER), "-d", str(tmp_path), str(SOURCE)]
    subprocess.run(compile_it, check=True, capture_output=True, timeout=100)
    address = f"jdbc:postgresql://127.0.0.1:{one_node.nodes[0].sql_port}/postgres?user=postgres"
    command = ["java", "-cp", f"{DRIVER}:{tmp_path}", "Everyday", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stdout == "ok\n", done.stdout + done.stderr
