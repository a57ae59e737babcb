from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from privacy.user_gradients.guard import check_engine
from recsys_models.batches import window
from recsys_models.encoders.registry import build_encoder
from recsys_models.item_towers.factorisation import TransitionChannel
from recsys_models.retrieval.blend import (
    CHANNELS,
    DEFAULT_WEIGHTS,
    BlendedRecommender,
    ChannelScores,
    PublicChannels,
    standardise,
)

N, DIM, HEAD = 14, 4, np.array([1, 3, 4, 8, 12])
RANDOM = np.random.default_rng(0)
TOWER = RANDOM.normal(size=(N, DIM)).astype(np.float32)
POPULARITY = np.maximum(RANDOM.normal(2.0, 2.0, size=N), -1.0).astype(np.float32)
TRANSITIONS = TransitionChannel(RANDOM.random((5, 5)), RANDOM.normal(size=(5, 5)))
HISTORIES = [np.array([1, 2, 3, 8]), np.array([12]), np.array([0, 5]), np.array([4, 1, 3, 3, 8, 12, 4])]


def public(transitions: TransitionChannel | None = TRANSITIONS) -> PublicChannels:
    return PublicChannels.build(TOWER, POPULARITY, HEAD, transitions)


def plain_standardise(x: np.ndarray) -> np.ndarray:
    deviation = x.std()
    return (x - x.mean()) / deviation if deviation > 1e-6 else np.zeros_like(x)


def plain_transition_scores(seen: np.ndarray, matrix: np.ndarray, recent: int, decay: float) -> np.ndarray:
    """Scores after a whole history: one row of the matrix for each of the newest items, decayed by age."""
    scores = np.zeros(N)
    for age, item in enumerate(seen[::-1][:recent]):
        if item in HEAD:
            scores[HEAD] += decay**age * matrix[list(HEAD).index(item)]
    return scores


@pytest.mark.parametrize("recent", [2, 10])
def test_channels_equal_a_plain_computation_at_every_position(recent: int) -> None:
    scorer = ChannelScores(public(), recent=recent, decay=0.8)
    ids, mask = window(HISTORIES, 20)
    length = ids.shape[1]
    positions = torch.arange(length).repeat(len(HISTORIES), 1)
    fixed = scorer.fixed_channels(torch.from_numpy(ids), torch.from_numpy(mask), positions).numpy()
    assert fixed.shape == (len(HISTORIES), length, N, len(CHANNELS) - 1)
    for user, history in enumerate(HISTORIES):
        for position in range(length):
            seen = history[: max(0, len(history) - (length - 1 - position))]
            for channel, matrix in enumerate((TRANSITIONS.sparse, TRANSITIONS.smooth)):
                wanted = plain_standardise(plain_transition_scores(seen, matrix, recent, 0.8))
                np.testing.assert_allclose(fixed[user, position, :, channel], wanted, atol=1e-5)
            wanted = plain_standardise(np.maximum(POPULARITY, 0.0))
            np.testing.assert_allclose(fixed[user, position, :, 2], wanted, atol=1e-5)


def test_standardised_rows_have_mean_zero_and_deviation_one_and_constants_vanish() -> None:
    rows = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0], [0.0, 0.0, 0.0]])
    done = standardise(rows)
    assert done[0].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert done[0].pow(2).mean().item() == pytest.approx(1.0)
    assert not done[1:].any()
    rows.requires_grad_(True)
    standardise(rows).pow(3).sum().backward()
    assert rows.grad is not None
    assert bool(rows.grad.isfinite().all())


def blend(
    recommender: BlendedRecommender, scorer: ChannelScores
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids, mask = (torch.from_numpy(a) for a in window(HISTORIES, 20))
    last = torch.full((len(HISTORIES), 1), ids.shape[1] - 1)
    fixed = scorer.fixed_channels(ids, mask, last)
    tower = scorer.public.tower_ND
    with torch.no_grad():
        scores, encoder = recommender(tower[ids.clamp(min=0)], mask, tower, fixed, last)
    return scores.squeeze(1), encoder.squeeze(1), fixed.squeeze(1)


def test_the_blend_starts_as_the_default_weighted_sum() -> None:
    recommender = BlendedRecommender(build_encoder("mean-pool", DIM, max_length=20))
    scores, encoder, fixed = blend(recommender, ChannelScores(public()))
    channels = torch.cat([encoder.unsqueeze(-1), fixed], dim=-1)
    torch.testing.assert_close(scores, channels @ torch.tensor(DEFAULT_WEIGHTS))
    assert recommender.mix.weight.tolist() == [list(DEFAULT_WEIGHTS)]


def test_without_transitions_only_encoder_and_popularity_count() -> None:
    _, _, fixed = blend(
        BlendedRecommender(build_encoder("mean-pool", DIM, max_length=20)), ChannelScores(public(None))
    )
    assert not fixed[..., :2].any()
    assert fixed[..., 2].any()


@pytest.mark.parametrize("name", ["mean-pool", "gru", "attention"])
def test_per_user_gradients_of_the_whole_blend_are_exact(name: str) -> None:
    scorer = ChannelScores(public())
    ids, mask = (torch.from_numpy(a) for a in window(HISTORIES, 20))
    last = torch.full((len(HISTORIES), 1), ids.shape[1] - 1)
    fixed = scorer.fixed_channels(ids, mask, last)
    targets = torch.tensor([2, 7, 1, 9])

    def loss_for(users: torch.Tensor) -> object:
        def loss(module: nn.Module, vectors: torch.Tensor) -> torch.Tensor:
            scores, encoder = module(vectors, mask[users], scorer.public.tower_ND, fixed[users], last[users])
            both = torch.log_softmax(scores, -1) + torch.log_softmax(encoder, -1)
            return -both.squeeze(1).gather(1, targets[users].unsqueeze(1)).squeeze(1)

        return loss

    recommender = BlendedRecommender(build_encoder(name, DIM, max_length=20))  # pyright: ignore[reportArgumentType]
    checked = check_engine(recommender, scorer.public.tower_ND, ids, loss_for, 1.0, train_table=False)  # pyright: ignore[reportArgumentType]
    assert checked.users == len(HISTORIES)
    assert checked.relative_error < 1e-4
