"""The node's log: a line per event, as text, as key=value pairs, or as JSON.

    text       2026-03-01 12:00:00.123 WARNING pydistdb.sql.slow: slow statement duration_ms=812.4 user=alice …
    keyvalue   time=2026-03-01T12:00:00.123Z level=warning logger=pydistdb.sql.slow node=node1 event="slow statement" …
    json       {"time":"2026-03-01T12:00:00.123Z","level":"warning",…,"event":"slow statement","duration_ms":812.4}

What an event is about goes into ``extra={"fields": {…}}``: programs need not take texts apart.  A line is a line: newlines are
escaped in all but the text form, where they belong to a traceback.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any

FORMATS = ("text", "keyvalue", "json")
_PLAIN = re.compile(r'[^\s"=\\\x00-\x1f\x7f]+\Z')


def configure(level: str, format: str, node_name: str) -> None:
    """Send the process's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(format, node_name))
    logging.basicConfig(level=level, handlers=[handler])


class LineFormatter(logging.Formatter):
    """See the module's introduction."""

    def __init__(self, format: str, node_name: str) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._format = format
        self._node_name = node_name

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        if self._format == "text":
            text = super().format(record)
            if fields:
                first, separator, rest = text.partition("\n")
                text = f"{first} {_pairs(fields)}{separator}{rest}"
            return text
        described = self._described(record) | fields
        if self._format == "json":
            return json.dumps(described, ensure_ascii=False, separators=(",", ":"), default=str)
        return _pairs(described)

    def _described(self, record: logging.LogRecord) -> dict[str, Any]:
        seconds, milliseconds = divmod(int(record.created * 1e3), 1_000)
        described = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{milliseconds:03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "node": self._node_name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            described["exception"] = self.formatException(record.exc_info)
        return described


def _pairs(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={_word(value)}" for name, value in fields.items())


def _word(value: Any) -> str:
    text = str(value)
    return text if _PLAIN.match(text) else json.dumps(text, ensure_ascii=False)
