"""Window functions."""

from __future__ import annotations

from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.exec.operator import Operator
from pydistdb.sql.tree import Window


class WindowOperator(Operator):
    def __init__(self, source: Operator, node: Window) -> None:
        raise FeatureNotSupported("window functions are not supported yet")
