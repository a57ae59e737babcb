from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_models.errors import DataError
from recsys_models.metrics.calibration import (
    AS_THEY_ARE,
    HOTTEST,
    Calibration,
    calibrated,
    calibration_of_recall,
    list_confidences,
    log_loss,
    next_item_probabilities,
    reliability,
    top_confidences,
)
from recsys_models.metrics.calibration_fit import calibration_users, fit_calibration


def test_log_loss_by_hand() -> None:
    scores = np.log(np.array([[0.5, 0.3, 0.2], [2.0, 1.0, 1.0]]))
    assert log_loss(scores, np.array([1, 0])) == pytest.approx([-np.log(0.3), -np.log(0.5)])


def test_log_loss_of_who_knows_nothing_and_of_who_was_sure() -> None:
    assert log_loss(np.zeros((1, 7)), np.array([3])) == pytest.approx([np.log(7)])
    assert log_loss(np.array([[1e4, 0.0]]), np.array([1])) == pytest.approx([1e4])
    assert log_loss(np.array([[0.0, -np.inf, 0.0]]), np.array([1])) == [np.inf]


def test_log_loss_ignores_what_is_added_to_all_scores_and_32_bits() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 9))
    targets = np.array([0, 3, 8, 5])
    expected = log_loss(scores, targets)
    assert log_loss(scores + 1000.0, targets) == pytest.approx(expected)
    assert log_loss(scores.astype(np.float32), targets) == pytest.approx(expected, rel=1e-5)


def test_top_confidences() -> None:
    confidence, right = top_confidences(
        np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])), np.array([0, 2])
    )
    assert confidence == pytest.approx([0.5, 0.6])
    assert right.tolist() == [True, False]


def test_calibration_error_by_hand() -> None:
    """Bins of a half: claims .2 and .4, one true of two: |1 - .6| ; claims .9 and 1.0, one true: |1 - 1.9|."""
    diagram = reliability(np.array([0.2, 0.4, 0.9, 1.0]), np.array([True, False, False, True]), bins=2)
    assert diagram.counts.tolist() == [2.0, 2.0]
    assert diagram.expected_calibration_error() == pytest.approx((0.4 + 0.9) / 4)


def test_honest_claims_have_no_error_and_boasts_do() -> None:
    generator = np.random.default_rng(0)
    truth = generator.random(50_000)
    outcomes = generator.random(50_000) < truth
    assert reliability(truth, outcomes).expected_calibration_error() < 0.01
    assert reliability(truth**0.5, outcomes).expected_calibration_error() > 0.1


def test_diagrams_of_clients_add_up() -> None:
    generator = np.random.default_rng(0)
    claims, outcomes = generator.random(100), generator.random(100) < 0.5
    whole = reliability(claims, outcomes)
    parts = reliability(claims[:30], outcomes[:30]) + reliability(claims[30:], outcomes[30:])
    assert parts.expected_calibration_error() == pytest.approx(whole.expected_calibration_error())
    with pytest.raises(DataError, match="bins differ"):
        _ = whole + reliability(claims, outcomes, bins=3)


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1, np.inf])
def test_refuses_what_is_no_probability(bad: float) -> None:
    with pytest.raises(DataError, match="probabilities must lie in"):
        reliability(np.array([0.5, bad]), np.array([True, False]))


def test_refuses_what_does_not_fit() -> None:
    nothing = reliability(np.array([]), np.array([], dtype=bool))
    with pytest.raises(DataError, match="no prediction"):
        nothing.expected_calibration_error()
    with pytest.raises(DataError, match="one outcome"):
        reliability(np.array([0.5]), np.array([True, False]))
    with pytest.raises(DataError, match="bins must be"):
        reliability(np.array([0.5]), np.array([True]), bins=0)
    with pytest.raises(DataError, match="NaN or infinity"):
        log_loss(np.array([[np.nan, 0.0]]), np.array([0]))
    with pytest.raises(DataError, match="one target in"):
        log_loss(np.zeros((1, 3)), np.array([3]))
    with pytest.raises(DataError, match="every item of a user is excluded"):
        log_loss(np.full((1, 3), -np.inf), np.array([0]))
    with pytest.raises(DataError, match="scores must be"):
        log_loss(np.zeros(3), np.array([0]))


def test_probabilities_of_the_next_new_item() -> None:
    scores = np.array([[3.0, 1.0, 1.0, 0.0], [9.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    seen = [np.array([0]), np.array([], dtype=np.int64), np.arange(4)]
    found = next_item_probabilities(scores, seen, Calibration(2.0))
    weights = np.exp(np.array([0.5, 0.5, 0.0]))
    assert found[0] == pytest.approx([0.0, *(weights / weights.sum())])
    assert found[1].sum() == pytest.approx(1.0)
    assert found[2].tolist() == [0.0] * 4  # nothing is new to her
    half = next_item_probabilities(scores, seen, Calibration(2.0, 0.5))
    assert half[0] == pytest.approx(0.5 * found[0] + 0.5 * np.array([0.0, 1 / 3, 1 / 3, 1 / 3]))
    assert half[1] == pytest.approx(0.5 * found[1] + 0.125)
    assert half[2].tolist() == [0.0] * 4


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(DataError, match="temperature"):
        Calibration(temperature)


@pytest.mark.parametrize("chance", [-0.1, 1.0, np.nan, np.inf])
def test_a_share_that_is_none_is_refused(chance: float) -> None:
    with pytest.raises(DataError, match="chance"):
        Calibration(1.0, chance)


@pytest.mark.parametrize(
    "true", [Calibration(0.3), Calibration(1.0), Calibration(4.0), Calibration(0.5, 0.3)]
)
def test_the_calibration_that_made_the_outcomes_is_found_again(true: Calibration) -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=(4000, 20)) * 3.0
    scores[:, 0] = -np.inf
    finite = np.where(np.isfinite(scores), scores, 0.0)
    seen = [np.array([0])] * 4000
    probability = next_item_probabilities(finite, seen, true)
    targets = np.array([random.choice(20, p=row) for row in probability])
    found = fit_calibration(scores, targets)
    assert found.temperature == pytest.approx(true.temperature, rel=0.15)
    assert found.chance == pytest.approx(true.chance, abs=0.06)

    def loss(calibration: Calibration) -> float:
        return float(
            -np.log(next_item_probabilities(finite, seen, calibration)[np.arange(4000), targets]).mean()
        )

    others = [Calibration(found.temperature * f, found.chance) for f in (0.8, 1.25)]
    assert loss(found) < min(map(loss, others))
    assert loss(found) <= loss(AS_THEY_ARE)


@pytest.mark.parametrize("change", [{"slope": -0.1}, {"slope": np.nan}, {"shift": np.inf}, {"shift": -30.0}])
def test_a_slope_and_a_shift_that_are_none_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(DataError, match="slope and shift"):
        Calibration(1.0, 0.0, **change)


def test_each_user_has_the_temperature_at_which_her_list_is_as_sure_as_it_may_be() -> None:
    scores = np.random.default_rng(2).normal(size=(50, 40)) * np.linspace(0.2, 3.0, 50)[:, None]
    scores[:5, 10:] = -np.inf  # ten items are left: the list is all there is
    plain, sloped = Calibration(1.5, 0.1), Calibration(1.5, 0.1, 0.5, -0.3)
    before, after = list_confidences(scores, plain), list_confidences(scores, sloped)
    odds = np.log(before[5:] / (1.0 - before[5:]))
    reachable = 0.9 * 1.0 + 0.1 * 0.25
    wanted = np.clip(1.0 / (1.0 + np.exp(-(0.5 * odds - 0.3))), None, reachable)
    # Nobody's list can be less sure than chance.
    np.testing.assert_allclose(after[5:], np.maximum(wanted, 0.25), atol=0.02)
    np.testing.assert_array_equal(calibrated(scores, sloped)[:5], calibrated(scores, plain)[:5])
    order = np.argsort(-scores, axis=1)
    found = np.take_along_axis(calibrated(scores, sloped), order, axis=1)
    assert (np.diff(found, axis=1) <= 1e-15).all(), "the order within a user stays"
    np.testing.assert_allclose(found.sum(axis=1), 1.0)


def test_boasting_users_are_told_from_modest_ones() -> None:
    random = np.random.default_rng(3)
    steep = np.where(np.arange(1500) < 750, 4.0, 1.0)[:, None]
    scores = random.normal(size=(1500, 60))
    # All users choose alike; half of them have scores that claim four times as much.
    truth = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    targets = np.array([random.choice(60, p=row) for row in truth])
    boast = steep * scores
    found = fit_calibration(boast, targets)
    assert found.slope < 0.7
    plain = Calibration(found.temperature, found.chance)
    hit = (np.argsort(-boast, axis=1)[:, :10] == targets[:, None]).any(axis=1)
    half = slice(0, 750)

    def off(calibration: Calibration) -> float:
        said = list_confidences(boast, calibration)
        return abs(float((said - hit)[half].mean()))

    assert off(found) < 0.5 * off(plain)


def test_nothing_is_fitted_on_few_users_or_on_what_is_impossible() -> None:
    scores = np.random.default_rng(0).normal(size=(30, 5))
    scores[9:, 2] = -np.inf
    assert fit_calibration(scores, np.full(30, 2)) == AS_THEY_ARE
    broken = np.random.default_rng(0).normal(size=(30, 5))
    whole = fit_calibration(broken[2:], np.full(28, 2))
    broken[0, 1], broken[1, 3] = np.nan, np.inf
    assert fit_calibration(broken, np.full(30, 2)) == whole
    found = fit_calibration(-scores[:, :2] * 1e6, np.zeros(30, np.int64))
    assert 1 / HOTTEST <= found.temperature <= HOTTEST
    assert calibration_users(3, 100).tolist() == [0, 1, 2]
    assert len(calibration_users(10**6, 10**5)) == 40


@given(recall=st.floats(0.02, 0.98), steepness=st.floats(0.1, 20.0))
def test_of_a_released_recall_every_list_holds_as_much(recall: float, steepness: float) -> None:
    scores = np.random.default_rng(0).normal(size=(6, 300)) * steepness
    scores[:, 3] = -np.inf  # seen
    confident = list_confidences(scores, calibration_of_recall(recall))
    # Between the coldest and the hottest temperature there may be none that gives so much.
    coldest, hottest = (
        list_confidences(scores, Calibration(temperature=t)) for t in (1.0 / HOTTEST, HOTTEST)
    )
    wanted = np.clip(recall, hottest, coldest)
    np.testing.assert_allclose(confident, wanted, atol=2e-3)


@pytest.mark.parametrize("recall", [0.001, 0.999])
def test_a_recall_near_its_bounds_gives_probabilities(recall: float) -> None:
    scores = np.random.default_rng(1).normal(size=(4, 50))
    scores[0] = 0.0
    found = calibrated(scores, calibration_of_recall(recall))
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert (found >= 0.0).all()
