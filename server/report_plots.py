"""The three pictures of a report, as SVG: recall by round, the budget, what left the clients."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from server.report_tables import Report, is_privacy_off, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, GRID = "#1f2933", "#6b7785", "#e3e7ec"
BLUE, ORANGE, GREEN, RED = "#2563a8", "#c2620c", "#2e7d4f", "#b3261e"
SERIES_COLORS = (BLUE, ORANGE, GREEN, "#7a4ea3", "#3b8ea5")
RECALL = "recall@10"


def plots(report: Report) -> dict[str, str]:
    """Draw what the report has figures for.

    Returns:
        Alternative text -> SVG source. The same report gives the same bytes.
    """
    makers = {
        "Recall@10 by round, with popularity for comparison": _recall_by_round,
        "Privacy budget: epsilon after each release against the budget": _budget,
        "Bytes that left the clients, by kind": _departures,
    }
    drawn = {text: make(report) for text, make in makers.items()}
    return {text: svg for text, svg in drawn.items() if svg}


def _figure(title: str, height: float = 2.9) -> tuple[Figure, Axes]:
    # The object interface, not pyplot: no global state, no window system, nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=QUIET, labelsize=9, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> str:
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "fedtower"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _baseline(axes: Axes, report: Report, name: str, style: str) -> None:
    value = ((report.get("baselines") or {}).get(name) or {}).get(RECALL, {}).get("value")
    if value is None:
        return
    axes.axhline(value, color=QUIET, linestyle=style, linewidth=1.2)
    axes.annotate(
        name,
        xy=(1, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=QUIET,
    )


def _recall_by_round(report: Report) -> str | None:
    series = [(i, point) for i, point in enumerate(report.get("series") or []) if _value(point) is not None]
    if not series:
        return None
    figure, axes = _figure("Recall@10 by round (95 % interval)")
    lines: dict[str, list[tuple[int, Report]]] = {}
    for i, point in series:
        lines.setdefault(str(point.get("release", "")), []).append((i, point))
    # Where every point is a release of its own, they make one line whose ticks carry the names.
    is_named = len(lines) == len(series) > 1
    if is_named:
        lines = {RECALL: series}
    for color, (name, points) in zip(_colors(len(lines)), lines.items(), strict=True):
        _line_with_intervals(axes, name, points, color)
    _baseline(axes, report, "popularity", "--")
    _baseline(axes, report, "random", ":")
    shown = series[:: max(1, len(series) // (5 if is_named else 10))]
    labels = [
        str(point.get("release" if is_named else "round", i)).replace("-", "\n", 1) for i, point in shown
    ]
    axes.set_xticks([i for i, _ in shown], labels)
    if not is_named:
        axes.set_xlabel("round", fontsize=9, color=QUIET)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.08)
    if len(lines) > 1:
        figure.legend(frameon=False, fontsize=9, labelcolor=INK, loc="outside lower center", ncols=3)
    return _svg(figure)


def _line_with_intervals(axes: Axes, name: str, points: Sequence[tuple[int, Report]], color: str) -> None:
    axes.errorbar(
        [i for i, _ in points],
        [_value(point) or 0.0 for _, point in points],
        yerr=_error_bars([point[RECALL] for _, point in points]),
        color=color,
        ecolor=color + "66",
        marker="o",
        markersize=4.5,
        linewidth=1.6,
        elinewidth=2.2,
        label=name,
    )


def _budget(report: Report) -> str | None:
    privacy: Report = report.get("privacy") or {}
    releases: Sequence[Report] = [
        r for r in privacy.get("releases") or [] if r.get("epsilon_after") is not None
    ]
    if is_privacy_off(report) or not releases:
        return None
    figure, axes = _figure("Budget: ε after each release")
    heights = [float(release["epsilon_after"]) for release in releases]
    places = list(range(len(releases)))
    before = [0.0, *heights[:-1]]
    axes.bar(places, before, color=BLUE + "40", width=0.55)
    axes.bar(
        places, [h - b for h, b in zip(heights, before, strict=True)], bottom=before, color=BLUE, width=0.55
    )
    for place, height in zip(places, heights, strict=True):
        axes.annotate(
            f"{height:.2f}",
            xy=(place, height),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
    limit = privacy.get("epsilon_budget")
    if limit is not None:
        axes.axhline(limit, color=RED, linewidth=1.4)
        axes.annotate(
            f"budget {limit:g}",
            xy=(0, limit),
            xycoords=("axes fraction", "data"),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=9,
            color=RED,
        )
    axes.set_ylim(0, 1.18 * max([*heights, limit or 0.0]) or 1.0)
    axes.set_xticks(
        places,
        [str(release.get("name", "?")).replace("_", " ").replace("-", "\n", 1) for release in releases],
    )
    axes.tick_params(axis="x", labelrotation=30 if len(releases) > 5 else 0)
    return _svg(figure)


def _departures(report: Report) -> str | None:
    left: Mapping[str, int] = report.get("left_the_client") or {}
    if not left:
        return None
    kinds = sorted(left, key=lambda kind: (kind == "user_encoder", left[kind], kind))
    figure, axes = _figure("What left the clients, all together", height=max(1.6, 0.9 + 0.34 * len(kinds)))
    axes.barh(range(len(kinds)), [left[kind] for kind in kinds], color=BLUE, height=0.6)
    for place, kind in enumerate(kinds):
        stays = left[kind] == 0
        axes.annotate(
            size(left[kind]),
            xy=(left[kind], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=GREEN if stays else INK,
            fontweight="bold" if stays else "normal",
        )
    axes.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(0, 1.25 * max(max(left.values()), 1))
    return _svg(figure)


def _value(point: Mapping[str, Any]) -> float | None:
    return (point.get(RECALL) or {}).get("value")


def _colors(n: int) -> list[str]:
    return [SERIES_COLORS[i % len(SERIES_COLORS)] for i in range(n)]


def _error_bars(metrics: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Distances below and above each value; 0 where a metric has no interval."""
    below, above = [], []
    for metric in metrics:
        value, low, high = metric["value"], metric.get("low"), metric.get("high")
        below.append(max(0.0, value - low) if low is not None else 0.0)
        above.append(max(0.0, high - value) if high is not None else 0.0)
    return [below, above]
