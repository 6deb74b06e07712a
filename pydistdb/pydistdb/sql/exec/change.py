"""UPDATE and DELETE by a condition, done where the rows are: what travels, and which statements can.

::

    UPDATE t SET v = v + 1 WHERE w < 5
      change      [table t, scan of (key, v, w) with w < 5, update {v: v + 1}, checks]      about 1 kB, once compiled
      arguments   the values of parameters, the transaction's time …                        as of a fragment (fragment.py)

The leaseholder reads, locks, checks and computes (``change_run.py``, kv/changes.py).  What needs more than the row itself stays
at the gateway: other tables (FROM, USING, queries in the condition), RETURNING, unique keys and foreign keys that the statement
touches, indexes over expressions, in part, or being built, functions that belong to this session.
Index entries do not hinder: the leaseholder computes them too, and the gateway writes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.exec.fragment import Portable, Text, encode_text
from pydistdb.sql.exec.scan import TableScanOperator
from pydistdb.sql.exec.tree_codec import NotPortable, dump
from pydistdb.sql.tree import Delete, Expr, Update

if TYPE_CHECKING:
    from pydistdb.sql.exec.modify import ChangeOperator


class ChangeFragment(Portable):
    """A statement as leaseholders do it; raises NotPortable if they cannot."""

    def __init__(self, node: Update | Delete, scan: TableScanOperator) -> None:
        read = scan.node
        condition = () if read.condition is None else (read.condition,)
        recheck = () if node.recheck is None else (node.recheck,)
        assignments: tuple[tuple[int, Expr], ...] = ()
        generated: tuple[tuple[int, Expr], ...] = ()
        checks: tuple[tuple[str, Expr], ...] = ()
        new_ids: dict[int, int] = {}
        if isinstance(node, Update):
            assignments, generated, checks, new_ids = node.assignments, node.generated, node.checks, node.new_ids
        parts = [*condition, *recheck, *(value for _, value in (*assignments, *generated, *checks))]
        own = {*(column.id for column in read.columns), *new_ids.values()}
        super().__init__(None, parts, own, ())
        tree = (
            *(read.columns, condition, node.key_id, tuple(node.old_ids.items()), recheck, assignments),
            *(tuple(new_ids.items()), checks, generated, tuple(self.outer), tuple(self.parameters)),
        )
        kind = "update" if isinstance(node, Update) else "delete"
        text = Text(_bare(node.table), read.access.index.storage_id, False, read.numbers, kind, dump(tree))
        self.data = encode_text(text)


def change_fragment(operator: ChangeOperator, node: Update | Delete) -> ChangeFragment | None:
    """The statement as leaseholders can do it, if they can."""
    scan, layout = operator.source, operator.layout
    if not isinstance(scan, TableScanOperator) or not scan.is_span or scan.is_secondary or scan.is_projected:
        return None
    if operator.returning or operator.restarts or scan.node.index_only or layout.shadow is not None:
        return None
    if any(index.is_computed or index.index.state for index in layout.indexes):
        return None
    if isinstance(node, Update):
        changed = {number for number, _ in (*node.assignments, *node.generated)}
        if changed & operator.writer.key_columns:
            return None
        if any(changed.intersection(foreign_key.columns) for foreign_key in node.table.foreign_keys):
            return None
    elif node.table.referenced_by:
        return None
    try:
        return ChangeFragment(node, scan)
    except NotPortable:
        return None


def _bare(table: Table) -> Table:
    """The descriptor, less what changing rows does not need."""
    columns = tuple([structs.replace(column, default=None) for column in table.columns])
    return structs.replace(
        table, columns=columns, checks=(), foreign_keys=(), referenced_by=(), depends_on=(), statistics_objects=()
    )
