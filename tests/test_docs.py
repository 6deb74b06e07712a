"""Pages that name code are held to it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
NAMES = sorted(set(re.findall(r"`(pydistdb[a-z_]*(?:\.[A-Za-z_]+)+)`", (DOCS / "life-of-a-query.md").read_text())))


def _resolve(dotted: str) -> object:
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(dotted)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_in_the_life_of_a_query_exists(name: str) -> None:
    assert _resolve(name) is not None


def test_the_page_names_something() -> None:
    assert len(NAMES) > 20


@pytest.mark.parametrize(
    "page", sorted(DOCS.parent.glob("*.md")) + sorted(DOCS.rglob("*.md")), ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
