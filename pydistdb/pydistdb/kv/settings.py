"""Settings of the whole cluster: what they are called, what they mean, and how their values are written.

They are records of range 1 (``b"\\x02setting/" name``), each a text.  The leaseholder of range 1 reads them and the pings carry
those that are not at their defaults to every node, within a second; so each node knows them without asking.

    parse("server.time_until_dead", "90s")  → 90.0          parse("range.max_bytes", "64MB")  → 67108864.0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydistdb.kv.api import KVError

_UNITS = {
    "s": {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0},
    "B": {"": 1.0, "B": 1.0, "kB": 1024.0, "MB": 1024.0**2, "GB": 1024.0**3},
    "": {"": 1.0},
}
_WORDS = {"on": 1.0, "off": 0.0, "true": 1.0, "false": 0.0}


class SettingRefused(KVError):
    """There is no such setting, or it cannot have this value."""


@dataclass(frozen=True, slots=True)
class Setting:
    """``unit``: what a bare number counts ("": a plain number; "on": on or off)."""

    default: float
    least: float
    most: float
    unit: str
    meaning: str


SETTINGS: dict[str, Setting] = {
    "server.time_until_dead": Setting(
        300, 5, 7 * 86_400, "s", "a node that is silent for so long is given up, and its replicas are replaced"
    ),
    "range.max_bytes": Setting(128 << 20, 64 << 10, 64 << 30, "B", "a range is split when it is larger"),
    "range.split_qps": Setting(
        10_000, 10, 1_000_000, "", "a range is split, or its lease moved, above so many requests a second"
    ),
    "range.merge_after": Setting(
        300,
        5,
        7 * 86_400,
        "s",
        "neighbours that were split by themselves and are small and quiet for so long are merged",
    ),
    "snapshot.bytes_per_second": Setting(
        128 << 20, 0, 1 << 40, "B", "a node sends no more than that of the copies that others are to have; 0 stops them"
    ),
    "snapshot.cpu_percent": Setting(50, 1, 100, "", "reading such copies takes no more of a node's time"),
    "cluster.preserve_downgrade": Setting(
        0,
        0,
        1,
        "on",
        "the cluster's version is not raised when all nodes run a newer release: they can go back to the older one",
    ),
    "rebalance.enabled": Setting(
        1, 0, 1, "on", "ranges are split and merged, replicas and leases evened out by themselves"
    ),
}


def parse(name: str, text: str) -> float:
    """The value that a text means; raises SettingRefused."""
    setting = SETTINGS.get(name)
    if setting is None:
        raise SettingRefused(f'there is no setting "{name}"')
    if setting.unit == "on":
        value = _WORDS.get(text.strip().lower())
    else:
        digits = text.strip().rstrip("smihnkBMG").strip()
        factor = _UNITS[setting.unit].get(text.strip()[len(digits) :].strip())
        value = None if factor is None or not _is_number(digits) else float(digits) * factor
    if value is None or not setting.least <= value <= setting.most:
        raise SettingRefused(f'invalid value for setting "{name}": "{text}"')
    return value


def shown(name: str, value: float) -> str:
    """The value as it can be given again."""
    unit = SETTINGS[name].unit
    if unit == "on":
        return "on" if value else "off"
    return f"{value:g}{unit if unit == 's' else ''}" if value < 1e6 else f"{value:.0f}"


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit() and len(text) < 16


class ClusterSettings:
    """The values as this node knows them."""

    def __init__(self, defaults: Mapping[str, float]) -> None:
        self._defaults = {name: setting.default for name, setting in SETTINGS.items()} | dict(defaults)
        self.given: dict[str, str] = {}
        """What was set, as written."""
        self._values = dict(self._defaults)

    def value(self, name: str) -> float:
        return self._values[name]

    def take(self, given: Mapping[str, str]) -> bool:
        """Take the cluster's settings over; tells whether any has changed.  Unknown ones are of a later version."""
        if given == self.given:
            return False
        self.given = dict(given)
        self._values = dict(self._defaults)
        for name, text in given.items():
            try:
                self._values[name] = parse(name, text)
            except SettingRefused:
                continue
        return True
