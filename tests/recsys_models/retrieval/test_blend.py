from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_models.batches import window
from recsys_models.encoders.registry import build_encoder
from recsys_models.retrieval.blend import (
    CHANNELS,
    DEFAULT_WEIGHTS,
    BlendedRecommender,
    ChannelScores,
    PublicChannels,
    standardise,
)
from recsys_models.retrieval.transitions import (
    SmoothTransitions,
    SparseTransitions,
    TransitionReadings,
    count_transitions,
    from_head,
)

N, DIM, HEAD = 14, 4, np.array([1, 3, 4, 8, 12])
RANDOM = np.random.default_rng(0)
TOWER = RANDOM.normal(size=(N, DIM)).astype(np.float32)
POPULARITY = np.maximum(RANDOM.normal(2.0, 2.0, size=N), -1.0).astype(np.float32)
FACTORS = RANDOM.normal(size=(2, N, 3)).astype(np.float32)
TRANSITIONS = TransitionReadings(from_head(RANDOM.random((5, 5)), HEAD, N), SmoothTransitions(*FACTORS))
CONTENT = np.where(np.arange(N)[:, None] == 5, 0.0, RANDOM.normal(size=(N, 6)))
NOBODY = np.zeros(0, np.int64)
HISTORIES = [
    np.array([1, 2, 3, 8]),
    np.array([12]),
    NOBODY,
    np.array([0, 5]),
    np.array([4, 1, 3, 3, 8, 12, 4]),
]


OWN = count_transitions(HISTORIES, N, orders=2, decay=0.7)


def public(transitions: TransitionReadings | None = TRANSITIONS, content: bool = False) -> PublicChannels:
    return PublicChannels.build(TOWER, POPULARITY, transitions, content=CONTENT if content else None)


def plain_standardise(x: np.ndarray) -> np.ndarray:
    deviation = x.std()
    return (x - x.mean()) / deviation if deviation > 1e-6 else np.zeros_like(x)


def plain_mean(seen: np.ndarray, rows: np.ndarray, recent: int, decay: float) -> np.ndarray:
    """Rows of the newest items, decayed by age; what a short history lacks counts as zeros."""
    mean = np.zeros(rows.shape[1])
    for age, item in enumerate(seen[::-1][:recent]):
        mean += decay**age * rows[item]
    return mean / sum(decay**age for age in range(recent))


@pytest.mark.parametrize("recent", [2, 10])
def test_channels_equal_a_plain_computation(recent: int) -> None:
    fixed = fixed_scores(ChannelScores(public(content=True), own=OWN, recent=recent, decay=0.8)).numpy()
    assert fixed.shape == (len(HISTORIES), N, len(CHANNELS) - 1)
    sparse, own = TRANSITIONS.sparse.matrix.toarray(), OWN.matrix.toarray()
    for user, seen in enumerate(HISTORIES):
        by_channel = {
            "transitions": plain_mean(seen, sparse, recent, 0.8),
            "smooth transitions": plain_mean(seen, FACTORS[0] @ FACTORS[1].T, recent, 0.8),
            "popularity": np.maximum(POPULARITY, 0.0),
            "content": CONTENT @ plain_mean(seen, CONTENT, recent, 0.8),
            "own transitions": plain_mean(seen, np.sqrt(own), recent, 0.8),
        }
        for name, scores in by_channel.items():
            found = fixed[user, :, CHANNELS.index(name) - 1]
            np.testing.assert_allclose(found, plain_standardise(scores), atol=2e-5, err_msg=name)


@pytest.mark.parametrize("n_items", [12, 15, 30])
def test_a_history_that_own_counts_know_nothing_of_leaves_their_channel_at_zero(n_items: int) -> None:
    nothing = np.zeros(n_items, np.float32)
    channels = PublicChannels.build(np.zeros((n_items, DIM)), nothing)
    own = SparseTransitions(np.zeros(n_items + 1, np.int64), np.zeros(0, np.int64), nothing[:0])
    ids, mask = (torch.from_numpy(a) for a in window([np.array([1, 2]), np.zeros(0, np.int64)], 4))
    scorer = ChannelScores(channels, own=own)
    assert not scorer.fixed_channels(ids, mask).any()


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


def fixed_scores(scorer: ChannelScores) -> torch.Tensor:
    ids, mask = (torch.from_numpy(a) for a in window(HISTORIES, 20))
    return scorer.fixed_channels(ids, mask)


def test_the_blend_starts_as_the_default_weighted_sum() -> None:
    recommender = BlendedRecommender(build_encoder("mean-pool", DIM, max_length=20))
    channels = torch.rand(3, 5, len(CHANNELS))
    torch.testing.assert_close(
        recommender.mix(channels).squeeze(-1), channels @ torch.tensor(DEFAULT_WEIGHTS)
    )
    assert not any(parameter.requires_grad for parameter in recommender.mix.parameters())


def test_what_a_client_does_not_have_counts_for_nothing() -> None:
    fixed = fixed_scores(ChannelScores(public(None)))
    speaks = {CHANNELS[1 + k] for k in range(len(CHANNELS) - 1) if fixed[..., k].any()}
    assert speaks == {"popularity"}
    fixed = fixed_scores(ChannelScores(public(content=True), own=OWN))
    assert all(fixed[..., k].any() for k in range(len(CHANNELS) - 1))
