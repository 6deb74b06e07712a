"""What the state of an aggregate is made of, in SQL's words: what EXPLAIN says that shards compute and the gateway adds up.

::

    avg(age)        sum(age) AS partial_sum, count(age) AS partial_count           sum(partial_sum) / sum(partial_count)
    stddev(n)       count(n), avg(n), var_pop(n), each AS partial_…                stddev(combined partial_count, …)
    count(DISTINCT x)  array_agg(DISTINCT x) AS partial_array_agg                  count(combined partial_array_agg)
    corr(y, x)      regr_count(y, x), regr_avgx(y, x), …

States of variances hold the count, the mean and the sum of squared distances from it (Welford): those three aggregates tell the
same.  Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.plan.distribute import LISTS
from pydistdb.sql.tree import AggregateCall

_SAME = frozenset({"sum", "min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or", "bit_xor"})
_VARIANCE = ("count", "avg", "var_pop")
_TWO = ("regr_count", "regr_avgx", "regr_avgy", "regr_sxx", "regr_syy", "regr_sxy")
_PARTS: dict[str, tuple[str, ...]] = {"avg": ("sum", "count")}
_PARTS |= dict.fromkeys(("variance", "var_samp", "var_pop", "stddev", "stddev_samp", "stddev_pop"), _VARIANCE)
_PARTS |= dict.fromkeys(("corr", "covar_pop", "covar_samp", "regr_intercept", "regr_r2", "regr_slope", *_TWO), _TWO)


def partials(calls: Sequence[AggregateCall]) -> list[list[tuple[str, str]]]:
    """For each call the aggregates that its state is made of, and what they are called; of several that would be called alike,
    the later ones are numbered."""
    seen: dict[str, int] = {}
    found: list[list[tuple[str, str]]] = []
    for call in calls:
        found.append([])
        for part in _parts(call):
            seen[part] = number = seen.get(part, 0) + 1
            found[-1].append((part, f"partial_{part}" if number == 1 else f"partial_{part}_{number}"))
    return found


def _parts(call: AggregateCall) -> tuple[str, ...]:
    name = call.function.name
    if call.distinct or call.order_by:
        return (name if name in LISTS else "array_agg",)
    return _PARTS.get(name, (name,))


def final_functions(calls: Sequence[AggregateCall]) -> list[str]:
    """How the gateway makes the values of calls from the shards' states."""
    functions: list[str] = []
    for call, parts in zip(calls, partials(calls), strict=True):
        name, names = call.function.name, [shown for _, shown in parts]
        if call.distinct or call.order_by:
            functions.append(f"{name}(combined {names[0]})")
        elif name == "count":
            functions.append(f"sum({names[0]})")
        elif name == "avg":
            functions.append(f"sum({names[0]}) / sum({names[1]})")
        elif name in _SAME:
            functions.append(f"{name}({names[0]})")
        else:
            functions.append(f"{name}(combined {', '.join(names)})")
    return functions
