"""Blend weights by maximum a posteriori: what they find, what they never do, and what few users can move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

from recsys_models.retrieval.blend import standardise
from recsys_models.retrieval.blend_fit import fit_blend_weights, likeliest_weights

N = 25
START = torch.tensor([0.5, 1.0, 0.5])
TRUE = torch.tensor([1.6, 0.3, 0.9])


def chosen_by(weights: torch.Tensor, users: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels, and what users choose who follow the softmax of these weights exactly."""
    drawn = torch.Generator().manual_seed(seed)
    channels = standardise(torch.randn(users, len(weights), N, generator=drawn)).transpose(1, 2)
    probabilities = torch.softmax(channels @ weights, dim=1)
    return channels, torch.multinomial(probabilities, 1, generator=drawn).squeeze(1)


def nothing_hidden(users: int) -> torch.Tensor:
    return torch.zeros(users, N, dtype=torch.bool)


def test_the_weights_behind_the_choices_are_found() -> None:
    channels, targets = chosen_by(TRUE, 3000)
    found = fit_blend_weights(channels, targets, nothing_hidden(3000), START)
    # Choices of 3000 users say a weight to about 0.03.
    np.testing.assert_allclose(found, TRUE, atol=0.12)


def test_no_weight_is_below_zero_even_where_a_channel_speaks_against_the_choice() -> None:
    channels, targets = chosen_by(torch.tensor([1.0, -1.5, 0.0]), 800)
    found = fit_blend_weights(channels, targets, nothing_hidden(800), START)
    assert bool((found >= 0.0).all())
    assert found[1] < 0.05
    assert found[0] > 0.6


@pytest.mark.parametrize("users", [1, 5, 60])
def test_what_is_found_is_the_most_probable_under_a_normal_prior_around_the_start(users: int) -> None:
    channels, targets = chosen_by(torch.tensor([3.0, 0.0, 0.0]), users)

    def negative_log_posterior(weights: np.ndarray) -> float:
        scores = channels.double().numpy() @ weights
        chosen = scores[np.arange(users), targets.numpy()]
        return float((logsumexp(scores, axis=1) - chosen).sum() + ((weights - START.numpy()) ** 2).sum() / 2)

    wanted = minimize(negative_log_posterior, START.numpy(), bounds=[(0.0, None)] * 3).x
    found = likeliest_weights(channels, targets, nothing_hidden(users), START)
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_a_user_moves_a_start_that_thousands_overrule() -> None:
    distances = []
    for users in (1, 3000):
        channels, targets = chosen_by(torch.tensor([3.0, 0.0, 0.0]), users)
        found = fit_blend_weights(channels, targets, nothing_hidden(users), START)
        distances.append(float((found - START).norm()))
    assert distances[0] < 1.5 < 2.5 < distances[1]


def test_without_users_the_start_is_kept() -> None:
    found = fit_blend_weights(
        torch.zeros(0, N, 3), torch.zeros(0, dtype=torch.long), nothing_hidden(0), START
    )
    assert torch.equal(found, START)
    found += 1.0
    assert START.tolist() == [0.5, 1.0, 0.5]


def test_items_that_cannot_be_recommended_do_not_count_but_the_target_does() -> None:
    channels, targets = chosen_by(TRUE, 400)
    hidden = torch.rand(400, N, generator=torch.Generator().manual_seed(1)) < 0.4
    found = fit_blend_weights(channels, targets, hidden, START)
    # Whatever the hidden cells hold, and whether or not the target is among them.
    is_other = hidden.scatter(1, targets.unsqueeze(1), False)
    shouting = channels.masked_fill(is_other.unsqueeze(-1), 50.0)
    again = fit_blend_weights(shouting, targets, hidden.scatter(1, targets.unsqueeze(1), True), START)
    np.testing.assert_allclose(again, found, atol=1e-4)
    everything = fit_blend_weights(channels, targets, nothing_hidden(400), START)
    assert not torch.allclose(everything, found, atol=1e-3)


def test_a_channel_that_is_missing_keeps_its_weight() -> None:
    channels, targets = chosen_by(TRUE, 300)
    channels[:, :, 1] = 0.0
    found = fit_blend_weights(channels, targets, nothing_hidden(300), START)
    np.testing.assert_allclose(found[1], START[1], atol=1e-3)


# --- the search by ranks -----------------------------------------------------------------------------------------


def gain(weights: torch.Tensor, channels: torch.Tensor, targets: torch.Tensor) -> float:
    """Mean of ``1 / log2(1 + rank)``."""
    scores = channels @ weights
    ranks = (scores >= scores.gather(1, targets.unsqueeze(1))).sum(dim=1)
    return float((1.0 / torch.log2(1.0 + ranks)).mean())


def surprising(users: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A first channel that finds the choice of two users in three, and is far off for the third."""
    drawn = torch.Generator().manual_seed(2)
    scores = torch.randn(users, 3, N, generator=drawn)
    targets = torch.randint(N, (users,), generator=drawn)
    scores[torch.arange(users), 0, targets] = torch.where(torch.arange(users) % 3 > 0, 2.5, -9.0)
    return standardise(scores).transpose(1, 2), targets


def test_what_the_likelihood_pays_for_a_few_costs_the_ranks_of_the_others_nothing() -> None:
    channels, targets = surprising(600)
    hidden = nothing_hidden(600)
    likely = likeliest_weights(channels, targets, hidden, START)
    found = fit_blend_weights(channels, targets, hidden, START)
    assert gain(likely, channels, targets) < gain(found, channels, targets) - 0.05
    assert gain(START, channels, targets) <= gain(found, channels, targets)
    assert bool((found >= 0.0).all())


@pytest.mark.parametrize("seed", range(5))
def test_no_search_ends_with_worse_ranks_than_the_likeliest_weights(seed: int) -> None:
    channels, targets = chosen_by(TRUE, 80, seed)
    likely = likeliest_weights(channels, targets, nothing_hidden(80), START)
    found = fit_blend_weights(channels, targets, nothing_hidden(80), START)
    assert gain(found, channels, targets) >= gain(likely, channels, targets)


def test_one_users_ranks_change_nothing() -> None:
    for user in range(12):
        channels, targets = surprising(user + 1)
        channels, targets = channels[-1:], targets[-1:]
        likely = likeliest_weights(channels, targets, nothing_hidden(1), START)
        assert torch.equal(fit_blend_weights(channels, targets, nothing_hidden(1), START), likely)
