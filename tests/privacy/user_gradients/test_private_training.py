"""The whole step as a client makes it: draw users, per-user gradients, clip, grid, noise, two optimisers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from privacy.bounded import clip_and_sum
from privacy.mechanisms import discrete_gaussian
from privacy.randomness import SeededRandomness
from privacy.user_gradients import (
    check_engine,
    encoder_size,
    per_user_gradients,
    set_encoder_gradient,
    wrap_encoder,
)
from recsys_models.batches import NextItemBatch, next_item_batch
from recsys_models.data import Catalogue, Sequences
from recsys_models.encoders import build_encoder
from recsys_models.evaluation import evaluate
from recsys_models.negatives import CatalogueSampler
from recsys_models.training import EncoderScorer

N_ITEMS, DIM, N_NEGATIVES, USERS = 20, 8, 10, 2000
CLIP, UNIT, SAMPLING = 0.5, 1e-4, 0.1


def circle() -> tuple[Sequences, np.ndarray]:
    starts = np.random.default_rng(0).integers(0, N_ITEMS, USERS)
    items = (starts[:, None] + np.arange(6)) % N_ITEMS
    catalogue = Catalogue([f"i{n:02d}" for n in range(N_ITEMS)])
    history = Sequences(
        [str(u) for u in range(USERS)], items.reshape(-1), np.arange(USERS + 1) * 6, catalogue
    )
    return history, (items[:, -1] + 1) % N_ITEMS


def test_learns_under_noise() -> None:
    torch.manual_seed(0)
    randomness = SeededRandomness(1)
    history, targets = circle()
    sampler = CatalogueSampler(N_ITEMS)
    table = torch.randn(N_ITEMS, DIM) * 0.3
    encoder = build_encoder("gru", DIM, max_length=6)

    def batch_of(users: np.ndarray) -> NextItemBatch:
        uniform = randomness.uniform(users.size * N_NEGATIVES).reshape(users.size, N_NEGATIVES)
        negatives = sampler.sample(uniform)
        return next_item_batch(
            [history.of(int(user)) for user in users],
            max_length=6,
            negatives=negatives,
            log_expected_count=sampler.log_expected_count(negatives, N_NEGATIVES),
        )

    probe = batch_of(np.arange(8))
    check_engine(encoder, table, probe.item_ids, probe.select, CLIP)

    wrapped = wrap_encoder(encoder)
    size = encoder_size(wrapped)
    encoder_step = torch.optim.Adam(wrapped.parameters(), lr=0.02)
    table_step = torch.optim.Adam([table.requires_grad_(True)], lr=0.02)
    before = evaluate(EncoderScorer(encoder, table.detach()), history, targets).means((1,))["hit@1"]
    for _ in range(60):
        batch = batch_of(np.flatnonzero(randomness.bernoulli(SAMPLING, USERS)))
        gradients = per_user_gradients(wrapped, table.detach(), batch.item_ids, batch)
        total = clip_and_sum(gradients.to_contributions(N_ITEMS), l2_clip_norm=CLIP, unit=UNIT)
        noised = discrete_gaussian.add_noise(total, 1.0 * total.l2_bound, randomness, name="gradients")
        # The denominator is public: the expected number of users, never the number drawn.
        mean = noised.dense / (SAMPLING * USERS)
        set_encoder_gradient(wrapped, mean[:size])
        table.grad = torch.from_numpy(mean[size:]).float().reshape(table.shape)
        encoder_step.step()
        table_step.step()
    after = evaluate(EncoderScorer(encoder, table.detach()), history, targets).means((1,))["hit@1"]
    assert noised.event.noise_multiplier == pytest.approx(1.0)
    assert before < 0.5
    assert after > 0.8
