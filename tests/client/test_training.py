"""The local halves of gradients and fit: what one user can change, and what stays when nobody is drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from client.encoder_fit import EncoderFit
from client.gradients import GradientTrainer
from client.model import ClientModel
from client.public_state import PublicState
from privacy.accounting.schedule import ScheduledRelease
from privacy.errors import PolicyRefusal, ProtocolError, SensitivityViolation
from privacy.randomness import SeededRandomness
from privacy.release_terms import ReleaseTerms, release_terms
from privacy.user_gradients import engine as gradient_engine
from recsys_models.release_shapes import ReleaseShape
from recsys_models.sampled_losses import LOSSES
from tests.privacy.accounting.test_plan import plan

N, DIM, CLIP = 30, 4, 0.05
RANDOM = np.random.default_rng(0)
HISTORIES = [RANDOM.integers(0, N, size=length) for length in (9, 4, 2, 12, 3, 7, 5, 8)]
SETTINGS: dict[str, Any] = {
    "encoder": "mean-pool",
    "dim": DIM,
    "max_length": 8,
    "blocks": 1,
    "heads": 1,
    "dropout": 0.0,
    "per_user_gradients": "auto",
    "private": True,
    "gradients": {
        "loss": "sampled-softmax",
        "calibration": 0.75,
        "negatives": 5,
        "l2_clip_norm": CLIP,
        "sampling_probability": 0.5,
        "client_learning_rate": 0.1,
        "local_learning_rate": 0.5,
        "adaptive_clip": False,
        "target_quantile": 0.5,
        "clip_rate": 0.2,
        "item_tower": "ids",
        "content_width": 0,
    },
    "fit": {"l2_clip_norm": CLIP, "learning_rate": 0.01},
}


def public() -> PublicState:
    state = PublicState(N, DIM)
    state.update(
        {
            "popularity": np.arange(1, N + 1, dtype=np.float32),
            "item_tower": RANDOM.normal(size=(N, DIM)).astype(np.float32),
        }
    )
    return state


PUBLIC = public()


def terms(kind: str, *, q: float = 0.5, steps: int = 1, noise_multiplier: float = 1.0) -> ReleaseTerms:
    release = ScheduledRelease(
        kind, kind, 1.0, steps=steps, sampling_probability=q, noise_multiplier=noise_multiplier
    )
    agreed = plan(releases=(release,))
    return release_terms(agreed, kind, ReleaseShape(N * DIM if kind == "gradients" else 1, CLIP))


def trainer(
    histories: list[np.ndarray], seed: int = 1, loss: str = "sampled-softmax", dropout: float = 0.0
) -> GradientTrainer:
    settings = {**SETTINGS, "dropout": dropout, "gradients": {**SETTINGS["gradients"], "loss": loss}}
    model = ClientModel(settings, b"s")
    model.draw_dropout_from(SeededRandomness(seed).derive("dropout"))
    return GradientTrainer(
        model, lambda: histories, PUBLIC, settings, users=len(histories), randomness=SeededRandomness(seed)
    )


def fit(histories: list[np.ndarray], seed: int = 1) -> tuple[ClientModel, EncoderFit]:
    model = ClientModel(SETTINGS, b"s")
    return model, EncoderFit(
        model, lambda: histories, PUBLIC, SETTINGS, users=len(histories), randomness=SeededRandomness(seed)
    )


def weights(model: ClientModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.recommender.parameters()]).clone()


@pytest.mark.parametrize("loss", LOSSES)
def test_one_user_changes_the_joint_gradient_by_at_most_the_bound(loss: str) -> None:
    t, one = terms("gradients"), trainer(HISTORIES, loss=loss)
    everybody = np.arange(len(HISTORIES))
    for count in everybody + 1:
        # The last user draws last, so that leaving her out leaves everybody else's negatives as they are.
        sums = []
        for users in (everybody[:count], everybody[: count - 1]):
            one._randomness = SeededRandomness(7)
            sums.append(one.joint_sum(users, t).values)
        difference = int(((sums[0] - sums[1]) ** 2).sum())
        assert (0.99 * t.l2_bound) ** 2 < difference <= t.l2_bound**2  # the clip norm is small: it binds
    one.close()


def test_a_round_that_draws_nobody_is_noise_of_the_stated_width() -> None:
    t = terms("gradients", q=1e-9)
    one = trainer(HISTORIES)
    drawn = np.concatenate([one.step(t) for _ in range(40)])
    share = t.total_sigma / np.sqrt(t.honest_survivors)
    assert np.std(drawn) == pytest.approx(share, rel=4 / np.sqrt(2 * drawn.size))
    one.close()


def test_the_losses_give_different_gradients() -> None:
    """By each alone: a loss that the plan names and the trainer ignores would pass every bound."""
    sums = []
    for loss in LOSSES:
        one = trainer(HISTORIES, loss=loss)
        sums.append(one.joint_sum(np.arange(len(HISTORIES)), terms("gradients")).values)
        one.close()
    assert len({values.tobytes() for values in sums}) == len(LOSSES)


def test_fewer_users_a_pass_change_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = []
    for slots in (2**19, 2 * (9 + N)):
        monkeypatch.setattr("client.gradients._CHUNK_SLOTS", slots)
        one = trainer(HISTORIES, loss="softmax")
        sums.append(one.joint_sum(np.arange(len(HISTORIES)), terms("gradients")).values)
        one.close()
    assert one._chunk == 2
    assert np.abs(sums[0] - sums[1]).max() <= 1e-5 * np.abs(sums[0]).max()


def test_a_softmax_over_too_many_published_items_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.gradients.FULL_SOFTMAX_ITEMS", N - 1)
    with pytest.raises(ProtocolError, match="softmax over 30 published"):
        trainer(HISTORIES, loss="softmax")


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_round_moves_the_encoder_and_repeats_with_its_seed(dropout: float) -> None:
    results = []
    for seed in (1, 1, 2):
        one = trainer(HISTORIES, seed, dropout=dropout)
        before = torch.cat([p.detach().flatten() for p in one._raw_encoder.parameters()])
        tower = one.step(terms("gradients", q=1.0))
        one.close()
        after = torch.cat([p.detach().flatten() for p in one._raw_encoder.parameters()])
        assert not torch.equal(before, after)
        assert tower.shape == (N * DIM,)
        results.append(tower)
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_the_encoder_moves_by_the_mean_over_the_expected_users(monkeypatch: pytest.MonkeyPatch) -> None:
    one, t = trainer(HISTORIES), replace(terms("gradients", q=1.0), private=False)
    total = one.joint_sum(np.arange(len(HISTORIES)), t)
    monkeypatch.setattr(one, "joint_sum", lambda _users, _terms, _clip: total)
    before = torch.cat([p.detach().flatten() for p in one._raw_encoder.parameters()])
    tower = one.step(t)
    after = torch.cat([p.detach().flatten() for p in one._raw_encoder.parameters()])
    split = one.encoder_parameters
    # Learning rate 0.1; eight users, each drawn with probability one half as the settings say: four expected.
    wanted = -0.1 * total.values[:split] * t.unit / 4.0
    np.testing.assert_allclose((after - before).numpy(), wanted, atol=1e-7)
    assert np.abs(wanted).max() > 1e-4
    assert np.array_equal(tower, total.values[split:])
    one.close()


@pytest.mark.parametrize("histories", [[], [np.array([3])], [np.array([3, 5])]])
def test_clients_with_hardly_any_data_still_answer(histories: list[np.ndarray]) -> None:
    one = trainer(histories)
    assert one.step(terms("gradients", q=1.0)).any()
    one.close()


def test_users_train_on_head_items_only() -> None:
    state = public()
    state.update({"head": np.array([2, 3, 5, 8])})
    model = ClientModel(SETTINGS, b"s")
    one = GradientTrainer(
        model,
        lambda: [np.array([2, 9, 3]), np.array([8, 5, 8, 20])],
        state,
        SETTINGS,
        users=2,
        randomness=SeededRandomness(0),
    )
    small = replace(terms("gradients", q=1.0), length=4 * DIM, private=False)
    assert one.step(small).shape == (4 * DIM,)
    one.close()


def test_a_private_fit_that_draws_nobody_still_moves_by_its_noise() -> None:
    model, one = fit(HISTORIES)
    before = weights(model)
    one.private(terms("fit", q=1e-9, steps=3))
    after = weights(model)
    assert not torch.equal(before, after)
    assert bool(after.isfinite().all())
    # The hooks are gone: the model can be wrapped again.
    one.private(terms("fit", q=1.0, steps=1))


def test_a_private_fit_repeats_with_its_seed_alone() -> None:
    found = []
    for seed in (1, 1, 2):
        model, one = fit(HISTORIES, seed)
        one.private(terms("fit", q=1.0, steps=2))
        found.append(weights(model))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("histories", [[], [np.array([1])]])
def test_a_private_fit_of_nobody_is_noised_like_any_other(histories: list[np.ndarray]) -> None:
    model, one = fit(histories)
    before = weights(model)
    one.private(terms("fit", q=1.0, steps=2))
    # Else an encoder that stands still would say that this client has no user with two events.
    assert not torch.equal(before, weights(model))


@pytest.mark.parametrize("method", ["hooks", "ghost"])
def test_what_users_gradients_look_like_changes_no_answer(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every batch of real users fails the check of its totals: the client answers all the same, and with the same numbers."""
    settings = SETTINGS | {"per_user_gradients": method}
    sent = []
    for tolerance in (gradient_engine._HOOK_TOLERANCE, -1e9):
        one = GradientTrainer(
            ClientModel(settings, b"s"),
            lambda: HISTORIES,
            PUBLIC,
            settings,
            users=8,
            randomness=SeededRandomness(3),
        )
        with monkeypatch.context() as patched:
            patched.setattr(gradient_engine, "_HOOK_TOLERANCE", tolerance)
            sent.append(one.step(terms("gradients", q=1.0)))
        one.close()
        noted = [r for r in caplog.records if "only what the hooks saw" in r.getMessage()]
        assert bool(noted) == (tolerance < 0)
    assert np.array_equal(*sent)
    # On made-up users, before training, the same finding is a refusal.
    monkeypatch.setattr(gradient_engine, "_HOOK_TOLERANCE", -1e9)
    with pytest.raises(SensitivityViolation):
        GradientTrainer(
            ClientModel(settings, b"s"),
            lambda: HISTORIES,
            PUBLIC,
            settings,
            users=8,
            randomness=SeededRandomness(3),
        )


# --- an adaptive clip norm -------------------------------------------------------------------------------------

ADAPTIVE = SETTINGS | {"gradients": SETTINGS["gradients"] | {"adaptive_clip": True, "l2_clip_norm": 1.0}}


def adaptive_trainer(histories: list[np.ndarray], seed: int = 1) -> GradientTrainer:
    model = ClientModel(ADAPTIVE, b"s")
    return GradientTrainer(
        model,
        lambda: histories,
        PUBLIC,
        ADAPTIVE,
        users=len(histories),
        randomness=SeededRandomness(seed),
    )


def adaptive_terms(q: float = 1.0) -> ReleaseTerms:
    release = ScheduledRelease("gradients", "gradients", 1.0, sampling_probability=q, noise_multiplier=1.0)
    return release_terms(plan(releases=(release,)), "gradients", ReleaseShape(N * DIM + 1, 1.0))


@pytest.mark.parametrize("norm", [1e-6, 0.05, 1.0, 1e6])
def test_one_user_changes_gradients_and_count_by_at_most_the_joint_bound(norm: float) -> None:
    t, one = adaptive_terms(), adaptive_trainer(HISTORIES)
    clip = one.round_clip(t, norm)
    everybody = np.arange(len(HISTORIES))
    for count in everybody + 1:
        sums = []
        for users in (everybody[:count], everybody[: count - 1]):
            one._randomness = SeededRandomness(7)
            sums.append(one.joint_sum(users, t, clip).values)
        moved = [int(v) for v in sums[0] - sums[1]]
        assert sum(v * v for v in moved) <= t.l2_bound**2
        assert moved[-1] != 0
    one.close()


def test_the_count_is_the_last_cell_and_says_who_is_within() -> None:
    t, one = adaptive_terms(), adaptive_trainer(HISTORIES)
    joint = one.round_clip(t).joint
    assert joint is not None
    for norm, sign in ((1e-6, -1), (1e6, 1)):
        total = one.joint_sum(np.arange(len(HISTORIES)), t, one.round_clip(t, norm))
        assert total.values[-1] == sign * len(HISTORIES) * joint.count_bound
        assert total.l2_bound == t.l2_bound
    one.close()


def test_the_gradients_do_not_depend_on_how_the_norm_is_written_down() -> None:
    """In their own units the clipped gradients are the same vector on the fixed and on the moving grid."""
    fixed_terms, fixed = replace(terms("gradients", q=1.0), private=False), trainer(HISTORIES)
    t, one = adaptive_terms(), adaptive_trainer(HISTORIES)
    everybody = np.arange(len(HISTORIES))
    fixed._randomness, one._randomness = SeededRandomness(7), SeededRandomness(7)
    plain = fixed.joint_sum(everybody, fixed_terms).values * fixed_terms.unit
    clip = one.round_clip(t, CLIP)
    adaptive = one.joint_sum(everybody, t, clip).values[:-1] * clip.unit
    np.testing.assert_allclose(adaptive, plain, atol=len(HISTORIES) * (clip.unit + fixed_terms.unit))
    assert np.abs(plain).max() > 0.01
    fixed.close()
    one.close()


def test_an_adaptive_round_sends_one_cell_more_and_moves_the_encoder() -> None:
    t, one = adaptive_terms(), adaptive_trainer(HISTORIES)
    before = torch.cat([p.detach().flatten() for p in one._raw_encoder.parameters()])
    assert one.step(t, 0.3).shape == (N * DIM + 1,)
    after = torch.cat([p.detach().flatten() for p in one._raw_encoder.parameters()])
    assert not torch.equal(before, after)
    one.close()


@pytest.mark.parametrize("histories", [[], [np.array([3])], HISTORIES])
@pytest.mark.parametrize("norm", [None, 1, "1", float("nan"), 1e-9, 1e9, 2.0])
def test_a_silly_norm_is_refused_whatever_users_have(histories: list[np.ndarray], norm: object) -> None:
    one = adaptive_trainer(histories)
    with pytest.raises(PolicyRefusal) as refusal:
        one.check(adaptive_terms(), norm, 1)
    assert refusal.value.reason_code == "clip-norm-out-of-range"
    one.check(adaptive_terms(), 1.05, 1)
    assert "_histories" not in vars(one)  # the log was not read for any of this
    one.close()
