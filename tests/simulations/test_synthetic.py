from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from recsys_models.data.adapters import load
from recsys_models.data.dataset import Dataset
from recsys_models.data.splits import leave_last_out
from recsys_models.data.writers import write_csv
from recsys_models.errors import DataError
from simulations.synthetic import synthetic_log

CUTOFF = 10
DECAY = 0.8


def recall_of_popularity_and_transitions(dataset: Dataset) -> tuple[float, float]:
    """recall@10 on the test item, full ranking, seen items removed, ties at mean rank.

    Transitions: counts of pairs one (weight 1) and two (weight 0.5) events apart, summed over the last ten
    items of the history with a decay of 0.8.
    """
    split = leave_last_out(dataset.sequences)
    history, n_items = split.history("test"), dataset.catalogue.n_items
    popularity = np.bincount(history.items, minlength=n_items).astype(float)
    counts, user = np.zeros((n_items, n_items)), history.user_of_event()
    for distance, weight in ((1, 1.0), (2, 0.5)):
        same = user[:-distance] == user[distance:]
        np.add.at(counts, (history.items[:-distance][same], history.items[distance:][same]), weight)
    hits = np.zeros(2)
    for index in split.evaluated:
        seen, target = history.of(index), split.test[index]
        recent = seen[::-1][:10]
        transitions = (DECAY ** np.arange(len(recent))) @ counts[recent]
        for which, scores in enumerate((popularity, transitions)):
            candidates = np.delete(scores, np.setdiff1d(seen, [target]))
            rank = (candidates > scores[target]).sum() + ((candidates == scores[target]).sum() - 1) / 2
            hits[which] += rank < CUTOFF
    by_popularity, by_transitions = hits / len(split.evaluated)
    return float(by_popularity), float(by_transitions)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_recall_is_of_the_kind_movielens_has(seed: int) -> None:
    popularity, transitions = recall_of_popularity_and_transitions(synthetic_log(seed=seed))
    print(f"\nseed {seed}: recall@10 of popularity {popularity:.3f}, of transition counts {transitions:.3f}")
    assert 0.04 <= popularity <= 0.08
    assert 0.2 <= transitions <= 0.35


def test_without_its_order_the_log_gives_transitions_no_more_than_taste() -> None:
    # The order is what transitions feed on: shuffled within users, they fall far below.
    dataset = synthetic_log(seed=0)
    sequences, random = dataset.sequences, np.random.default_rng(0)
    shuffled = sequences.items.copy()
    for user in range(sequences.n_users):
        random.shuffle(shuffled[sequences.offsets[user] : sequences.offsets[user + 1]])
    mixed = Dataset(
        "mixed",
        type(sequences)(sequences.user_ids, shuffled, sequences.offsets, sequences.catalogue),
        dataset.catalogue,
    )
    _, ordered = recall_of_popularity_and_transitions(dataset)
    _, unordered = recall_of_popularity_and_transitions(mixed)
    print(f"\ntransition counts: {ordered:.3f} in order, {unordered:.3f} shuffled")
    assert unordered < 0.6 * ordered


def test_shape_of_the_log() -> None:
    dataset = synthetic_log(seed=5)
    sequences, catalogue = dataset.sequences, dataset.catalogue
    assert (sequences.n_users, catalogue.n_items) == (2000, 1000)
    assert 20 <= sequences.lengths.min() < sequences.lengths.max() <= 120
    assert 35 <= np.median(sequences.lengths) <= 50
    assert sequences.timestamps is not None
    for user in range(0, 2000, 97):
        items = sequences.of(user)
        assert len(set(items.tolist())) == len(items), "nobody sees an item twice"
        times = sequences.timestamps[sequences.offsets[user] : sequences.offsets[user + 1]]
        assert np.all(np.diff(times) >= 1)
    counts = np.sort(np.bincount(sequences.items, minlength=1000))[::-1]
    assert 0.3 < counts[:100].sum() / counts.sum() < 0.7, "skewed, but not a handful of hits"
    assert np.count_nonzero(counts) > 950


def test_items_can_be_told_apart_and_read() -> None:
    catalogue = synthetic_log(10, 5000, seed=0).catalogue
    assert len(set(catalogue.titles)) == 5000
    assert all(values for column in catalogue.attributes.values() for values in column)
    assert set(catalogue.attributes) == {"genre", "year"}
    for title, text, genres in zip(
        catalogue.titles, catalogue.texts, catalogue.attributes["genre"], strict=True
    ):
        assert text.startswith(f"{title}. Genres: {', '.join(genres)}.")


def test_equal_seeds_give_equal_logs_and_others_others() -> None:
    first, again, other = (synthetic_log(200, 100, seed=seed) for seed in (7, 7, 8))
    assert first.split_checksum == again.split_checksum
    assert first.user_attributes == again.user_attributes
    assert first.catalogue.sha256 != other.catalogue.sha256
    assert first.split_checksum != other.split_checksum


def test_the_index_of_an_item_tells_nothing_of_its_popularity() -> None:
    sequences = synthetic_log(seed=1).sequences
    counts = np.bincount(sequences.items, minlength=1000)
    correlation = np.corrcoef(np.arange(1000), np.argsort(np.argsort(counts)))[0, 1]
    assert abs(correlation) < 4 / np.sqrt(1000)


@pytest.mark.parametrize(("users", "items"), [(1, 40), (3, 41), (60, 50), (5, 3000)])
def test_small_and_odd_sizes(users: int, items: int) -> None:
    dataset = synthetic_log(users, items, seed=0)
    assert (dataset.sequences.n_users, dataset.catalogue.n_items) == (users, items)
    assert dataset.sequences.lengths.max() <= items // 2
    assert dataset.sequences.lengths.min() >= 20


def test_it_is_fast() -> None:
    # Processor time, so that a busy machine does not fail the test.
    start = time.process_time()
    synthetic_log(seed=0)
    assert time.process_time() - start < 3


@pytest.mark.slow
def test_fifty_thousand_users() -> None:
    start = time.process_time()
    assert synthetic_log(50_000, 2000, seed=0).sequences.n_users == 50_000
    assert time.process_time() - start < 60


def test_csv_round_trip(tmp_path: Path) -> None:
    written = synthetic_log(50, 60, seed=0)
    write_csv(written, tmp_path)
    read = load(tmp_path)
    assert read.catalogue == written.catalogue
    assert read.split_checksum == written.split_checksum


@pytest.mark.parametrize(("users", "items"), [(0, 100), (-1, 100), (10, 39)])
def test_too_small_is_refused(users: int, items: int) -> None:
    with pytest.raises(DataError, match="ask for at least"):
        synthetic_log(users, items, seed=0)
