"""Every kind of dirt is injected into a clean log; the rule for it must find all of it and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_models.data.cleaning import CleaningRules, clean
from recsys_models.data.readers import with_row_numbers
from recsys_models.errors import DataError

NOW = 1_700_000_000.0
COLUMNS = ["user_id", "item_id", "timestamp", "event", "value"]
Rows = list[tuple[str | None, str | None, float | None, str, float]]


def clean_rows(seed: int = 0) -> Rows:
    """200 users with 20 to 40 events on days of their own, no dirt of any kind."""
    random = np.random.default_rng(seed)
    rows: Rows = []
    for user in range(200):
        days = random.choice(1000, size=random.integers(20, 40), replace=False)
        times = NOW - 86_400 * np.sort(days)[::-1]
        for time in times:
            item = f"i{int(random.integers(50))}"
            rows.append((f"u{user}", item, float(time), "view", float(random.integers(1, 6))))
    return rows


def frame_of(rows: Rows) -> pl.DataFrame:
    return with_row_numbers(pl.DataFrame(rows, schema=COLUMNS, orient="row"))


def missing(rows: Rows, random: np.random.Generator) -> Rows:
    row: list = list(rows[int(random.integers(len(rows)))])
    row[int(random.integers(3))] = None
    return [tuple(row)]  # pyright: ignore[reportReturnType]


def altered(**changes: object) -> Callable[[Rows, np.random.Generator], Rows]:
    """A copy of a clean row with other fields; its value is unique, so that it is not a duplicate as well."""

    def make(rows: Rows, random: np.random.Generator) -> Rows:
        fields = dict(zip(COLUMNS, rows[int(random.integers(len(rows)))], strict=True))
        fields |= {"value": 100 + random.random()} | changes
        return [tuple(fields.values())]  # pyright: ignore[reportReturnType]

    return make


def robot(rows: Rows, random: np.random.Generator) -> Rows:
    name = f"robot{random.integers(1 << 60)}"
    return [(name, f"i{k % 50}", NOW - 500 + k / 10, "view", 1.0) for k in range(150)]


DIRT: dict[str, Callable[[Rows, np.random.Generator], Rows]] = {
    "missing": missing,
    "exact-duplicates": lambda rows, random: [rows[int(random.integers(len(rows)))]],
    "too-early": altered(timestamp=0.0),
    "in-the-future": altered(timestamp=NOW + 0.5),
    "event-types": altered(event="impression"),
    "unknown-items": altered(item_id="unheard-of"),
    "too-many-events": robot,
    "robot-like-rate": robot,
    "k-core": lambda rows, random: [(f"rare{random.integers(1 << 60)}", "i1", NOW - 9, "view", 1.0)],
}
RULES = {
    "missing": CleaningRules(drop_duplicates=False, earliest=None),
    "exact-duplicates": CleaningRules(drop_missing=False, earliest=None),
    "too-early": CleaningRules(drop_missing=False, drop_duplicates=False),
    "in-the-future": CleaningRules(latest=NOW),
    "event-types": CleaningRules(event_types=("view", "buy")),
    "unknown-items": CleaningRules(known_items=frozenset(f"i{k}" for k in range(50))),
    "too-many-events": CleaningRules(max_events_per_user=100),
    "robot-like-rate": CleaningRules(max_rate_over_median=10),
    "k-core": CleaningRules(min_events_per_user=5, min_events_per_item=5),
}


def inject(kinds: list[str], seed: int) -> tuple[pl.DataFrame, dict[str, set[int]]]:
    """A log with 1 % of each kind of dirt in its second half, and the row numbers of each kind."""
    random = np.random.default_rng(seed)
    rows = clean_rows(seed)
    marked: list[tuple[float, str, tuple]] = [(k, "", row) for k, row in enumerate(rows)]
    for kind in kinds:
        bulk = kind in ("too-many-events", "robot-like-rate")
        for _ in range(2 if bulk else len(rows) // 100):
            for row in DIRT[kind](rows[: len(rows) // 2], random):
                marked.append((random.uniform(len(rows) / 2, len(rows)), kind, row))
    marked.sort(key=lambda one: one[0])
    where: dict[str, set[int]] = {kind: set() for kind in kinds}
    for row_number, (_, kind, _) in enumerate(marked, start=1):
        if kind:
            where[kind].add(row_number)
    return frame_of([row for _, _, row in marked]), where


@pytest.mark.parametrize("kind", DIRT)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_rule_finds_its_dirt_with_precision_and_recall_one(kind: str, seed: int) -> None:
    frame, where = inject([kind], seed)
    kept, report = clean(frame, RULES[kind])
    assert len(where[kind]) > 10
    assert set(report.step(kind).dropped_rows.tolist()) == where[kind]
    assert set(kept.get_column("row")) == set(frame.get_column("row")) - where[kind]
    assert report.dropped == len(where[kind]), "no other rule dropped anything"


def test_all_kinds_at_once_are_told_apart() -> None:
    kinds = [kind for kind in DIRT if kind != "robot-like-rate"]
    frame, where = inject(kinds, 3)
    rules = CleaningRules(
        event_types=("view",),
        known_items=RULES["unknown-items"].known_items,
        latest=NOW,
        max_events_per_user=100,
        min_events_per_user=5,
        min_events_per_item=5,
    )
    kept, report = clean(frame, rules)
    found = {step.name: set(step.dropped_rows.tolist()) for step in report.steps if step.dropped}
    assert found == where
    assert kept.height == frame.height - sum(map(len, where.values()))


def test_a_clean_log_loses_nothing_whatever_the_rules() -> None:
    frame = frame_of(clean_rows())
    for rules in RULES.values():
        kept, report = clean(frame, rules)
        assert kept.height == frame.height
        assert report.dropped == 0


def test_order_is_mended_and_ties_stay_in_file_order() -> None:
    rows: Rows = [
        ("b", "i1", NOW - 5, "view", 1.0),
        ("a", "i2", NOW - 1, "view", 1.0),
        ("b", "i3", NOW - 9, "view", 1.0),  # older than the row of b before it
        ("a", "i4", NOW - 1, "view", 1.0),  # tied with i2
        ("a", "i0", NOW - 1, "view", 1.0),  # tied with both
    ]
    kept, report = clean(frame_of(rows), CleaningRules())
    assert kept.get_column("item_id").to_list() == ["i2", "i4", "i0", "i3", "i1"]
    step = report.step("order")
    assert (step.dropped, step.changed) == (0, 1)
    assert step.reason == "1 rows followed a newer one of their user; 3 tied rows stay in file order"


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_the_k_core_is_the_largest_log_without_rare_users_and_items(
    events: list[tuple[int, int]], per_user: int, per_item: int
) -> None:
    rows: Rows = [(f"u{u}", f"i{i}", NOW - k, "view", 1.0) for k, (u, i) in enumerate(events)]
    rules = CleaningRules(min_events_per_user=per_user, min_events_per_item=per_item)
    kept, _ = clean(frame_of(rows), rules)
    left = set(range(len(events)))
    while True:  # one offender at a time: the core does not depend on the order of removal
        users, items = Counter(events[k][0] for k in left), Counter(events[k][1] for k in left)
        rare = [k for k in left if users[events[k][0]] < per_user or items[events[k][1]] < per_item]
        if not rare:
            break
        left.remove(rare[0])
    assert {row - 1 for row in kept.get_column("row")} == left


def test_values_are_normalised_and_events_encoded() -> None:
    kept, report = clean(
        frame_of(clean_rows()), CleaningRules(normalise_value="z-score", encode=("event", "item_id"))
    )
    values = kept.get_column("value").to_numpy()
    assert values.mean() == pytest.approx(0, abs=1e-9)
    assert values.std() == pytest.approx(1)
    back = values * report.value_scale + report.value_shift
    assert sorted(set(back.round(9))) == [1, 2, 3, 4, 5]
    assert report.vocabularies["event"] == ("view",)
    codes = kept.get_column("item_id_code").to_list()
    assert [report.vocabularies["item_id"][code] for code in codes] == kept.get_column("item_id").to_list()


def test_every_step_adds_up_and_the_report_is_readable() -> None:
    frame, _ = inject(["missing", "too-early"], 0)
    kept, report = clean(frame, CleaningRules(latest=NOW))
    for before, after in zip(report.steps, report.steps[1:], strict=False):
        assert before.kept == after.rows_in
    for row in report.as_rows():
        assert row["rows_in"] == int(row["dropped"]) + int(row["kept"])
    assert (report.rows_in, report.kept) == (frame.height, kept.height)
    assert report.rows_in == report.kept + report.dropped
    lines = report.as_text().splitlines()
    assert lines[0].split() == ["step", "rows", "in", "dropped", "kept", "changed", "reason"]
    assert len(lines) == len(report.steps) + 2
    assert lines[-1].startswith("all")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (lambda: CleaningRules(max_events_per_user=0), "max_events_per_user = 0 is not a positive"),
        (lambda: CleaningRules(max_rate_over_median=float("nan")), "max_rate_over_median = nan"),
        (lambda: CleaningRules(min_events_per_user=-1), "min_events_per_user = -1"),
        (lambda: CleaningRules(earliest=float("nan")), "earliest = nan is no time"),
        (lambda: CleaningRules(latest=5.0), "is after latest = 5.0"),
    ],
)
def test_senseless_rules_are_refused(rules: Callable[[], CleaningRules], message: str) -> None:
    with pytest.raises(DataError, match=message):
        rules()


@pytest.mark.parametrize(
    ("column", "rules"),
    [
        ("event", CleaningRules(event_types=("view",))),
        ("value", CleaningRules(normalise_value="min-max")),
        ("device", CleaningRules(encode=("device",))),
    ],
)
def test_a_rule_without_its_column_is_refused(column: str, rules: CleaningRules) -> None:
    frame = frame_of(clean_rows()).drop("event", "value")
    with pytest.raises(DataError, match=f"needs column '{column}'"):
        clean(frame, rules)
