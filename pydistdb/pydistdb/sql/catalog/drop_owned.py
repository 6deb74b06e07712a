"""DROP OWNED: everything that some roles own in a database, dropped together."""

from __future__ import annotations

from pydistdb.sql.catalog import drop_type, keys
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.dependencies import described
from pydistdb.sql.catalog.drop_plan import DependentText, DropPlan, carry_out, collect_dependents
from pydistdb.sql.catalog.routine_names import described_routine
from pydistdb.sql.catalog.statistics_names import described_statistics, everything_of
from pydistdb.sql.catalog.type_names import shown


async def drop_owned_objects(ddl: DdlContext, owners: set[int], cascade: bool) -> None:
    """Drop the relations, routines, types and schemas of these roles."""
    plan = DropPlan()
    state = ddl.view.state
    schemas = {s.oid: s.name for s in state.schemas.values() if s.database and s.owner in owners}
    for table in state.tables.values():
        if table.owner in owners:
            plan.tables[table.oid] = table
        elif table.schema in schemas:
            plan.tables[table.oid] = table
            text = described(ddl, table)
            plan.dependents.append(DependentText(table.oid, text, f"schema {schemas[table.schema]}"))
    for routine in state.routines.values():
        if routine.owner in owners:
            plan.routines[routine.oid] = routine
        elif routine.schema in schemas:
            plan.routines[routine.oid] = routine
            text = described_routine(ddl, routine)
            plan.dependents.append(DependentText(routine.oid, text, f"schema {schemas[routine.schema]}"))
    for table, statistics in everything_of(state):
        if table.oid in plan.tables:
            continue
        if statistics.owner in owners:
            plan.statistics.append(statistics.oid)
        elif statistics.schema in schemas:
            plan.statistics.append(statistics.oid)
            text = described_statistics(ddl.view, statistics)
            plan.dependents.append(DependentText(statistics.oid, text, f"schema {schemas[statistics.schema]}"))
    types = {
        oid: entry
        for oid, entry in state.types.items()
        if not entry.definition.relation and (entry.definition.owner in owners or entry.definition.schema in schemas)
    }
    plan.dependents += [
        DependentText(oid, f"type {shown(ddl, oid)}", f"schema {schemas[entry.definition.schema]}")
        for oid, entry in types.items()
        if entry.definition.owner not in owners
    ]
    if not (plan.tables or plan.routines or plan.statistics or types or schemas):
        return
    collect_dependents(ddl, plan)
    dropped, users = drop_type.collect(ddl, types)
    users = [user for user in users if user.table is None or user.table.oid not in plan.tables]
    plan.dependents += [DependentText(user.oid, user.description, user.on) for user in users]
    await carry_out(ddl, plan, cascade, ["desired object(s)", "desired object(s)"])
    await drop_type.carry_out(ddl, dropped, users)
    ddl.apply([(keys.schema_key(ddl.database_oid, oid), None) for oid in schemas])
