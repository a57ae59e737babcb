"""Published splits, each with a checksum: last out, by global time, and a random share of every user."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.sequences import Sequences
from recsys_models.errors import DataError

NO_ITEM = -1
"""Stands in ``validation`` and ``test`` for a user with too short a sequence."""

_SHORTEST_EVALUATED = 3

TIME_QUANTILE = 0.9
"""Where :func:`global_time_split` cuts by default."""
SHARE_SEED = 2020
"""Published seed of :func:`random_share_split`."""
TRAIN_SHARE = 0.8


@dataclass(frozen=True, eq=False)
class LeaveLastOut:
    """A split of :class:`Sequences` with one test item a user. All parts are aligned by user index.

    Attributes:
        train: everything before the validation item; all events that may be seen of users that are not evaluated.
        validation: int64 [n_users], the item before the test item, or -1.
        test: int64 [n_users], the test item, or -1.
        validation_times: float64 [n_users], Unix seconds of the validation events; None where only the order is known.
    """

    train: Sequences
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    validation_times: NDArray[np.float64] | None = None

    @property
    def evaluated(self) -> NDArray[np.int64]:
        """Indices of the users that have a test item; each has a validation item as well."""
        return np.flatnonzero(self.test != NO_ITEM)

    def history(self, stage: Literal["validation", "test"]) -> Sequences:
        """What a model may see of each user at ``stage``: train, for the test also the validation item."""
        if stage == "validation":
            return self.train
        added = self.validation != NO_ITEM
        ends = self.train.offsets[1:][added]
        offsets = self.train.offsets + np.concatenate([[0], np.cumsum(added)])
        items = np.insert(self.train.items, ends, self.validation[added])
        times = None
        if self.train.timestamps is not None and self.validation_times is not None:
            times = np.insert(self.train.timestamps, ends, self.validation_times[added])
        return Sequences(self.train.user_ids, items, offsets, self.train.catalogue, times)

    def target(self, stage: Literal["validation", "test"]) -> NDArray[np.int64]:
        """The item to be found at ``stage``, int64 [n_users], -1 for users that are not evaluated."""
        return self.validation if stage == "validation" else self.test

    @cached_property
    def checksum(self) -> str:
        """Hex SHA-256 over train, validation and test: two runs with equal checksums used the same split."""
        digest = hashlib.sha256(self.train.sha256().encode())
        digest.update(self.validation.astype("<i8").tobytes())
        digest.update(self.test.astype("<i8").tobytes())
        return digest.hexdigest()


def leave_last_out(sequences: Sequences) -> LeaveLastOut:
    """Split off every user's last two events.

    Ties in time were already decided by file order when the sequences were built. On MovieLens-100K 415 of
    943 users have such a tie at their newest timestamp, so two programs that order ties differently have
    different test items: compare :attr:`LeaveLastOut.checksum` before comparing figures. Like every
    leave-last-out split it lets a model see events of *other* users that are newer than the test event.

    Users with fewer than three events stay in train and have -1 as validation and test.
    """
    lengths = sequences.lengths
    evaluated = lengths >= _SHORTEST_EVALUATED
    ends = sequences.offsets[1:][evaluated]
    validation = np.full(sequences.n_users, NO_ITEM, dtype=np.int64)
    test = validation.copy()
    validation[evaluated] = sequences.items[ends - 2]
    test[evaluated] = sequences.items[ends - 1]
    times = _times_at(sequences, evaluated, ends - 2)
    return LeaveLastOut(sequences.cut(lengths - 2 * evaluated), validation, test, times)


def _times_at(
    sequences: Sequences, users: NDArray[np.bool_], events: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """When these users' events were, one each; not a number for the others."""
    if sequences.timestamps is None:
        return None
    times = np.full(sequences.n_users, np.nan)
    times[users] = sequences.timestamps[events]
    return times


def global_time_split(sequences: Sequences, quantile: float = TIME_QUANTILE) -> LeaveLastOut:
    """Cut everybody's log at one moment, :func:`time_of_quantile`; see :func:`split_at`."""
    return split_at(sequences, time_of_quantile(sequences, quantile))


def time_of_quantile(sequences: Sequences, quantile: float = TIME_QUANTILE) -> float:
    """The time of the event before which this share of all events lies.

    Raises:
        DataError: without times, or for a quantile outside (0, 1).
    """
    if sequences.timestamps is None or not sequences.n_events:
        raise DataError("this log has an order but no times: a split by time needs times, use last-out")
    if not 0.0 < quantile < 1.0:
        raise DataError(f"the quantile of a split by time must lie within 0 and 1, got {quantile!r}")
    return float(np.quantile(sequences.timestamps, quantile, method="lower"))


def split_at(sequences: Sequences, cut: float) -> LeaveLastOut:
    """Split at a moment: training and histories hold nobody's later events, which leave-last-out does not promise.

    A user's test item is her first event at or after the cut, her validation item the last one before it. Her further
    events after the cut are in no part. Who has fewer than two events before the cut is not evaluated; who has none after
    it has a validation item and no test item. Among published variants this is the global temporal split with the first
    target (Gusak et al., "Time to Split: Exploring Data Splitting Strategies for Offline Evaluation of Sequential
    Recommenders", RecSys 2025).

    Raises:
        DataError: without times.
    """
    if sequences.timestamps is None:
        raise DataError("this log has an order but no times: a split by time needs times, use last-out")
    before = np.bincount(
        sequences.user_of_event()[sequences.timestamps < cut], minlength=sequences.n_users
    ).astype(np.int64)
    validated = before >= _SHORTEST_EVALUATED - 1
    evaluated = validated & (before < sequences.lengths)
    ends = sequences.offsets[:-1] + before
    validation = np.full(sequences.n_users, NO_ITEM, dtype=np.int64)
    test = validation.copy()
    validation[validated] = sequences.items[ends[validated] - 1]
    test[evaluated] = sequences.items[ends[evaluated]]
    times = _times_at(sequences, validated, ends[validated] - 1)
    return LeaveLastOut(sequences.cut(before - validated), validation, test, times)


@dataclass(frozen=True, eq=False)
class ShareSplit:
    """A split with many test items a user. Both parts are aligned by user index.

    Attributes:
        train: events in the order of time.
        test: the others; a user may have none and is then not evaluated.
    """

    train: Sequences
    test: Sequences

    @cached_property
    def checksum(self) -> str:
        """Hex SHA-256 over train and test."""
        return hashlib.sha256((self.train.sha256() + self.test.sha256()).encode()).hexdigest()


def random_share_split(
    sequences: Sequences, share: float = TRAIN_SHARE, *, seed: int = SHARE_SEED
) -> ShareSplit:
    """A random share of every user's distinct items for training, the rest for the test.

    The protocol of He et al., "LightGCN", SIGIR 2020 (section 4.1, from NGCF), with a published seed instead of
    published files. It ignores time: a model may see what a user did after a test item. For comparison with that family
    only.

    Args:
        sequences: whose events are split; of repeated items only the first event counts.
        share: of a user's items that is for training, rounded down, at least one.
        seed: equal arguments give equal splits (for one version of numpy).

    Raises:
        DataError: for a share outside (0, 1).
    """
    if not 0.0 < share < 1.0:
        raise DataError(f"the share for training must lie within 0 and 1, got {share!r}")
    owner = sequences.user_of_event()
    first = np.unique(owner * sequences.catalogue.n_items + sequences.items, return_index=True)[1]
    first.sort()
    # One random number an event, ranked within its user.
    order = np.lexsort((np.random.default_rng(seed).random(len(first)), owner[first]))
    counts = np.bincount(owner[first], minlength=sequences.n_users)
    place = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.minimum(counts, np.maximum(1, np.floor(share * counts + 1e-9).astype(np.int64)))
    is_train = np.zeros(len(first), dtype=np.bool_)
    is_train[order] = place < np.repeat(kept, counts)
    return ShareSplit(_some(sequences, first[is_train]), _some(sequences, first[~is_train]))


def _some(sequences: Sequences, events: NDArray[np.int64]) -> Sequences:
    """These events (positions, ascending) of all users."""
    counts = np.bincount(sequences.user_of_event()[events], minlength=sequences.n_users)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    times = None if sequences.timestamps is None else sequences.timestamps[events]
    return Sequences(sequences.user_ids, sequences.items[events], offsets, sequences.catalogue, times)
