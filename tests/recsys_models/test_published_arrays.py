from __future__ import annotations

import numpy as np
import pytest

from recsys_models.errors import DataError
from recsys_models.published_arrays import PUBLISHED_ARRAYS, check_published_array

N = 5


def test_a_width_is_asked_only_where_one_is_given() -> None:
    tower = np.ones((N, 3), dtype=np.float32)
    check_published_array("item_tower", tower, n_items=N)
    check_published_array("item_tower", tower, n_items=N, widths={"item_tower": 3, "basis": 0})
    with pytest.raises(DataError, match=r"'item_tower' has shape \(5, 3\), expected \(5, 4\)"):
        check_published_array("item_tower", tower, n_items=N, widths={"item_tower": 4})
    with pytest.raises(DataError, match=r"'item_tower' has shape \(5, 3\), expected \(6, 3\)"):
        check_published_array("item_tower", tower, n_items=N + 1)


@pytest.mark.parametrize("name", PUBLISHED_ARRAYS)
def test_every_array_is_asked_for_its_type_and_its_finite_numbers(name: str) -> None:
    dtype, axes = PUBLISHED_ARRAYS[name]
    with pytest.raises(DataError, match=f"'{name}' is int16"):
        check_published_array(name, np.zeros((N,) * axes, dtype=np.int16), n_items=N)
    with pytest.raises(DataError, match=f"'{name}' is {dtype} with {axes + 1} axes"):
        check_published_array(name, np.zeros((N,) * (axes + 1), dtype=dtype), n_items=N)
    if dtype == "float32":
        with pytest.raises(DataError, match=f"'{name}' holds numbers that are not finite"):
            check_published_array(name, np.full((N,) * axes, np.nan, dtype=dtype), n_items=N)
