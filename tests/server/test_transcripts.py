"""Every transcript in tests/server/golden: what a client sends (wire_client.py has the commands), what the server answers.

``…`` at the end of a line keeps the message back, to be sent together with the next.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.wire_client import WireScript
from tests.support import golden

SCRIPTS = sorted((Path(__file__).parent / "golden").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    script = WireScript()
    try:
        golden.run(script.execute, path)
    finally:
        script.server.close()
