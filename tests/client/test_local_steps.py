"""Several private steps between two rounds: plain local SGD plus noise, and nothing the size of users times items."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.gradients import GradientTrainer
from client.model import ClientModel
from privacy.accounting.schedule import ScheduledRelease
from privacy.errors import InputError, PolicyRefusal
from privacy.randomness import SeededRandomness
from privacy.release_terms import ReleaseTerms, release_terms
from recsys_models.release_shapes import ReleaseShape
from tests.client.test_training import CLIP, DIM, HISTORIES, PUBLIC, SETTINGS, N
from tests.privacy.accounting.test_plan import plan

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3


def terms(
    *, q: float = 1.0, local_steps: int = STEPS, noise_multiplier: float = 1.0, clip: float = CLIP
) -> ReleaseTerms:
    release = ScheduledRelease(
        "gradients",
        "gradients",
        1.0,
        sampling_probability=q,
        noise_multiplier=noise_multiplier,
        local_steps=local_steps,
    )
    agreed = plan(releases=(release,), noise="per_client")
    return release_terms(agreed, "gradients", ReleaseShape(N * DIM, clip))


def trainer(settings: dict[str, Any] = SETTINGS, seed: int = 1) -> GradientTrainer:
    return GradientTrainer(
        ClientModel(settings, b"s"),
        lambda: HISTORIES,
        PUBLIC,
        settings,
        users=len(HISTORIES),
        randomness=SeededRandomness(seed),
    )


def test_without_noise_it_is_plain_local_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer()
    encoder = ClientModel(SETTINGS, b"s").recommender.encoder  # the same start
    batch = one.batch(np.arange(len(HISTORIES)))
    monkeypatch.setattr(one, "batch", lambda _users: batch)  # the same negatives in every step
    never_clipped = replace(terms(clip=1e3), unit=1e3 / 2**30, private=False)
    uploaded = one.step(never_clipped).reshape(N, DIM) * never_clipped.unit

    table = torch.from_numpy(PUBLIC.item_tower[PUBLIC.head]).clone().requires_grad_(True)
    start, expected_users = table.detach().clone(), len(HISTORIES) * 0.5  # the settings' sampling probability
    plain = torch.optim.SGD([{"params": encoder.parameters(), "lr": 0.1}, {"params": [table], "lr": 0.5}])
    for _ in range(STEPS):
        plain.zero_grad()
        vectors = table[batch.item_ids.clamp(min=0)] * (batch.item_ids >= 0).unsqueeze(-1)
        (batch(encoder, vectors).sum() / expected_users).backward()
        plain.step()
    moved = (start - table.detach()) / 0.5 * expected_users
    np.testing.assert_allclose(uploaded, moved.numpy(), atol=2e-4)
    assert float(moved.abs().max()) > 0.1
    for mine, its in zip(one._raw_encoder.parameters(), encoder.parameters(), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-4)
    one.close()


def test_each_step_starts_where_the_last_one_ended() -> None:
    """Three steps are not three times the first: else nothing was trained in between."""
    sums = []
    for local_steps in (1, STEPS):
        one = trainer()
        sums.append(one.step(replace(terms(local_steps=local_steps), private=False)))
        one.close()
    assert not np.array_equal(sums[1], STEPS * sums[0])


def test_rows_nobody_read_carry_the_noise_of_every_step() -> None:
    t = terms(q=1e-9, local_steps=6)
    one = trainer()
    noise = np.concatenate([one.step(t) for _ in range(30)]).astype(float)
    error = np.sqrt(2.0 / noise.size)
    ratio = (noise**2).mean() / t.total_sigma**2
    assert ratio == pytest.approx(6.0, rel=4 * error)
    assert ratio != pytest.approx(5.0, rel=4 * error)
    one.close()


def test_noise_and_sample_are_new_in_every_step_and_follow_the_seed() -> None:
    uploads = []
    for seed in (1, 1, 2):
        one = trainer(seed=seed)
        uploads.append(one.step(terms(q=0.5)))
        one.close()
    assert np.array_equal(uploads[0], uploads[1])
    assert not np.array_equal(uploads[0], uploads[2])


def test_the_upload_fits_the_words_of_its_schema() -> None:
    one, t = trainer(), terms(local_steps=50)
    section = t.schema(4).sections[0]
    assert section.client_bound == 50 * terms(local_steps=1).schema(4).sections[0].client_bound
    assert np.abs(one.step(t)).max() <= section.client_bound
    one.close()


def test_all_steps_are_charged_at_once() -> None:
    event = replace(terms().release, steps=5).event()
    assert (event.count, event.noise_multiplier) == (5 * STEPS, 1.0)
    assert terms().executed_sd(4) == pytest.approx(np.sqrt(STEPS * 4) * terms().total_sigma * terms().unit)


def test_refuses_shared_noise_other_kinds_and_an_adaptive_norm() -> None:
    release = terms().release
    with pytest.raises(InputError, match="cannot share one distributed noise"):
        plan(releases=(release,), noise="distributed")
    assert not plan(releases=(release,), noise="distributed", private=False).private
    with pytest.raises(InputError, match="only gradients do"):
        plan(releases=(replace(release, name="fit", kind="fit"),), noise="per_client")
    for wrong in (0, 1001, 2.0, True, "2"):
        with pytest.raises(InputError, match="local_steps"):
            replace(release, local_steps=wrong)
    with pytest.raises(InputError, match="shares its noise"):
        replace(terms(), honest_survivors=3).lazy_sum(N, DIM, SeededRandomness(0))
    one = trainer(SETTINGS | {"gradients": SETTINGS["gradients"] | {"adaptive_clip": True}})
    with pytest.raises(PolicyRefusal, match="adaptive"):
        one.check(terms(), CLIP, 0)
    one.close()


_MILLION = """
import sys
import numpy as np
import torch
from dataclasses import replace
from client.gradients import GradientTrainer
from client.model import ClientModel
from client.public_state import PublicState
from privacy.randomness import SystemRandomness
from privacy.release_terms import ReleaseTerms
from tests.client.test_local_steps import terms
from tests.client.test_training import SETTINGS

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

ROWS, DIM, USERS = 1_000_000, 64, 64
torch.set_num_threads(1)
random = np.random.default_rng(0)
settings = SETTINGS | {"dim": DIM}
public = PublicState(ROWS, DIM)
public.update({"popularity": np.ones(ROWS, np.float32), "item_tower": random.normal(size=(ROWS, DIM)).astype(np.float32)})
histories = [random.integers(0, ROWS, 9) for _ in range(USERS)]
trainer = GradientTrainer(
    ClientModel(settings, b"s"), lambda: histories, public, settings, users=USERS, randomness=SystemRandomness()
)
t = replace(terms(local_steps=4), length=ROWS * DIM)
resting = status("VmRSS")
uploaded = trainer.step(t)
assert uploaded.shape == (ROWS * DIM,) and (uploaded[-DIM:] != 0).any()
print(status("VmHWM") - resting)
"""


@pytest.mark.slow
def test_a_million_rows_train_without_anything_the_size_of_users_times_items() -> None:
    found = subprocess.run(
        [sys.executable, "-c", _MILLION], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    table_mb = 1_000_000 * 64 * 4 / 2**20
    # The table's copy in 32 bits, the upload in 64 bits, once each, and a part for work; users times table would be 64 tables.
    assert float(found.stdout) < 4.5 * table_mb, found.stdout
