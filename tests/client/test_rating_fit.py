"""Ratings: what vectors add to the biases, that a user's own rating does not predict itself, and where they are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.model import ClientModel
from client.plan_settings import check_settings
from client.public_state import PublicState
from client.rating_fit import Rated, RatingModel, fitted_rating_model, rated_users
from client.recommend import recommend
from privacy.errors import InputError, PolicyRefusal
from privacy.randomness import SeededRandomness
from recsys_models.data.catalogue import Catalogue
from recsys_models.data.sequences import Sequences
from recsys_models.ratings import RatingBiases
from server.scenario import Scenario, override
from simulations import bench_ratings
from tests.client.test_training import SETTINGS
from tests.server.test_plan import planned

N, DIM, USERS, EACH = 40, 4, 80, 20
SCALE = (1.0, 5.0)
RANDOM = np.random.default_rng(0)
TOWER = RANDOM.normal(size=(N, DIM)).astype(np.float32)
TASTES = RANDOM.normal(size=(USERS, DIM))


def log() -> Sequences:
    """Users who like the items whose vectors agree with their taste."""
    items = np.concatenate([RANDOM.permutation(N)[:EACH] for _ in range(USERS)])
    agreement = (np.repeat(TASTES, EACH, axis=0) * TOWER[items]).sum(axis=1)
    values = np.clip(3.0 + agreement, *SCALE)
    values[::7] = np.nan  # some events without a rating
    offsets = np.arange(USERS + 1) * EACH
    catalogue = Catalogue([f"i{k}" for k in range(N)])
    return Sequences([f"u{k}" for k in range(USERS)], items, offsets, catalogue, None, values)


LOG = log()


def fitted(seed: int = 1) -> RatingModel:
    before = LOG.cut(LOG.lengths - 1)
    model = fitted_rating_model(before, TOWER, SCALE, randomness=SeededRandomness(seed))
    assert model is not None
    return model


def test_vectors_predict_better_than_biases_and_stay_in_the_scale() -> None:
    model = fitted()
    known, items = rated_users(LOG.cut(LOG.lengths - 1), SCALE), np.arange(N)
    truth = np.clip(3.0 + TASTES @ TOWER.T, *SCALE)
    errors: dict[bool, float] = {}
    for by_bias in (False, True):
        found = np.stack([model.predict(rated, items, TOWER, by_bias=by_bias) for rated in known])
        errors[by_bias] = float(np.mean((found - truth) ** 2))
    assert errors[False] < 0.7 * errors[True]
    for rated in (*known, Rated(np.zeros(0, np.int64), np.zeros(0))):
        found = model.predict(rated, items, TOWER)
        assert ((found >= 1.0) & (found <= 5.0)).all()


def test_the_newest_rating_is_not_seen_and_the_seed_repeats() -> None:
    one, two = fitted(), fitted()
    assert all(np.array_equal(one.state()[name], two.state()[name]) for name in one.state())
    changed = LOG.values.copy() if LOG.values is not None else np.zeros(0)
    changed[LOG.offsets[1:] - 1] = 1.0
    other = Sequences(LOG.user_ids, LOG.items, LOG.offsets, LOG.catalogue, None, changed)
    same = fitted_rating_model(other.cut(other.lengths - 1), TOWER, SCALE, randomness=SeededRandomness(1))
    assert same is not None
    assert all(np.array_equal(one.state()[name], same.state()[name]) for name in one.state())


def test_a_log_without_ratings_has_no_model_and_a_small_one_the_biases_alone() -> None:
    randomness = SeededRandomness(1)
    plain = Sequences(LOG.user_ids, LOG.items, LOG.offsets, LOG.catalogue)
    assert fitted_rating_model(plain, TOWER, SCALE, randomness=randomness) is None
    empty = Sequences(
        LOG.user_ids, LOG.items, LOG.offsets, LOG.catalogue, None, np.full(len(LOG.items), np.nan)
    )
    assert fitted_rating_model(empty, TOWER, SCALE, randomness=randomness) is None
    few = fitted_rating_model(LOG.subset(np.arange(5)), TOWER, SCALE, randomness=randomness)
    assert few is not None
    rated, items = rated_users(LOG, SCALE)[0], np.arange(N)
    assert few.predict(rated, items, TOWER) == pytest.approx(
        few.predict(rated, items, TOWER, by_bias=True), abs=0.05
    )


def test_recommendations_carry_a_rating_where_the_users_own_are_given(tmp_path: Path) -> None:
    public = PublicState(N, DIM)
    public.update({"item_tower": TOWER})
    model = ClientModel(SETTINGS, b"s")
    rated = rated_users(LOG, SCALE)[3]
    assert all(r.rating is None for r in recommend(model, public, rated.items, rated=rated))
    model.rating = fitted()
    model.save(tmp_path / "encoder.safetensors")
    again = ClientModel(SETTINGS, b"t")
    again.load(tmp_path / "encoder.safetensors")
    listed = recommend(again, public, rated.items, rated=rated)
    expected = model.rating.predict(rated, np.array([r.item for r in listed]), TOWER)
    assert [r.rating for r in listed] == expected.tolist()
    assert all(r.rating is None for r in recommend(again, public, rated.items))


def test_values_follow_their_events_and_one_is_needed_for_each() -> None:
    part = LOG.subset(np.array([5, 2])).cut(np.array([3, 1]))
    assert LOG.values is not None and part.values is not None
    start = 5 * EACH
    assert np.array_equal(part.values, [*LOG.values[start : start + 3], LOG.values[2 * EACH]], equal_nan=True)
    with pytest.raises(ValueError, match="give one per event"):
        Sequences(["u"], np.array([1]), np.array([0, 1]), LOG.catalogue, None, np.zeros(2))


def test_biases_of_an_item_nobody_rated_are_the_mean() -> None:
    biases = RatingBiases.of(np.array([0]), np.array([4.0]), N)
    found = RatingModel(DIM, SCALE, biases).predict(
        Rated(np.zeros(0, np.int64), np.zeros(0)), np.array([9]), TOWER
    )
    assert found == pytest.approx([4.0], abs=1e-5)


def test_they_are_refused_beside_protection_within_a_client_and_for_a_scale_that_falls() -> None:
    with pytest.raises(InputError, match=r"model\.rating_scale: fitted without noise"):
        override(Scenario(), {"model.rating_scale": (1.0, 5.0)})
    unprotected = {"model.rating_scale": (1.0, 5.0), "privacy.protect_within_client": False}
    settings = planned(unprotected).settings
    check_settings(settings, protects_within_client=False)
    with pytest.raises(PolicyRefusal, match="rating_scale: fitted without noise"):
        check_settings(settings, protects_within_client=True)
    with pytest.raises(PolicyRefusal, match="a rating scale from"):
        check_settings({**settings, "rating_scale": [5.0, 1.0]}, protects_within_client=False)
    with pytest.raises(InputError, match="the lowest rating first"):
        override(Scenario(), unprotected | {"model.rating_scale": (5.0, 5.0)})


def test_the_bench_says_what_a_log_lacks() -> None:
    with pytest.raises(InputError, match="no column 'value'"):
        bench_ratings.run("built-in")
