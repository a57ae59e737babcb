"""The bound is a promise about integers and about every user, so it is tested with hostile ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privacy.bounded import (
    MAX_L2_BOUND,
    BoundedSum,
    DisjointSum,
    UserContributions,
    clip_and_sum,
    concatenate,
)
from privacy.errors import InputError
from privacy.randomness import SeededRandomness

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True, width=64)
NAN, INF = math.nan, math.inf


def dense(c: UserContributions) -> np.ndarray:
    rows = np.repeat(np.arange(c.users), np.diff(c.offsets))
    matrix = np.zeros((c.users, c.length))
    matrix[rows, c.indices] = c.values
    return matrix


def exact_norm_squared(values: np.ndarray) -> int:
    return sum(int(v) ** 2 for v in values)


class TestUserContributions:
    def test_repeated_indices_are_added_and_sorted(self) -> None:
        c = UserContributions(
            np.array([3, 1, 3, 0, 2]), np.array([1.0, 2, 4, 8, 16]), np.array([0, 3, 3, 5]), 4
        )
        assert c.indices.tolist() == [1, 3, 0, 2]
        assert c.values.tolist() == [2, 5, 8, 16]
        assert c.offsets.tolist() == [0, 2, 2, 4]

    def test_last_user_may_be_empty_and_there_may_be_none(self) -> None:
        assert UserContributions(np.array([0]), np.array([1.0]), np.array([0, 1, 1]), 1).users == 2
        nobody = UserContributions(np.array([]), np.array([]), np.array([0]), 3)
        assert (nobody.users, nobody.dropped_users) == (0, 0)

    def test_users_with_non_finite_values_are_emptied_and_counted(self) -> None:
        c = UserContributions.from_dense([[1, 0], [NAN, 1], [0, -INF], [2, 3]])
        assert c.dropped_users == 2
        assert dense(c).tolist() == [[1, 0], [0, 0], [0, 0], [2, 3]]

    def test_overflow_while_merging_drops_the_user(self) -> None:
        c = UserContributions(np.array([0, 0, 1]), np.array([1e308, 1e308, 1.0]), np.array([0, 2, 3]), 2)
        assert c.dropped_users == 1 and dense(c).tolist() == [[0, 0], [0, 1]]

    def test_from_dense_is_the_same_rows(self) -> None:
        matrix = np.array([[0, 1.5, 0], [0, 0, 0], [-2, 0, 3]])
        assert (dense(UserContributions.from_dense(matrix)) == matrix).all()

    def test_caller_keeps_the_own_arrays(self) -> None:
        values = np.array([1.0])
        c = UserContributions(np.array([0]), values, np.array([0, 1]), 1)
        values[0] = 9.0
        assert c.values.tolist() == [1.0]
        with pytest.raises(ValueError, match="read-only"):
            c.values[0] = 9.0

    @pytest.mark.parametrize(
        ("indices", "values", "offsets", "length", "message"),
        [
            ([0, 4], [1, 1], [0, 2], 4, "outside 0..3"),
            ([-1], [1], [0, 1], 4, "outside"),
            ([0], [1, 2], [0, 1], 4, "one value for each index"),
            ([0], [1], [0, 2], 4, "offsets"),
            ([0], [1], [1, 1], 4, "offsets"),
            ([0, 1], [1, 1], [0, 2, 1, 2], 4, "offsets"),
            ([], [], [], 4, "offsets"),
            ([0.5], [1], [0, 1], 4, "integers"),
            ([0], [1], [0, 1], 0, "length=0"),
        ],
    )
    def test_refuses(self, indices: list, values: list, offsets: list, length: int, message: str) -> None:
        with pytest.raises(InputError, match=message):
            UserContributions(np.array(indices), np.array(values, float), np.array(offsets), length)

    def test_from_dense_refuses_a_vector(self) -> None:
        with pytest.raises(InputError, match="matrix"):
            UserContributions.from_dense([1.0, 2.0])

    def test_repr_shows_no_data(self) -> None:
        assert "12345" not in repr(UserContributions.from_dense([[12345.0, NAN]]))


class TestClipAndSum:
    def test_short_users_are_kept_and_long_ones_scaled(self) -> None:
        total = clip_and_sum(UserContributions.from_dense([[3, 4], [0, 0.5]]), l2_clip_norm=1, unit=0.001)
        assert total.values.tolist() == [600, 1300]
        assert (total.l2_bound, total.users) == (1000, 2)

    def test_truncation_is_toward_zero_for_each_user(self) -> None:
        """Truncating the sum instead would give 3 and -3, to which one user contributes more than 1."""
        total = clip_and_sum(UserContributions.from_dense([[1.9, -1.9], [1.9, -1.9]]), l2_clip_norm=9, unit=1)
        assert total.values.tolist() == [2, -2]

    def test_bound_is_rounded_down(self) -> None:
        total = clip_and_sum(UserContributions.from_dense([[100.0]]), l2_clip_norm=2.9, unit=1.0)
        assert total.l2_bound == 2 and total.values.tolist() == [2]

    def test_whole_numbers_stay_whole(self) -> None:
        hits = SeededRandomness(1).integers(2, 3000).reshape(1000, 3).astype(float)
        total = clip_and_sum(UserContributions.from_dense(hits), l2_clip_norm=2.0, unit=1.0)
        assert total.values.tolist() == hits.sum(axis=0).tolist()

    def test_no_users_give_zeros(self) -> None:
        total = clip_and_sum(UserContributions.from_dense(np.zeros((0, 3))), l2_clip_norm=1, unit=0.1)
        assert total.values.tolist() == [0, 0, 0]

    @pytest.mark.parametrize("scale", [1e-308, 1e-160, 1e-9, 1.0, 1e9, 1e160, 1e307])
    def test_no_square_over_or_underflows(self, scale: float) -> None:
        total = clip_and_sum(
            UserContributions.from_dense([[3 * scale, -4 * scale]]), l2_clip_norm=scale, unit=scale / 1000
        )
        assert np.abs(total.values - [600, -800]).max() <= 1

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(
        row=hnp.arrays(np.float64, st.integers(1, 30), elements=ANY_FLOAT),
        clip=st.floats(1e-6, 1e6),
        steps=st.integers(1, 10**6),
    )
    def test_one_user_never_exceeds_the_bound(self, row: np.ndarray, clip: float, steps: int) -> None:
        total = clip_and_sum(UserContributions.from_dense([row]), l2_clip_norm=clip, unit=clip / steps)
        assert exact_norm_squared(total.values) <= total.l2_bound**2

    def test_many_users_at_the_very_bound(self) -> None:
        """Random directions scaled exactly to the bound: floating point alone lets some of them through."""
        source = SeededRandomness(3)
        for width in (1, 2, 3, 50):
            matrix = source.uniform(400 * width).reshape(400, width) - 0.5
            total = [
                clip_and_sum(UserContributions.from_dense([row]), l2_clip_norm=1.0, unit=2.0**-29)
                for row in matrix
            ]
            assert max(exact_norm_squared(t.values) - t.l2_bound**2 for t in total) <= 0

    def test_exact_check_catches_what_rounding_let_through(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With clipping replaced by one that is a little too generous, the integers still obey the bound."""
        from privacy import bounded

        clipped = bounded._clipped_steps
        monkeypatch.setattr(bounded, "_clipped_steps", lambda *a: clipped(*a) * (1 + 1e-3))
        users = UserContributions.from_dense([[5.0, 5.0, 5.0], [0.1, 0.1, 0.1]])
        total = clip_and_sum(users, l2_clip_norm=1.0, unit=0.001)
        alone = clip_and_sum(UserContributions.from_dense([[0.1, 0.1, 0.1]]), l2_clip_norm=1.0, unit=0.001)
        assert exact_norm_squared(total.values - alone.values) <= 1000**2
        assert (total.values - alone.values).min() >= 570  # shrunk, not thrown away
        monkeypatch.setattr(bounded, "_clipped_steps", lambda *a: clipped(*a) * 1e6)
        assert not clip_and_sum(users, l2_clip_norm=1.0, unit=0.001).values.any()  # hopeless: gives nothing

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(
        matrix=hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.just(4)), elements=ANY_FLOAT),
        data=st.data(),
    )
    def test_neighbouring_data_sets(self, matrix: np.ndarray, data: st.DataObject) -> None:
        """Removing any user moves the sum by at most the bound: the relation the accountant assumes."""
        removed = data.draw(st.integers(0, len(matrix) - 1))
        parameters = {"l2_clip_norm": 3.0, "unit": 0.01}
        full = clip_and_sum(UserContributions.from_dense(matrix), **parameters)
        less = clip_and_sum(UserContributions.from_dense(np.delete(matrix, removed, axis=0)), **parameters)
        assert exact_norm_squared(full.values - less.values) <= full.l2_bound**2

    def test_batches_of_users_give_the_same_sum(self) -> None:
        matrix = SeededRandomness(4).uniform(60).reshape(20, 3)
        parameters = {"l2_clip_norm": 1.0, "unit": 1e-4}
        whole = clip_and_sum(UserContributions.from_dense(matrix), **parameters)
        running = DisjointSum(matrix.shape[1], l2_bound=whole.l2_bound, unit=whole.unit)
        for batch in (matrix[:7], matrix[7:]):
            running.add(clip_and_sum(UserContributions.from_dense(batch), **parameters))
        joined = running.total()
        assert joined.values.tolist() == whole.values.tolist()
        assert (joined.l2_bound, joined.users) == (whole.l2_bound, whole.users)

    @pytest.mark.parametrize(
        ("clip", "unit", "message"),
        [
            (NAN, 1.0, "l2_clip_norm=nan"),
            (-1.0, 1.0, "l2_clip_norm"),
            (0.0, 1.0, "l2_clip_norm"),
            (INF, 1.0, "l2_clip_norm"),
            (1.0, NAN, "unit=nan"),
            (1.0, 0.0, "unit"),
            (1.0, 1.5, "coarser than"),
            (1.0, 1e-12, "2\\^30"),
        ],
    )
    def test_refuses(self, clip: float, unit: float, message: str) -> None:
        with pytest.raises(InputError, match=message):
            clip_and_sum(UserContributions.from_dense([[1.0]]), l2_clip_norm=clip, unit=unit)


class TestCombining:
    def test_concatenation_adds_squared_bounds_and_rounds_up(self) -> None:
        parts = [BoundedSum(np.array([1, 2]), 3, 0.5, 7), BoundedSum(np.array([3]), 4, 0.5, 7)]
        assert concatenate(parts).l2_bound == 5
        assert concatenate(parts).values.tolist() == [1, 2, 3]
        assert concatenate([*parts, BoundedSum(np.array([0]), 1, 0.5, 7)]).l2_bound == 6  # sqrt(26)

    def test_disjoint_users_keep_the_bound_and_earlier_totals_stand(self) -> None:
        running = DisjointSum(2, l2_bound=4, unit=0.5)
        assert running.total().values.tolist() == [0, 0]
        running.add(BoundedSum(np.array([1, 2]), 4, 0.5, 7))
        first = running.total()
        running.add(BoundedSum(np.array([10, 20]), 4, 0.5, 2))
        joined = running.total()
        assert (joined.values.tolist(), joined.l2_bound, joined.unit, joined.users) == ([11, 22], 4, 0.5, 9)
        assert (first.values.tolist(), first.users) == ([1, 2], 7)

    @pytest.mark.parametrize(
        "part",
        [
            BoundedSum(np.array([1, 2]), 3, 0.5, 7),
            BoundedSum(np.array([1, 2]), 4, 0.25, 7),
            BoundedSum(np.array([1]), 4, 0.5, 7),
        ],
    )
    def test_a_running_sum_refuses_another_bound_unit_or_length(self, part: BoundedSum) -> None:
        running = DisjointSum(2, l2_bound=4, unit=0.5)
        with pytest.raises(InputError, match="clip every batch alike"):
            running.add(part)
        assert running.total().users == 0
        assert not running.total().values.any()

    @pytest.mark.parametrize(("length", "bound", "unit"), [(0, 4, 0.5), (2, 0, 0.5), (2, 4, NAN)])
    def test_a_running_sum_needs_a_width_a_bound_and_a_grid(
        self, length: int, bound: int, unit: float
    ) -> None:
        with pytest.raises(InputError):
            DisjointSum(length, l2_bound=bound, unit=unit)

    def test_refuses_parts_that_do_not_fit(self) -> None:
        one = BoundedSum(np.array([1]), 3, 0.5, 7)
        with pytest.raises(InputError, match="units differ"):
            concatenate([one, BoundedSum(np.array([1]), 3, 0.25, 7)])
        with pytest.raises(InputError, match="different users"):
            concatenate([one, BoundedSum(np.array([1]), 3, 0.5, 8)])
        with pytest.raises(InputError, match="at least one"):
            concatenate([])

    @pytest.mark.parametrize("bound", [0, -1, 1.5, MAX_L2_BOUND + 1])
    def test_refuses_a_bound_that_is_none(self, bound: int) -> None:
        with pytest.raises(InputError, match="l2_bound"):
            BoundedSum(np.array([1]), bound, 1.0, 1)

    def test_refuses_floats(self) -> None:
        with pytest.raises(InputError, match="integers"):
            BoundedSum(np.array([1.5]), 1, 1.0, 1)

    def test_repr_shows_no_data(self) -> None:
        assert "12345" not in repr(BoundedSum(np.array([12345]), 3, 1.0, 12345))
