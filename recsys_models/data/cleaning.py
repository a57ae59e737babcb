"""Cleaning a behaviour log by declared rules, each of which says what it dropped.

The rules run in the order of the fields of :class:`CleaningRules`. A rule that is switched off leaves no
line in the report. Nothing here is sent anywhere: a client cleans its own log.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl

from recsys_models.data.cleaning_report import CleaningReport, CleaningStep
from recsys_models.data.features import Vocabulary, value_normalisation
from recsys_models.data.schema import EVENT, ITEM, ROW, TIMESTAMP, USER, VALUE
from recsys_models.errors import DataError

YEAR_1990 = 631_152_000.0
"""1990-01-01 in Unix seconds: no behaviour log of today's platforms is older."""

_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class CleaningRules:
    """What to drop, in this order; None or an empty tuple switches a rule off.

    Attributes:
        drop_missing: rows without user, item or timestamp.
        event_types: keep these kinds of event only.
        known_items: keep these items only (usually the catalogue's); None keeps all.
        drop_duplicates: rows equal to an earlier row in all columns.
        earliest: Unix seconds; rows before it are impossible.
        latest: Unix seconds, usually now; rows after it are impossible.
        max_events_per_user: all rows of a user with more events are robot-like.
        max_rate_over_median: all rows of a user whose events per active UTC day exceed this multiple of the
            median user's are robot-like.
        min_events_per_user: all rows of users with fewer events, repeated together with the next rule until
            neither drops anything (the k-core).
        min_events_per_item: all rows of items with fewer events.
        normalise_value: rewrite ``value`` as ``(value - mean) / sd`` or ``(value - min) / (max - min)``.
        encode: columns that also get a column ``<name>_code`` of integers from a sorted vocabulary.

    Raises:
        DataError: if a bound is not a positive number or the two times are in the wrong order.
    """

    drop_missing: bool = True
    event_types: tuple[str, ...] = ()
    known_items: frozenset[str] | None = field(default=None, repr=False)
    drop_duplicates: bool = True
    earliest: float | None = YEAR_1990
    latest: float | None = None
    max_events_per_user: int | None = None
    max_rate_over_median: float | None = None
    min_events_per_user: int = 1
    min_events_per_item: int = 1
    normalise_value: Literal["none", "z-score", "min-max"] = "none"
    encode: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "max_events_per_user",
            "max_rate_over_median",
            "min_events_per_user",
            "min_events_per_item",
        ):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise DataError(
                    f"cleaning rule {name} = {bound} is not a positive number: raise it or leave it out"
                )
        for name in ("earliest", "latest"):
            time = getattr(self, name)
            if time is not None and not math.isfinite(time):
                raise DataError(
                    f"cleaning rule {name} = {time} is no time: give Unix seconds or leave it out"
                )
        if self.earliest is not None and self.latest is not None and self.earliest > self.latest:
            raise DataError(
                f"cleaning rules: earliest = {self.earliest} is after latest = {self.latest}: exchange them"
            )


ORDER_ONLY = CleaningRules(drop_duplicates=False, earliest=None)
"""For sources that give the order of events but no times."""


def clean(frame: pl.DataFrame, rules: CleaningRules) -> tuple[pl.DataFrame, CleaningReport]:
    """Apply ``rules`` to a log.

    Args:
        frame: a log in the form of ``recsys_models.data.schema``, rows in file order.
        rules: what to drop and to rewrite.

    Returns:
        The kept rows sorted by user and time, ties in file order, and the report. For a rule that drops,
        precision and recall are exact: it drops the rows its text names and no other.

    Raises:
        DataError: if a rule needs a column that the log does not have.
    """
    log = _Log(frame)
    if rules.drop_missing:
        complete = pl.all_horizontal(pl.col(USER, ITEM, TIMESTAMP).is_not_null())
        log.keep("missing", complete, "no user_id, item_id or timestamp")
    if rules.event_types:
        log.require(EVENT, "event_types")
        kinds = ", ".join(rules.event_types)
        log.keep(
            "event-types",
            pl.col(EVENT).is_in(rules.event_types).fill_null(False),
            f"event is not one of: {kinds}",
        )
    if rules.known_items is not None:
        known = pl.col(ITEM).is_in(pl.Series(sorted(rules.known_items), dtype=pl.String).implode())
        log.keep("unknown-items", known, "the item is not in the catalogue")
    if rules.drop_duplicates:
        columns = [column for column in frame.columns if column != ROW]
        first = pl.struct(columns).is_first_distinct()
        log.keep("exact-duplicates", first, "equal to an earlier row in all columns")
    _drop_impossible_times(log, rules)
    _drop_robots(log, rules)
    _drop_rare(log, rules)
    _sort(log)
    return _rewrite(log, rules)


class _Log:
    """The rows that are left, and the steps that got us there."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        self.steps: list[CleaningStep] = []

    def require(self, column: str, rule: str) -> None:
        if column not in self.frame.columns:
            raise DataError(
                f"cleaning rule {rule} needs column '{column}', which the log does not have: drop the rule"
            )

    def keep(self, name: str, condition: pl.Expr, reason: str) -> None:
        """Keep the rows for which ``condition`` is true."""
        before = self.frame
        mask = before.select(condition.alias("keep")).get_column("keep")
        self.replace(name, before.filter(mask), reason, before.filter(~mask).get_column(ROW))

    def replace(
        self, name: str, frame: pl.DataFrame, reason: str, dropped: pl.Series, changed: int = 0
    ) -> None:
        rows = np.sort(dropped.to_numpy().astype(np.int64))
        self.steps.append(
            CleaningStep(name, self.frame.height, len(rows), frame.height, reason, changed, rows)
        )
        self.frame = frame


def _drop_impossible_times(log: _Log, rules: CleaningRules) -> None:
    if rules.earliest is not None:
        log.keep(
            "too-early", pl.col(TIMESTAMP) >= rules.earliest, f"timestamp before {_date(rules.earliest)}"
        )
    if rules.latest is not None:
        log.keep("in-the-future", pl.col(TIMESTAMP) <= rules.latest, f"timestamp after {_date(rules.latest)}")


def _date(seconds: float) -> str:
    return np.datetime_as_string(np.datetime64(int(seconds), "s"), timezone="UTC")


def _drop_robots(log: _Log, rules: CleaningRules) -> None:
    if rules.max_events_per_user is not None:
        bound = rules.max_events_per_user
        log.keep("too-many-events", pl.len().over(USER) <= bound, f"user has more than {bound} events")
    if rules.max_rate_over_median is not None:
        day = (pl.col(TIMESTAMP) / _SECONDS_PER_DAY).floor()
        rates = log.frame.group_by(USER).agg((pl.len() / day.n_unique()).alias("rate"))
        median = rates.get_column("rate").median()
        median_rate = float(median) if isinstance(median, float) else 0.0
        robots = rates.filter(pl.col("rate") > rules.max_rate_over_median * median_rate).get_column(USER)
        log.keep(
            "robot-like-rate",
            ~pl.col(USER).is_in(robots.implode()),
            f"user has over {rules.max_rate_over_median:g} x the median {median_rate:.3g} events a day",
        )


def _drop_rare(log: _Log, rules: CleaningRules) -> None:
    """The k-core: rare users and rare items, until neither is left."""
    least_user, least_item = rules.min_events_per_user, rules.min_events_per_item
    if least_user <= 1 and least_item <= 1:
        return
    frame, passes = log.frame, 0
    frequent = (pl.len().over(USER) >= least_user) & (pl.len().over(ITEM) >= least_item)
    while True:
        smaller, passes = frame.filter(frequent), passes + 1
        if smaller.height == frame.height:
            break
        frame = smaller
    dropped = log.frame.filter(~pl.col(ROW).is_in(frame.get_column(ROW).implode())).get_column(ROW)
    reason = f"fewer than {least_user} events of the user or {least_item} of the item, {passes} passes"
    log.replace("k-core", frame, reason, dropped)


def _sort(log: _Log) -> None:
    """Sort by user, time and file order; count the rows that were out of order or tied."""
    frame = log.frame.sort(ROW)
    earlier = frame.select((pl.col(TIMESTAMP) < pl.col(TIMESTAMP).shift(1).over(USER)).sum()).item()
    ordered = frame.sort(USER, TIMESTAMP, ROW)
    tied = ordered.select((pl.struct(USER, TIMESTAMP).is_duplicated()).sum()).item()
    moved = int(earlier or 0)
    reason = f"{moved} rows followed a newer one of their user; {tied} tied rows stay in file order"
    log.replace("order", ordered, reason, pl.Series([], dtype=pl.Int64), moved)


def _rewrite(log: _Log, rules: CleaningRules) -> tuple[pl.DataFrame, CleaningReport]:
    shift, scale = 0.0, 1.0
    nothing = pl.Series([], dtype=pl.Int64)
    if rules.normalise_value != "none":
        log.require(VALUE, "normalise_value")
        values = log.frame.get_column(VALUE)
        shift, scale = value_normalisation(values.drop_nulls().to_numpy(), rules.normalise_value)
        rewritten = log.frame.with_columns((pl.col(VALUE) - shift) / scale)
        reason = f"value = (value - {shift:.6g}) / {scale:.6g} ({rules.normalise_value})"
        log.replace("normalise-value", rewritten, reason, nothing, int(values.count()))
    vocabularies: dict[str, tuple[str, ...]] = {}
    for column in rules.encode:
        log.require(column, "encode")
        vocabulary = Vocabulary.of(log.frame.get_column(column).drop_nulls().to_list())
        vocabularies[column] = vocabulary.values
        codes = _codes(vocabulary)
        encoded = log.frame.with_columns(
            pl.col(column).map_elements(codes, return_dtype=pl.Int64).fill_null(-1).alias(f"{column}_code")
        )
        reason = f"{column}_code: {len(vocabulary.values)} values in sorted order, -1 where missing"
        log.replace(f"encode-{column}", encoded, reason, nothing, encoded.height)
    return log.frame, CleaningReport(tuple(log.steps), vocabularies, shift, scale)


def _codes(vocabulary: Vocabulary) -> Callable[[str], int]:
    return lambda value: vocabulary.code(value)
