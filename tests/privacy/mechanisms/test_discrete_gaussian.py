"""The noise has the law it claims, to the last bit where that can be computed, and the tests can tell."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from scipy.stats import chi2

from privacy.accounting.analytic_gaussian import gaussian_delta
from privacy.bounded import BoundedSum, UserContributions, clip_and_sum
from privacy.errors import InputError
from privacy.mechanisms import discrete_gaussian
from privacy.mechanisms.discrete_gaussian import add_noise, noise_share, sample, share_sigma
from privacy.randomness import RandomSource, SeededRandomness, SystemRandomness

N = 200_000


def exact_cumulative(sigma: float) -> list[int]:
    """P(|X| <= m) in units of 2^-127, from the definition: no recurrence, a wider sum."""
    with mpmath.workdps(60):
        scale = 2 * mpmath.mpf(sigma) ** 2
        weights = [mpmath.exp(-(mpmath.mpf(m) ** 2) / scale) for m in range(math.ceil(16 * sigma) + 2)]
        total = 2 * mpmath.fsum(weights) - 1
        running, cumulative = -weights[0], []
        for weight in weights:
            running += 2 * weight
            cumulative.append(int(running / total * 2**127))
    return cumulative


def chi_square_p(drawn: np.ndarray, sigma: float) -> float:
    """p-value of a chi-square test whose bins all expect at least 20 draws."""
    reach = math.ceil(12 * sigma)
    values = np.arange(-reach, reach + 1)
    expected = np.exp(-(values**2) / (2 * sigma**2))
    expected *= len(drawn) / expected.sum()
    counts = np.bincount(np.clip(drawn, -reach, reach) + reach, minlength=values.size)
    bins = (np.cumsum(expected) / max(20.0, len(drawn) / 200)).astype(int)
    bins[bins == bins[-1]] = max(bins[-1] - 1, 0)  # the last bin may be too small: joined with its neighbour
    observed, wanted = np.bincount(bins, counts), np.bincount(bins, expected)
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    return float(chi2.sf(((observed - wanted) ** 2 / wanted).sum(), wanted.size - 1))


class Scripted(RandomSource):
    """Gives the words it was told to: the only way to reach a branch of probability 2^-45."""

    is_simulated = True

    def __init__(self, *calls: list[int]) -> None:
        self.calls = list(calls)

    def random_bytes(self, n: int) -> bytes:
        words = self.calls.pop(0)
        assert n == 8 * len(words)
        return b"".join(w.to_bytes(8, "little") for w in words)

    def derive(self, *labels: str) -> RandomSource:
        raise NotImplementedError


class TestTable:
    @pytest.mark.parametrize("sigma", [0.5, 1.0, 3.7, 1000 / 7])
    def test_equals_an_independent_computation_to_127_bits(self, sigma: float) -> None:
        table = discrete_gaussian._table(sigma)
        exact = exact_cumulative(sigma)[: table.high.size]
        for high, low, wanted in zip(table.high.tolist(), table.low.tolist(), exact, strict=True):
            assert abs(((high << 64) | low) - wanted) <= 2**17  # that is 2^-110: the tail that was cut

    def test_known_answers(self) -> None:
        """P(0) of sigma = 1 is 1 / theta_3(0, e^-1/2) = 0.398942... (Jacobi theta), close to phi(0)."""
        table = discrete_gaussian._table(1.0)
        assert table.high[0] / 2**63 == pytest.approx(
            float(1 / mpmath.jtheta(3, 0, mpmath.exp(-0.5))), rel=1e-15
        )
        assert table.high[0] / 2**63 == pytest.approx(0.39894228, rel=1e-7)

    @pytest.mark.parametrize("sigma", [1.0, 50.0])
    def test_tail_is_cut_where_documented(self, sigma: float) -> None:
        cut = discrete_gaussian._table(sigma).high.size
        beyond = mpmath.fsum(
            mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * sigma**2)) for x in range(cut + 1, 2 * cut)
        )
        assert 2 * beyond / (sigma * math.sqrt(2 * math.pi)) < 2.0**-110

    def test_exponential_in_fixed_point(self) -> None:
        from fractions import Fraction

        with mpmath.workdps(100):
            for x in (Fraction(2), Fraction(1, 3), Fraction(1, 2**35)):
                exact = int(mpmath.exp(-mpmath.mpf(x.numerator) / x.denominator) * 2**224)
                assert abs(discrete_gaussian._exp_minus(x) - exact) < 2**8

    def test_is_increasing_and_cached(self) -> None:
        table = discrete_gaussian._table(37.0)
        assert (np.diff(table.high.astype(object)) >= 0).all()
        assert discrete_gaussian._table(37.0) is table


class TestSample:
    @pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3, 30.0, 8000.0])
    def test_accepts_the_right_sigma_and_rejects_others(self, sigma: float) -> None:
        drawn = sample(sigma, N, SeededRandomness(11).derive(str(sigma)))
        assert chi_square_p(drawn, sigma) > 1e-3
        assert chi_square_p(drawn, 0.9 * sigma) < 1e-9
        assert chi_square_p(drawn, 1.1 * sigma) < 1e-9

    def test_moments(self) -> None:
        """Mean, variance, skewness and kurtosis within five standard errors."""
        z = sample(500.0, N, SeededRandomness(12)) / 500.0
        assert abs(z.mean()) < 5 / math.sqrt(N)
        assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / N)
        assert abs((z**3).mean()) < 5 * math.sqrt(15 / N)
        assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / N)

    def test_entries_are_independent_of_their_neighbours(self) -> None:
        z = sample(20.0, N, SeededRandomness(13)) / 20.0
        assert abs((z[1:] * z[:-1]).mean()) < 5 / math.sqrt(N)

    def test_seeded_is_reproducible_and_unseeded_is_not(self) -> None:
        assert (sample(9.0, 50, SeededRandomness(1)) == sample(9.0, 50, SeededRandomness(1))).all()
        assert (sample(9.0, 50, SystemRandomness()) != sample(9.0, 50, SystemRandomness())).any()

    def test_known_draws(self) -> None:
        """Pinned: a change here changes every seeded simulation and belongs in the change log."""
        assert sample(100.0, 6, SeededRandomness(2024)).tolist() == [24, -139, 1, 252, 145, -108]

    def test_chunks_do_not_show(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = sample(5.0, 1000, SeededRandomness(3))
        monkeypatch.setattr(discrete_gaussian, "_CHUNK", 7)
        assert (sample(5.0, 1000, SeededRandomness(3)) == whole).all()

    def test_no_draws(self) -> None:
        assert sample(5.0, 0, SeededRandomness(3)).shape == (0,)

    def test_sign_comes_from_the_lowest_bit(self) -> None:
        u = 3 << 62  # the upper 63 bits say 0.75: magnitude 1 at sigma 1
        assert sample(1.0, 2, Scripted([u, u | 1], [])).tolist() == [1, -1]

    def test_ties_are_resolved_by_the_lower_bits(self) -> None:
        """A draw whose upper bits equal an entry's is below it or not by its lower 64 bits."""
        table = discrete_gaussian._table(1.0)
        for m in (0, 1, 4):
            word, low = int(table.high[m]) << 1, int(table.low[m])
            assert sample(1.0, 1, Scripted([word], [low - 1])).tolist() == [m]
            assert sample(1.0, 1, Scripted([word], [low])).tolist() == [m + 1]
            assert sample(1.0, 1, Scripted([word - 1], [])).tolist() in ([m], [-m])

    def test_the_largest_draws_are_the_farthest_tail(self) -> None:
        """Many entries share the largest upper bits; the lower ones tell them apart, up to the cut."""
        table = discrete_gaussian._table(1.0)
        largest = 2**64 - 2
        assert sample(1.0, 1, Scripted([largest], [2**64 - 1])).tolist() == [table.high.size]
        first = int(np.searchsorted(table.high, np.uint64(2**63 - 1)))
        assert sample(1.0, 1, Scripted([largest], [0])).tolist() == [first]

    @pytest.mark.parametrize("sigma", [math.nan, -1.0, 0.0, 0.49, 2.0**17 + 1, math.inf])
    def test_refuses_other_sigmas(self, sigma: float) -> None:
        with pytest.raises(InputError, match="sigma="):
            sample(sigma, 1, SeededRandomness(1))

    def test_widest_sigma(self) -> None:
        drawn = sample(2.0**17, 20_000, SeededRandomness(8))
        assert abs(drawn.std() / 2**17 - 1) < 5 / math.sqrt(2 * 20_000)


class TestAccountedAsGaussian:
    @pytest.mark.parametrize(("bound", "multiplier"), [(1000, 0.6), (1000, 1.0), (1000, 5.0), (100, 1.0)])
    def test_privacy_profile_is_the_gaussian_one(self, bound: int, multiplier: float) -> None:
        """Exact hockey-stick divergence of N_Z(0, s^2) from N_Z(bound, s^2), against the formula."""
        sigma = bound * multiplier
        x = np.arange(-math.ceil(14 * sigma), math.ceil(14 * sigma) + 1, dtype=np.float64)
        p = np.exp(-(x**2) / (2 * sigma**2))
        p /= p.sum()
        for epsilon in (0.5, 2.0, 8.0):
            loss = (bound**2 - 2 * x * bound) / (2 * sigma**2)
            exact = float((p * np.maximum(0.0, 1.0 - np.exp(np.minimum(epsilon - loss, 0.0)))).sum())
            assert exact == pytest.approx(gaussian_delta(1 / multiplier, epsilon), rel=2e-3, abs=1e-15)

    def test_sum_of_shares_is_as_good_as_one_draw(self) -> None:
        """Exact: the convolution of 16 shares of sigma 3 equals N_Z(0, 12^2) wherever there is mass."""
        x = np.arange(-60, 61, dtype=np.float64)
        share = np.exp(-(x**2) / 18)
        total = share = share / share.sum()
        for _ in range(15):
            total = np.convolve(total, share)
        y = np.arange(-(total.size // 2), total.size // 2 + 1, dtype=np.float64)
        one = np.exp(-(y**2) / (2 * 144))
        one /= one.sum()
        middle = np.abs(y) < 80
        assert np.abs(total[middle] / one[middle] - 1).max() < 1e-11


class TestAddNoise:
    total = BoundedSum(np.arange(5) * 1000, 200, 0.5, 3)

    def test_event_follows_from_the_bound_and_the_noise(self) -> None:
        noised = add_noise(self.total, 300.0, SeededRandomness(1), name="popularity", detail={"round": 1})
        assert noised.event.noise_multiplier == 1.5
        assert noised.event.name == "popularity" and noised.event.count == 1
        assert noised.event.sampling_probability == 1.0 and noised.event.left_the_client
        assert noised.event.detail == {"round": 1, "l2_bound": 200, "unit": 0.5, "entries": 5, "simulated": 1}

    def test_value_is_the_sum_and_the_noise(self) -> None:
        noised = add_noise(self.total, 300.0, SeededRandomness(1), name="x")
        assert (noised.values - self.total.values).tolist() == sample(300.0, 5, SeededRandomness(1)).tolist()
        assert (noised.dense == noised.values * 0.5).all()

    def test_only_seeded_noise_is_marked(self) -> None:
        assert "simulated" not in add_noise(self.total, 300.0, SystemRandomness(), name="x").event.detail

    def test_detail_cannot_overrule_a_fact(self) -> None:
        noised = add_noise(
            self.total, 300.0, SeededRandomness(1), name="x", detail={"simulated": 0, "l2_bound": 1}
        )
        assert noised.event.detail["simulated"] == 1 and noised.event.detail["l2_bound"] == 200

    def test_no_argument_states_a_sensitivity(self) -> None:
        """The interface is the guarantee: a new parameter here needs a reviewer."""
        import inspect

        assert list(inspect.signature(add_noise).parameters) == [
            "total", "sigma", "randomness", "name", "left_the_client", "detail",
        ]  # fmt: skip

    def test_shares_add_up_to_the_accounted_noise(self) -> None:
        honest, total_sigma = 9, 6000.0
        zero = BoundedSum(np.zeros(20_000, np.int64), 100, 1.0, 1)
        source = SeededRandomness(5)
        shares = [
            noise_share(zero, total_sigma, honest, source.derive(str(k)), name="x") for k in range(honest)
        ]
        deviation = np.sum([s.values for s in shares], axis=0).std()
        assert abs(deviation / total_sigma - 1) < 5 / math.sqrt(2 * 20_000)
        assert {s.event.noise_multiplier for s in shares} == {60.0}
        assert shares[0].event.detail["own_view_noise_multiplier"] == 20.0
        assert shares[0].event.detail["honest_survivors"] == 9

    def test_share_sigma(self) -> None:
        assert share_sigma(30.0, 4) == 15.0
        for total_sigma, honest in ((30.0, 0), (30.0, 101), (math.nan, 4), (-30.0, 4), (1e9, 4)):
            with pytest.raises(InputError):
                share_sigma(total_sigma, honest)

    def test_from_users_to_a_release(self) -> None:
        users = UserContributions.from_dense(np.eye(3)[np.arange(3000) % 3])
        total = clip_and_sum(users, l2_clip_norm=1.0, unit=1e-3)
        released = add_noise(total, 2000.0, SeededRandomness(6), name="popularity")
        assert released.event.noise_multiplier == 2.0
        assert np.abs(released.dense - 1000).max() < 5 * 2.0


@pytest.mark.parametrize("sigma", [0.5, 3.0, 1000.0, 2.0**15])
def test_the_guided_search_finds_what_a_binary_search_finds(sigma: float):
    table = discrete_gaussian._table(sigma)
    words = SeededRandomness(5).uint64(200_000) >> np.uint64(1)
    edges = np.concatenate([table.high[:1000], table.high[-1000:], table.high[:1000] - np.uint64(1)])
    upper = np.concatenate([words, edges, np.array([0, 2**63 - 1], dtype=np.uint64)])
    expected = np.searchsorted(table.high, upper, side="right")
    assert np.array_equal(discrete_gaussian._count_up_to(table, upper), expected)
