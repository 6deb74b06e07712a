"""Drivers are tested against one real node."""

from __future__ import annotations

from tests.cluster.conftest import one_node

__all__ = ["one_node"]
