from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_models.data.catalogue import Catalogue
from recsys_models.data.features import Vocabulary, multi_hot, value_normalisation
from recsys_models.errors import DataError

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50)


@given(VALUES)
def test_min_max_reaches_zero_and_one(values: list[float]) -> None:
    array = np.array(values)
    shift, scale = value_normalisation(array, "min-max")
    normal = (array - shift) / scale
    assert normal.min() == 0
    assert normal.max() == (1 if np.ptp(array) > 0 else 0)


def test_z_score_has_mean_zero_and_sd_one() -> None:
    array = np.random.default_rng(0).normal(3, 7, 1000)
    shift, scale = value_normalisation(array, "z-score")
    normal = (array - shift) / scale
    assert normal.mean() == pytest.approx(0, abs=1e-12)
    assert normal.std() == pytest.approx(1)


@pytest.mark.parametrize("method", ["z-score", "min-max"])
@pytest.mark.parametrize("values", [[], [4.0], [4.0, 4.0]])
def test_equal_or_no_values_become_zeros(method: str, values: list[float]) -> None:
    shift, scale = value_normalisation(np.array(values), method)  # pyright: ignore[reportArgumentType]
    assert scale == 1
    assert not np.any(np.array(values) - shift)


def test_values_that_are_not_finite_and_unknown_methods_are_refused() -> None:
    with pytest.raises(DataError, match="1 values are not finite"):
        value_normalisation(np.array([1.0, np.nan]), "z-score")
    with pytest.raises(DataError, match="unknown normalisation 'log'"):
        value_normalisation(np.array([1.0]), "log")  # pyright: ignore[reportArgumentType]


@given(st.lists(st.text(max_size=3)))
def test_codes_depend_on_the_set_of_values_alone(values: list[str]) -> None:
    vocabulary = Vocabulary.of(values)
    assert vocabulary == Vocabulary.of(reversed(values + values))
    assert [vocabulary.values[vocabulary.code(value)] for value in values] == values
    assert vocabulary.code("not among them") == -1


def test_multi_hot_marks_every_value_of_every_item() -> None:
    matrix, vocabulary = multi_hot(
        Catalogue(["a", "b"], attributes={"genre": [["War", "Drama"], []]}), "genre"
    )
    assert vocabulary.values == ("Drama", "War")
    assert matrix.tolist() == [[1, 1], [0, 0]]
    with pytest.raises(DataError, match=r"no attribute 'year' \(it has: genre\)"):
        multi_hot(Catalogue(["a"], attributes={"genre": [[]]}), "year")
