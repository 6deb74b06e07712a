"""The golden-script helper itself: blocks, errors, continuation, rewriting."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import golden

SCRIPT = """\
# A comment.
echo one
echo two
---
one
two

!fail badly key=value
---
Error: badly

text SELECT 'it''s'
  FROM t
---
SELECT 'it''s'
  FROM t

blank
---
> a
>
> b
"""


def execute(command: golden.Command) -> str:
    match command.name:
        case "echo":
            return command.arguments[0]
        case "fail":
            assert command.options == {"key": "value"}
            raise ValueError(command.arguments[0])
        case "text":
            return command.text
        case "blank":
            return "a\n\nb"
        case _:
            raise KeyError(command.name)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "script.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_script_that_matches(tmp_path: Path) -> None:
    golden.run(execute, write(tmp_path, SCRIPT))


def test_difference_is_shown(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"-one\n\+uno"):
        golden.run(execute, write(tmp_path, SCRIPT.replace("echo one", "echo uno")))


def test_rewrite_restores_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "rewrite", True)
    path = write(tmp_path, SCRIPT.replace("\ntwo\n\n", "\nnonsense\n\n") + "\necho last\n")
    golden.run(execute, path)
    assert path.read_text(encoding="utf-8") == SCRIPT + "\necho last\n---\nlast\n"


@pytest.mark.parametrize("rewrite", [False, True])
@pytest.mark.parametrize("line", ["typo", "!echo fine"])
def test_surprises_fail_even_when_rewriting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, rewrite: bool
) -> None:
    monkeypatch.setattr(golden, "rewrite", rewrite)
    with pytest.raises(AssertionError, match=r"script\.txt:1"):
        golden.run(execute, write(tmp_path, line + "\n---\n"))


def test_block_without_blank_line_is_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 4"):
        golden.run(execute, write(tmp_path, "echo one\n---\necho two\n---\n"))
