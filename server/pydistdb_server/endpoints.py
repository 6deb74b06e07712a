"""What a node answers over HTTP to programs: /health, /metrics, /stats, /status.

``/health`` says whether the process serves clients; ``/health?ready=1`` whether a load balancer should send it any: it does not
drain, its clock is in bounds, its disk takes writes, and it can reach the catalog.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydistdb.kv.api import KVError
from pydistdb.tasks import with_deadline

from pydistdb_server import exposition, metrics
from pydistdb_server.http import Answer, Request, Route, text_answer
from pydistdb_server.status import cluster_status

if TYPE_CHECKING:
    from pydistdb_server.node import Node

CATALOG_TIMEOUT_NS = 1_000_000_000


def routes(node: Node) -> dict[str, Route]:
    """The pages by their paths."""

    async def health(request: Request) -> Answer:
        if node.stopping:
            return text_answer(503, "stopping\n")
        if not node.ready:
            return text_answer(503, "starting\n")
        if request.query.get("ready", "0") in ("0", "false"):
            return text_answer(200, "ok\n")
        problems = await unready(node)
        return text_answer(503, "\n".join(problems) + "\n") if problems else text_answer(200, "ok\n")

    async def prometheus(_: Request) -> Answer:
        if not node.ready:
            return text_answer(503, "starting\n")
        return Answer(200, exposition.CONTENT_TYPE, exposition.render(metrics.families(node)))

    async def stats(_: Request) -> Answer:
        return _json(metrics.as_json(node)) if node.ready else text_answer(503, "starting\n")

    async def status(_: Request) -> Answer:
        if not node.ready:
            return text_answer(503, "starting\n")
        return _json(await cluster_status(node.store, node.catalog.state))

    return {"/health": health, "/metrics": prometheus, "/stats": stats, "/status": status}


def _json(value: dict[str, Any]) -> Answer:
    return Answer(200, "application/json", (json.dumps(value) + "\n").encode())


async def unready(node: Node) -> list[str]:
    """Why no client should be sent here; nothing if one may."""
    problems = []
    if node.store.membership.draining:
        problems.append("draining")
    if node.clock.out_of_bounds:
        problems.append("its clock is out of bounds")
    error = node.store.write_error()
    if error is not None:
        problems.append(f"it cannot write: {error}")
    try:
        fresh = node.loop.spawn(node.catalog.ensure_fresh(), "readiness").completion
        deadline_ns = node.loop.now_ns() + CATALOG_TIMEOUT_NS
        await with_deadline(node.loop, fresh, deadline_ns, KVError("no answer in time"))
    except KVError as failure:
        problems.append(f"it cannot reach the catalog: {failure}")
    return problems
