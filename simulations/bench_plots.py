"""The pictures of the benches: recall against epsilon, and against the number of users."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Result = dict[str, Any]
RECALL = "recall@10"
_HIT_RATE = "recall@10 (one item is looked for: HR@10)"
_OURS = "fedtower"
"""Begins the names of the federation's rows."""


def draw_budgets(result: Result, path: Path) -> None:
    """Recall against epsilon as PNG: the federation's rows and the private baselines as curves, the others as lines.

    Args:
        result: of ``simulations.bench_quality.run``, under the protocol ``last-out``.
        path: written anew; its folder is made.
    """
    figure, axes = _figure()
    rows: list[Result] = result["rows"]
    budgets = sorted({float(row["epsilon"]) for row in rows if row["epsilon"] is not None})
    methods = dict.fromkeys(row["method"] for row in rows if row["epsilon"] is not None)
    for method in methods:
        points = sorted(
            (budgets.index(float(row["epsilon"])), row[RECALL]) for row in rows if row["method"] == method
        )
        is_ours = method.startswith(_OURS)
        _curve(axes, points, label=method, marker="o" if is_ours else ".", linewidth=2 if is_ours else 1)
    for row in rows:
        if row["epsilon"] is None:
            axes.axhline(row[RECALL], linestyle=":", linewidth=1, color="0.5")
            name = row["method"].split(" (")[0]
            axes.annotate(name, (0, row[RECALL]), fontsize=7, color="0.35", va="bottom")
    axes.set_xticks(range(len(budgets)), [f"{budget:g}" for budget in budgets])
    axes.set(xlabel="ε of everything released", ylabel=_HIT_RATE, title=result["dataset"])
    _write(figure, axes, path)


def draw_users(result: Result, path: Path) -> None:
    """Recall against the number of users as PNG, one curve a budget, popularity of the same runs dotted.

    Args:
        result: of ``simulations.bench_users.run``.
        path: written anew; its folder is made.
    """
    figure, axes = _figure()
    rows: list[Result] = result["rows"]
    for number, budget in enumerate(sorted({float(row["epsilon"]) for row in rows})):
        own = sorted((row for row in rows if float(row["epsilon"]) == budget), key=lambda row: row["users"])
        color = f"C{number}"
        _curve(
            axes,
            [(row["users"], row[RECALL]) for row in own],
            label=f"ε = {budget:g}",
            marker="o",
            color=color,
        )
        popularity = [(row["users"], row["popularity recall@10"]) for row in own]
        _curve(axes, popularity, label=f"popularity, ε = {budget:g}", linestyle=":", linewidth=1, color=color)
    counts = sorted({row["users"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set(xlabel="users", ylabel=_HIT_RATE, title=result["log"])
    _write(figure, axes, path)


def _figure() -> tuple[Figure, Axes]:
    # The object interface: no global state, no window system, nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _curve(axes: Axes, points: Sequence[tuple[float, float]], **style: Any) -> None:
    axes.plot([x for x, _ in points], [y for _, y in points], **style)


def _write(figure: Figure, axes: Axes, path: Path) -> None:
    axes.set_ylim(bottom=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
