"""What a growing population is worth: recall of the federation on the built-in log, at several budgets, beside popularity.

Every cell is one simulated federation, and its recall is exact, not a noisy release: the log is generated, so nobody's data
is in it. A seed is of the log, its division among clients and the noise. Finished runs are kept, as those of
``simulations.bench_quality`` are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from privacy.errors import InputError
from server.certificate import code_version
from server.federation import Watcher
from server.scenario import Scenario, override
from simulations.bench_quality import federated_row, footnotes, measured_run

Result = dict[str, Any]


def run(
    users: Sequence[int],
    epsilons: Sequence[float],
    seeds: int,
    *,
    scenario: Scenario,
    folder: Path,
    watcher: Watcher,
    say: Callable[[str], None] = lambda _line: None,
) -> Result:
    """Measure recall for every number of users and every budget.

    Args:
        users: sizes of the population.
        epsilons: budgets; ``inf`` is privacy off.
        seeds: 1, 2, ... up to this many for each cell.
        scenario: everything else; its items and clients are the same for every population.
        folder: where finished runs are kept.
        watcher: is told of progress.
        say: one line after each run.

    Returns:
        ``log``, ``rows`` (one a population and budget: means over seeds, spread, popularity), ``runs``, and ``other_code`` (how
        many runs were kept from other code than this).

    Raises:
        InputError: nothing to measure.
    """
    if not users or not epsilons or seeds < 1:
        raise InputError("give at least one number of users, one epsilon and one seed")
    items, clients = scenario.simulation.items, scenario.simulation.clients
    rows: list[Result] = []
    runs: list[Result] = []
    for count in sorted(set(users)):
        chosen = override(scenario, {"simulation.users": count})
        kept = folder / f"synthetic-{count}x{items}"
        for epsilon in sorted(set(epsilons)):
            say(f"{count:,} users")
            finished = [
                {"users": count, **measured_run(chosen, epsilon, seed, None, kept, watcher, say)}
                for seed in range(1, seeds + 1)
            ]
            runs += finished
            rows.append({"users": count, **federated_row(epsilon, finished)})
    code = code_version()["sha256"]
    return {
        "log": f"built-in log, {items:,} items, {clients} clients, delta {scenario.privacy.delta:g}",
        "rows": rows,
        "runs": runs,
        "other_code": sum(one["code"] != code for one in runs),
    }


def format_table(result: Result) -> str:
    """The rows as text."""
    lines = [
        f"{result['log']}, full ranking, last item out",
        f"{'users':>8} {'epsilon':>8} {'seeds':>5} {'recall@10':>10} {'recall@20':>10} {'NDCG@10':>8} "
        f"{'popularity':>11}  spread",
    ]
    for row in result["rows"]:
        figures = f"{row['recall@10']:>10.4f} {row['recall@20']:>10.4f} {row['ndcg@10']:>8.4f}"
        lines.append(
            f"{row['users']:>8,} {row['epsilon']!s:>8} {row['seeds']:>5} {figures} "
            f"{row['popularity recall@10']:>11.4f}  {row['spread']:.4f}"
        )
    return "\n".join([*lines, *footnotes(result)])
