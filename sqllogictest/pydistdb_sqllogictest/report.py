"""Tell how the files went: lines for people, JUnit XML for build servers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from pathlib import Path

from pydistdb_sqllogictest.run import FileResult, Problem

MAX_SHOWN_LINES = 30
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd]")


def summary_line(result: FileResult) -> str:
    """``ok    105/105  0.3s  path``."""
    if result.skipped is not None:
        return f"skip             {result.path} ({result.skipped})"
    verdict = "FAIL" if result.failed else "ok"
    return f"{verdict:4}  {result.passed:>6}/{result.total:<6} {result.seconds:6.1f}s  {result.path}"


def problem_lines(result: FileResult, problem: Problem) -> list[str]:
    """A failed record with its SQL, what was expected and what came."""
    lines = [f"{result.path}:{problem.line}"]
    for title, text in (("sql", problem.sql), ("expected", problem.expected), ("got", problem.got)):
        body = text.split("\n")
        if len(body) > MAX_SHOWN_LINES:
            body = [*body[:MAX_SHOWN_LINES], f"... {len(body) - MAX_SHOWN_LINES} more lines"]
        lines.append(f"  {title}:")
        lines.extend("    " + line for line in body)
    return lines


def total_line(results: Sequence[FileResult]) -> str:
    """The last line of a run."""
    passed, total = sum(result.passed for result in results), sum(result.total for result in results)
    bad = sum(1 for result in results if result.failed)
    skipped = sum(1 for result in results if result.skipped is not None)
    rate = 100.0 * passed / total if total else 100.0
    return (
        f"{passed} of {total} records passed ({rate:.2f} %) in {len(results) - skipped} files;"
        f" {bad} files with failures, {skipped} skipped"
    )


def write_junit(path: Path, results: Sequence[FileResult]) -> None:
    """One test case per file, in the XML that build servers read."""
    suite = xml.Element(
        "testsuite",
        name="sqllogictest",
        tests=str(len(results)),
        failures=str(sum(1 for result in results if result.failed)),
        skipped=str(sum(1 for result in results if result.skipped is not None)),
        time=f"{sum(result.seconds for result in results):.3f}",
    )
    for result in results:
        case = xml.SubElement(
            suite, "testcase", classname=str(result.path.parent), name=result.path.name, time=f"{result.seconds:.3f}"
        )
        if result.skipped is not None:
            xml.SubElement(case, "skipped", message=_clean(result.skipped))
        elif result.failed:
            failure = xml.SubElement(case, "failure", message=f"{result.failed} of {result.total} records failed")
            texts = ("\n".join(problem_lines(result, problem)) for problem in result.problems)
            failure.text = _clean("\n\n".join(texts))
    path.parent.mkdir(parents=True, exist_ok=True)
    xml.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
