from __future__ import annotations

import numpy as np
import pytest

from recsys_models.data.catalogue import Catalogue
from recsys_models.errors import DataError
from recsys_models.item_towers.transfer import ridge_map, rows_by_id, rows_from_content

GENRES = ("harbour winter letter", "dragon wizard rune", "trench convoy siege", "kiss waltz sonnet")


def shelf(prefix: str, count: int, genres: list[int]) -> Catalogue:
    """Items whose texts say their genre, ids that sort as numbers do."""
    texts = [f"{GENRES[genres[k]]} tale {k % 7}" for k in range(count)]
    return Catalogue(
        [f"{prefix}{k + 1}" for k in range(count)], [f"Work {prefix}{k}" for k in range(count)], texts
    )


def test_a_linear_truth_is_found_and_noise_makes_the_map_smaller() -> None:
    random = np.random.default_rng(0)
    known, truth = random.normal(size=(300, 12)), random.normal(size=(12, 4))
    np.testing.assert_allclose(ridge_map(known, known @ truth), truth, atol=1e-3)
    noise = random.normal(size=(300, 4)) * 30.0
    shrunk = ridge_map(known, known @ truth + noise)
    plain = np.linalg.lstsq(known, known @ truth + noise, rcond=None)[0]
    assert np.linalg.norm(shrunk - truth) < 0.8 * np.linalg.norm(plain - truth)
    assert not ridge_map(known, np.zeros((300, 4))).any()
    with pytest.raises(DataError, match="299 items are described and 300 are wanted"):
        ridge_map(known[1:], noise)


def test_rows_follow_their_ids_bit_for_bit() -> None:
    rows = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
    carried, found = rows_by_id(["a", "b", "c"], rows, ["b", "new", "a"])
    assert carried.tobytes() == np.stack([rows[1], np.zeros(2, np.float32), rows[0]]).tobytes()
    assert found.tolist() == [True, False, True]
    with pytest.raises(DataError, match="3 rows for 2 items"):
        rows_by_id(["a", "b"], rows, ["a"])


def test_another_domain_is_linked_by_its_content_alone() -> None:
    random = np.random.default_rng(2)
    ours, theirs = random.integers(0, 4, 200), random.integers(0, 4, 60)
    centres = np.eye(4) * 3.0
    rows = (centres[ours] + 0.1 * random.normal(size=(200, 4))).astype(np.float32)
    rows[:20] = 0.0  # items that the source had no vector for teach nothing
    moved = rows_from_content(shelf("", 200, ours.tolist()), rows, shelf("", 60, theirs.tolist()))
    nearest = (moved @ centres.T).argmax(axis=1)
    assert (nearest == theirs).mean() > 0.95  # a quarter by chance; same ids, other items
