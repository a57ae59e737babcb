"""Gradient rounds that train a map of public content: the chain rule, one user's reach, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from client.gradients import GradientTrainer
from client.model import ClientModel
from client.public_state import PublicState
from privacy.accounting.schedule import ScheduledRelease
from privacy.errors import PolicyRefusal, ProtocolError, SensitivityViolation
from privacy.randomness import SeededRandomness
from privacy.release_terms import ReleaseTerms, release_terms
from recsys_models.item_towers.content_map import MappedEncoder
from recsys_models.release_shapes import ReleaseShape, trained_rows
from tests.client.test_training import CLIP, DIM, HISTORIES, SETTINGS, N
from tests.privacy.accounting.test_plan import plan

WIDTH = 6
EVERYBODY = np.arange(len(HISTORIES))
CONTENT = np.random.default_rng(3).normal(size=(N, WIDTH)).astype(np.float32)
TOWER = np.random.default_rng(4).normal(size=(N, DIM)).astype(np.float32)


def public(content: np.ndarray | None = CONTENT) -> PublicState:
    state = PublicState(N, DIM)
    state.update({"popularity": np.arange(1, N + 1, dtype=np.float32), "item_tower": TOWER})
    if content is not None:
        state.update({"content": content})
    return state


def trainer(
    tower: str,
    state: PublicState | None = None,
    *,
    method: str = "hooks",
    **gradients: Any,
) -> GradientTrainer:
    asked = {"item_tower": tower, "content_width": 0 if tower == "ids" else WIDTH, **gradients}
    settings = SETTINGS | {"per_user_gradients": method, "gradients": SETTINGS["gradients"] | asked}
    return GradientTrainer(
        ClientModel(settings, b"s"),
        lambda: HISTORIES,
        state or public(),
        settings,
        users=len(HISTORIES),
        randomness=SeededRandomness(1),
    )


def terms(tower: Any, clip: float = CLIP, *, extra: int = 0, **release: Any) -> ReleaseTerms:
    planned = ScheduledRelease("gradients", "gradients", 1.0, noise_multiplier=1.0, **release)
    width = 0 if tower == "ids" else WIDTH
    length = (width + trained_rows(tower, N)) * DIM + extra
    noise: Any = "per_client" if release.get("local_steps", 1) > 1 else "distributed"
    return release_terms(plan(releases=(planned,), noise=noise), "gradients", ReleaseShape(length, clip))


def tower_part(tower: str, clip: float, users: np.ndarray = EVERYBODY) -> np.ndarray:
    """Clipped and summed, without noise, in the gradients' own units."""
    one, t = trainer(tower), terms(tower, clip)
    one._randomness = SeededRandomness(7)
    values = one.joint_sum(users, t).values[one.encoder_parameters :] * t.unit
    one.close()
    return values


def test_the_maps_gradient_is_content_times_that_of_the_rows() -> None:
    """The chain rule, where nobody is clipped, against the rows' own gradient."""
    rows = tower_part("ids", 1e3).reshape(N, DIM)
    alone = tower_part("content", 1e3).reshape(DIM, WIDTH).T
    both = tower_part("fusion", 1e3)
    expected = CONTENT.T @ rows
    assert np.abs(expected).max() > 0.1
    # Every user is truncated to the grid, once for each row and once for the map.
    slack = len(HISTORIES) * terms("ids", 1e3).unit * np.abs(CONTENT).sum(axis=0).max()
    np.testing.assert_allclose(alone, expected, atol=slack)
    np.testing.assert_allclose(both[: DIM * WIDTH].reshape(DIM, WIDTH).T, expected, atol=slack)
    np.testing.assert_allclose(both[DIM * WIDTH :].reshape(N, DIM), rows, atol=slack)


@pytest.mark.parametrize("method", ["hooks", "ghost"])
@pytest.mark.parametrize("tower", ["content", "fusion"])
def test_one_user_changes_encoder_map_and_rows_by_at_most_one_bound(tower: str, method: str) -> None:
    t, one = terms(tower), trainer(tower, method=method)
    assert one.method == method
    for count in EVERYBODY + 1:
        sums = []
        for users in (EVERYBODY[:count], EVERYBODY[: count - 1]):
            one._randomness = SeededRandomness(7)
            sums.append(one.joint_sum(users, t).values)
        difference = int(((sums[0] - sums[1]) ** 2).sum())
        assert (0.9 * t.l2_bound) ** 2 < difference <= t.l2_bound**2
    one.close()


@pytest.mark.parametrize("tower", ["content", "fusion"])
def test_a_round_sends_map_and_rows_and_keeps_the_encoder(tower: str) -> None:
    one, t = trainer(tower), replace(terms(tower, sampling_probability=1.0), private=False)
    before = torch.cat([p.detach().flatten() for p in one._raw_encoder.parameters()]).clone()
    sent = one.step(t)
    assert sent.shape == (t.length,)
    assert sent[: DIM * WIDTH].any()
    after = torch.cat([p.detach().flatten() for p in one._raw_encoder.parameters()])
    assert not torch.equal(before, after)
    # The map is the server's to move: here it stays the zero change it began as.
    assert not one._trained.map.weight.any()
    one.close()


def test_an_adaptive_count_comes_after_map_and_rows() -> None:
    one = trainer("fusion", adaptive_clip=True, l2_clip_norm=1.0)
    t = terms("fusion", 1.0, extra=1, sampling_probability=1.0)
    joint = one.round_clip(t).joint
    assert joint is not None
    for norm, sign in ((1e-6, -1), (1e6, 1)):
        total = one.joint_sum(EVERYBODY, t, one.round_clip(t, norm))
        assert total.values.size == one.encoder_parameters + t.length
        assert total.values[-1] == sign * len(HISTORIES) * joint.count_bound
    one.close()


@pytest.mark.parametrize(
    ("content", "why"), [(None, "before any content"), (CONTENT[:, :4], "width 4, agreed 6")]
)
def test_content_that_is_not_as_agreed_is_refused_before_a_log_is_read(
    content: np.ndarray | None, why: str
) -> None:
    with pytest.raises(ProtocolError, match=why):
        trainer("content", public(content))


def test_content_that_changes_between_rounds_is_refused() -> None:
    state = public()
    one = trainer("fusion", state)
    one.check(terms("fusion", steps=2), None, 1)
    state.update({"content": CONTENT + 1.0})
    with pytest.raises(ProtocolError, match="content changed"):
        one.check(terms("fusion", steps=2), None, 1)
    one.close()


def test_local_steps_are_refused() -> None:
    one = trainer("content")
    with pytest.raises(PolicyRefusal) as refusal:
        one.check(terms("content", local_steps=3), None, 0)
    assert refusal.value.reason_code == "settings-out-of-range"
    one.close()


@pytest.mark.parametrize("method", ["hooks", "ghost"])
def test_the_guard_sees_a_map_that_is_used_past_its_layer(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its weight alone: neither hooks nor recorders see what that adds to a gradient."""
    trainer("content", method=method).close()

    def past_the_layer(self: MappedEncoder, vectors: Any, content: Any, loss: Any) -> Any:
        return loss(self.encoder, vectors + self.map(content) + content @ self.map.weight.T)

    monkeypatch.setattr(MappedEncoder, "forward", past_the_layer)
    with pytest.raises(SensitivityViolation):
        trainer("content", method=method)
