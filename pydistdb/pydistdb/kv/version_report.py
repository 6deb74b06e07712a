"""Where a rolling upgrade stands, from what the nodes say of themselves (versions.py, survey.py).

version 1 of 2, waiting: node3 knows version 1
version 1 of 2, waiting: node2 is dead, and not given up yet (server.time_until_dead)
version 1 of 2, held back: cluster.preserve_downgrade is on
version 2 of 2, current
"""

from __future__ import annotations

from typing import NamedTuple

from pydistdb.kv.survey import Survey


class VersionReport(NamedTuple):
    version: int
    """What the cluster is at."""
    newest: int
    """The newest version that any of its nodes knows."""
    state: str
    """"current", "held back", "waiting" or "raising"."""
    detail: str


def version_report(survey: Survey) -> VersionReport:
    """Judge a survey."""
    version = survey.cluster_version
    newest = max(answer.supported.newest for answer in survey.answers.values())
    if version >= newest:
        return VersionReport(version, newest, "current", "")
    waiting = []
    for node in survey.nodes:
        answer = survey.answers.get(node.node_id)
        if node.state == "dead":
            waiting.append(f"{node.name} is dead, and not given up yet (server.time_until_dead)")
        elif node.state == "live" and answer is None:
            waiting.append(f"{node.name} does not answer")
        elif answer is not None and answer.supported.newest <= version:
            waiting.append(f"{node.name} knows {answer.supported}")
    if waiting:
        return VersionReport(version, newest, "waiting", "; ".join(waiting))
    if survey.downgrade_preserved:
        return VersionReport(version, newest, "held back", "cluster.preserve_downgrade is on")
    return VersionReport(version, newest, "raising", "all nodes know a newer one: it is raised within seconds")
