"""What a run has to say, as tables of plain strings: one source for the terminal, Markdown and HTML.

Every function takes the report (the dictionary that ``report.json`` holds) and tolerates absent keys: a run
that was refused or interrupted has a report too, only a shorter one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Report = Mapping[str, Any]

PRIVACY_OFF = "PRIVACY OFF: no noise, no budget. What left the clients is not protected. For research only."

METRICS = ("recall@10", "recall@20", "ndcg@10")
METRIC_TITLES = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "hr": "HR"}

_DETAIL_COLUMNS = {
    "recall@50": "Recall@50",
    "ndcg@10": "NDCG@10",
    "mrr": "MRR",
    "map@10": "MAP@10",
    "novelty": "novelty",
    "new_to_user": "new to user",
    "diversity": "diversity",
    "log_loss": "log-loss",
}

KIND_NOTES = {
    "user_encoder": "weights of the user encoder: they stay",
    "masked_popularity": "item counts",
    "masked_statistics": "item-item statistics",
    "masked_update": "item statistics and gradients",
    "masked_metrics": "recall and other sums",
    "keys": "public keys, encrypted mask shares, signatures",
}


class Table(NamedTuple):
    """A titled table; the first column is text, the others are numbers unless ``text_columns`` says so."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""
    text_columns: frozenset[int] = frozenset({0})


def is_privacy_off(report: Report) -> bool:
    """Whether the run was made with ``privacy = off``."""
    return report.get("privacy", {}).get("mode") == "off"


def listed(item: Mapping[str, Any]) -> str:
    """A recommendation in a list: how likely it is her next item, first so that a narrow column cuts the title, and that."""
    title, probability = str(item.get("title", "?")), item.get("probability")
    return title if probability is None else f"{probability:.1%} {title}"


def metric_title(name: str) -> str:
    """Write ``ndcg@10`` as ``NDCG@10``."""
    stem, at, depth = name.partition("@")
    return METRIC_TITLES.get(stem, stem.replace("_", " ")) + at + depth


def number(value: Any, digits: int = 4) -> str:
    """Format a number, or a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def interval(metric: Mapping[str, Any] | None) -> str:
    """Format ``[low, high]`` of a metric, or nothing where it has none."""
    if not metric or metric.get("low") is None or metric.get("high") is None:
        return ""
    return f"[{metric['low']:.4f}, {metric['high']:.4f}]"


def size(n_bytes: int) -> str:
    """Format a number of bytes for people: ``0 B``, ``1.2 kB``, ``3.4 MB``."""
    amount = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(amount) < 1000:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def quality(report: Report) -> Table | None:
    """Each metric with n and its interval, beside every baseline on the same users."""
    metrics: Mapping[str, Mapping[str, Any]] = report.get("metrics") or {}
    if not metrics:
        return None
    baselines: Mapping[str, Mapping[str, Any]] = report.get("baselines") or {}
    names = [m for m in METRICS if m in metrics] + sorted(set(metrics) - set(METRICS))
    rows = []
    for name in names:
        metric = metrics[name]
        beside = [number((values.get(name) or {}).get("value")) for values in baselines.values()]
        n = metric.get("n")
        rows.append(
            (
                metric_title(name),
                number(metric.get("value")),
                interval(metric),
                *beside,
                "–" if n is None else f"{n:,.0f}",
            )
        )
    header = ("", "fedtower", "95 % interval", *baselines, "n")
    return Table("Quality", header, rows, "Full-catalogue ranking; all columns on the same users.")


def blends(report: Report) -> Table | None:
    """What each comparison of blend presets released, and which was chosen."""
    rows = [
        (preset, str(compared["release"]), number(recall.get("value")), interval(recall), mark)
        for compared in report.get("blend") or []
        for preset, recall in compared["recall@10"].items()
        for mark in ["chosen" if preset == compared["chosen"] else ""]
    ]
    if not rows:
        return None
    note = (
        "Recall@10 on validation items under each set of weights. Another than the plan's first is chosen where it leads "
        "by more than 1.5 standard deviations of the noise."
    )
    return Table(
        "Blend", ("preset", "release", "Recall@10", "95 % interval", ""), rows, note, frozenset({0, 1, 4})
    )


def groups(report: Report) -> Table | None:
    """The detailed metrics of each activity group and of all; a group that may not be shown has its reason instead."""
    detail: Report = report.get("detail") or {}
    if not detail:
        return None
    rows = [
        _group_row(str(group.get("events", "?")), group)
        for group in [*(detail.get("groups") or []), {"events": "all", **(detail.get("all") or detail)}]
    ]
    header = ("training events", "users", "Recall@10", "95 % interval", *_DETAIL_COLUMNS.values(), "")
    note = f"{detail.get('identities', '')}; novelty in bits, log-loss in nats, diversity by {detail.get('diversity_by', '?')}."
    return Table("Quality by activity", header, rows, note, frozenset({0, len(header) - 1}))


def _group_row(name: str, group: Report) -> tuple[str, ...]:
    metrics: Mapping[str, Mapping[str, Any]] = group.get("metrics") or {}
    recall = metrics.get("recall@10") or {}
    users = group.get("users")
    return (
        name,
        "–" if users is None else f"{users:,.0f}",
        number(recall.get("value")),
        interval(recall),
        *(number((metrics.get(column) or {}).get("value")) for column in _DETAIL_COLUMNS),
        str(group.get("suppressed", "")),
    )


def places(report: Report) -> Table | None:
    """How far up the next item stood: how often first, precision, and the ranks by which shares of the users have found it."""
    detail: Report = report.get("detail") or {}
    entries = [*(detail.get("groups") or []), {"events": "all", **(detail.get("all") or {})}]
    rows = [
        (str(entry.get("events", "?")), *_place_cells(entry))
        for entry in entries
        if entry.get("rank_quantiles")
    ]
    if not rows:
        return None
    note = (
        "Accuracy: share of users whose next item stood first. p10, p50, p90: ranks by which that share of users has found "
        "it, as far as the released bins tell."
    )
    header = ("training events", "accuracy", "hit rate@5", "hit rate@10", "precision@10", "p10", "p50", "p90")
    return Table("Places of the next item", header, rows, note)


def _place_cells(group: Report) -> tuple[str, ...]:
    metrics: Mapping[str, Mapping[str, Any]] = group.get("metrics") or {}
    hit_rates = [(metrics.get(f"recall@{k}") or {}).get("value") for k in (1, 5, 10)]
    # One relevant item a user: a list of ten that holds it is right in a tenth of its places.
    precision = None if hit_rates[-1] is None else hit_rates[-1] / 10.0
    quantiles: Mapping[str, Sequence[int | None]] = group["rank_quantiles"]
    return (*map(number, hit_rates), number(precision), *map(_ranks, quantiles.values()))


def _ranks(ends: Sequence[int | None]) -> str:
    low, high = ends
    if high is None:
        return f"{low} or later"
    return str(low) if low == high else f"{low}–{high}"


def exposure(report: Report) -> Table | None:
    """Coverage, concentration, the gap between groups, and calibration."""
    detail: Report = report.get("detail") or {}
    cover, gini, gap = (detail.get(key) or {} for key in ("coverage@10", "gini@10", "recall_gap@10"))
    rows: list[tuple[str, ...]] = []
    if cover:
        share = f"{cover['covered']:,} of {cover['of']:,} {cover['cells']}"
        more = f"{share}, each in more than {cover['shown_more_often_than']:.1f} lists"
        rows.append(("coverage@10", number(cover["value"]), "", more))
    if gini:
        rows.append(("Gini@10", number(gini["value"]), interval(gini), "of exposure; 0 is even"))
    if gap:
        between = gap.get("suppressed") or f"group {gap['largest']} less group {gap['smallest']}"
        rows.append(("Recall@10 gap", number(gap.get("value")), interval(gap), str(between)))
    calibration: Report = detail.get("calibration") or {}
    ece, over = (calibration.get(key) or {} for key in ("ece@10", "overconfidence"))
    if ece:
        rows.append(
            (
                "ECE@10",
                number(ece["value"]),
                interval(ece),
                "of how likely the top 10 holds the item; 0 is right",
            )
        )
    if over:
        rows.append(
            ("overconfidence", number(over["value"]), interval(over), "mean confidence less Recall@10")
        )
    return Table(
        "Exposure, gaps and calibration", ("", "value", "range", ""), rows, text_columns=frozenset({0, 3})
    )


def budget(report: Report) -> Table | None:
    """What each release costs alone, and what has been spent after it."""
    privacy: Report = report.get("privacy") or {}
    releases: Sequence[Report] = privacy.get("releases") or []
    if not releases:
        return None
    rows = [
        (
            str(release.get("name", "?")),
            number(release.get("epsilon_alone"), 3),
            number(release.get("epsilon_after"), 3),
            number(release.get("noise_multiplier"), 3),
            number(release.get("sampling_probability"), 3),
            number(release.get("steps"), 0),
            "yes" if release.get("left_the_client", True) else "no",
        )
        for release in releases
    ]
    header = ("release", "ε alone", "ε after", "noise σ/C", "sampling q", "steps", "left the client")
    return Table("Privacy budget", header, rows, budget_line(report), frozenset({0, 6}))


def budget_line(report: Report) -> str:
    """Say in one line what was spent, of what, for which unit."""
    privacy: Report = report.get("privacy") or {}
    if is_privacy_off(report):
        return PRIVACY_OFF
    if privacy.get("epsilon") is None:
        return "no release was made"
    spent = f"ε = {privacy['epsilon']:.3f}"
    if privacy.get("epsilon_budget") is not None:
        spent += f" of {privacy['epsilon_budget']:g}"
    if privacy.get("delta") is not None:
        spent += f" at δ = {privacy['delta']:.3g}"
    if privacy.get("unit"):
        spent += f", one {privacy['unit']}'s whole log"
    outside = privacy.get("epsilon_outside")
    if outside is not None and outside != privacy["epsilon"]:
        spent += f", ε = {outside:.3f} for those outside the clients"
    if privacy.get("noise"):
        spent += f", noise: {str(privacy['noise']).replace('_', ' ')}"
    return spent


def clip_norms(report: Report) -> Table | None:
    """The clip norm of each gradient round, where it was adaptive: it follows from what was released."""
    norms: Sequence[float] = report.get("clip_norms") or []
    settings: Report = (report.get("scenario") or {}).get("gradients") or {}
    rows = [(str(index + 1), number(norm)) for index, norm in enumerate(norms)]
    quantile = settings.get("target_quantile")
    note = "" if quantile is None else f"Moved towards the {quantile:g} quantile of users' gradient norms."
    return Table("Clip norm of the gradient rounds", ("round", "clip norm"), rows, note)


def departures(report: Report) -> Table | None:
    """Bytes that left the clients, by kind; the user encoder comes first, with its 0."""
    left: Mapping[str, int] | None = report.get("left_the_client")
    if left is None:
        return None
    kinds = sorted(left, key=lambda kind: (kind != "user_encoder", -left[kind], kind))
    clients = report.get("clients")
    treatment = "masked, not noised" if is_privacy_off(report) else "clipped, noised, masked"
    rows = []
    for kind in kinds:
        each = size(round(left[kind] / clients)) if clients else "–"
        note = KIND_NOTES.get(kind, "")
        if kind.startswith("masked_"):
            note = ", ".join(filter(None, (note, treatment)))
        rows.append((kind.replace("_", " "), each, size(left[kind]), f"{left[kind]:,}", note))
    header = ("kind", "per client", "all clients", "bytes", "")
    return Table("What left the clients", header, rows, text_columns=frozenset({0, 4}))


def cleaning(report: Report) -> Table | None:
    """What each cleaning step dropped."""
    return _records("Cleaning", report.get("cleaning") or [])


def dropouts(report: Report) -> Table | None:
    """Who did not answer, to what, and why."""
    return _records("Dropouts", report.get("dropouts") or [])


def exact_metrics(report: Report) -> Table | None:
    """Metrics without noise: they exist because a simulation sees everything, and are never released."""
    simulation: Report = report.get("simulation") or {}
    metrics: Mapping[str, Any] = simulation.get("exact_metrics") or {}
    if not metrics:
        return None
    rows = []
    for name, metric in metrics.items():
        value = metric.get("value") if isinstance(metric, Mapping) else metric
        rows.append((metric_title(name), f"{value:,.0f}" if name == "users" and value else number(value)))
    note = (
        simulation.get("note")
        or "A simulation alone can know these: they carry no noise and are not released."
    )
    return Table("Without noise, known to the simulation only", ("", "value"), rows, str(note))


def provenance(report: Report) -> Table:
    """Everything needed to name this run and repeat it."""
    rows = [(key.replace("_", " "), _cell(report[key])) for key in _PROVENANCE if report.get(key) is not None]
    rows += [(f"scenario: {key}", _cell(value)) for key, value in (report.get("scenario") or {}).items()]
    return Table("This run", ("", ""), rows, text_columns=frozenset({0, 1}))


def started_from(report: Report) -> Table | None:
    """What the item tower started from, and whose epsilon that was."""
    start: Report = report.get("started_from") or {}
    if not start:
        return None
    shown = ("init", "from", "items", "earlier", "item_tower_sha256")
    rows = [(key.replace("_", " "), _cell(start[key])) for key in shown if start.get(key) is not None]
    rows += [("", str(statement)) for statement in start.get("statements") or []]
    return Table("The item tower's start", ("", ""), rows, text_columns=frozenset({0, 1}))


def timings(report: Report) -> Table | None:
    """Seconds by phase."""
    seconds: Mapping[str, float] = report.get("seconds") or {}
    if not seconds:
        return None
    return Table(
        "Seconds", ("phase", "s"), [(str(k).replace("_", " "), f"{v:.1f}") for k, v in seconds.items()]
    )


def all_tables(report: Report) -> list[Table]:
    """The tables of a report, in reading order, without those that the run has nothing for."""
    makers = (
        quality,
        groups,
        places,
        exposure,
        blends,
        budget,
        started_from,
        clip_norms,
        departures,
        exact_metrics,
        cleaning,
        dropouts,
        timings,
        provenance,
    )
    tables = (make(report) for make in makers)
    return [table for table in tables if table is not None and table.rows]


_PROVENANCE = (
    "version",
    "seed",
    "clients",
    "users",
    "items",
    "data",
    "chosen",
    "item_tower_sha256",
    "catalogue_sha256",
    "split_checksum",
)


def _records(title: str, rows: Sequence[Any]) -> Table | None:
    """A table from rows that are objects with the same keys, or from anything else, one cell a row."""
    if not rows:
        return None
    objects = [row if isinstance(row, Mapping) else {"": row} for row in rows]
    header = tuple(dict.fromkeys(key for row in objects for key in row))
    cells = [tuple(_count(row.get(key)) for key in header) for row in objects]
    is_text = frozenset(
        i for i, key in enumerate(header) if any(isinstance(r.get(key), str) for r in objects)
    )
    return Table(title, tuple(key.replace("_", " ") for key in header), cells, text_columns=is_text)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value)) if value else "–"
    return str(value)
