"""What every item tower promises; each tower inherits the whole list."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from privacy.user_gradients import wrap_encoder
from recsys_models.errors import DataError
from recsys_models.item_towers.base import ItemTower, export_vectors
from recsys_models.item_towers.registry import TOWERS, ItemFeatures, build_tower

N, DIM = 11, 6
UNKNOWN = 4
"""An item of which no tower knows anything, except those that go by the index."""
BY_INDEX = ("embedding", "hashed")


def features(junk: float = 0.0) -> ItemFeatures:
    """All modalities; the features of the unknown item hold ``junk`` where a mask hides them."""
    torch.manual_seed(0)
    content, images, sounds = torch.randn(N, 9), torch.randn(N, 3, 8, 8), torch.randn(N, 5, 8)
    tokens = torch.randint(1, 50, (N, 7))
    tokens[2, 3:] = 0
    known = torch.arange(N) != UNKNOWN
    content[UNKNOWN], tokens[UNKNOWN] = 0.0, 0
    images[UNKNOWN] = junk
    sounds[UNKNOWN] = junk
    return ItemFeatures(
        N,
        content=content,
        tokens=tokens,
        images=images,
        has_image=known & (torch.arange(N) != 1),
        sounds=sounds,
        has_sound=known & (torch.arange(N) != 7),
        trained=known & (torch.arange(N) != 3),
    )


def jittered(name: str, junk: float = 0.0) -> ItemTower:
    """A tower away from its start: a branch multiplied by zero would pass every test."""
    given = features(junk)
    torch.manual_seed(1)
    tower = build_tower(name, given, DIM, hidden=4, modality_dropout=0.0)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return tower


def loss_of(vectors_BSD: Tensor) -> Tensor:
    """One loss per user: the mean of two history items against a positive and negatives, not linear in anything."""
    user_BD = torch.tanh(vectors_BSD[:, :2].mean(dim=1))
    scores_BC = (vectors_BSD[:, 2:] * user_BD.unsqueeze(1)).sum(-1)
    return torch.logsumexp(scores_BC, dim=1) - scores_BC[:, 0]


@pytest.fixture
def ids() -> Tensor:
    torch.manual_seed(2)
    drawn = torch.randint(0, N, (5, 8))
    drawn[0, 0], drawn[1, 3] = UNKNOWN, UNKNOWN
    return drawn


@pytest.mark.parametrize("name", TOWERS)
class TestEveryTower:
    def test_gradients_of_each_user_are_exact(self, name: str, ids: Tensor) -> None:
        tower = jittered(name)
        expected: list[list[Tensor]] = []
        for user in range(len(ids)):
            tower.zero_grad()
            loss_of(tower(ids[user : user + 1])).sum().backward()
            expected.append([p.grad.clone() for p in tower.parameters() if p.grad is not None])
        tower.zero_grad()
        names = [n for n, p in tower.named_parameters()]
        hooked = wrap_encoder(tower)
        loss_of(hooked(ids)).sum().backward()
        assert names
        for at, parameter in enumerate(hooked.parameters()):
            for user in range(len(ids)):
                torch.testing.assert_close(
                    parameter.grad_sample[user],
                    expected[user][at],
                    rtol=1e-4,
                    atol=1e-6,
                    msg=lambda text, n=names[at]: f"{n}: {text}",
                )

    def test_an_item_does_not_depend_on_the_batch(self, name: str, ids: Tensor) -> None:
        tower = jittered(name)
        together = tower(ids)
        alone = torch.stack([torch.stack([tower(item) for item in row]) for row in ids])
        torch.testing.assert_close(together, alone)

    def test_export_equals_forward(self, name: str, ids: Tensor) -> None:
        tower = jittered(name).train()
        exported = export_vectors(tower, chunk=3)
        assert exported.shape == (N, DIM) and not exported.requires_grad and tower.training
        torch.testing.assert_close(exported[ids], tower.eval()(ids))

    def test_the_same_seed_builds_the_same_tower(self, name: str, ids: Tensor) -> None:
        assert torch.equal(jittered(name)(ids), jittered(name)(ids))

    def test_every_parameter_is_used(self, name: str, ids: Tensor) -> None:
        tower = jittered(name)
        tower(torch.arange(N)).square().sum().backward()
        unused = [n for n, p in tower.named_parameters() if p.grad is None or not p.grad.any()]
        assert unused == []

    def test_items_differ(self, name: str, ids: Tensor) -> None:
        tower = jittered(name)
        vectors = tower(torch.arange(N)[tower.present_N])
        assert torch.pdist(vectors).min() > 1e-3

    def test_features_are_not_part_of_the_state(self, name: str, ids: Tensor) -> None:
        tower = jittered(name)
        assert set(tower.state_dict()) == {n for n, _ in tower.named_parameters()}

    def test_refuses_indices_outside_the_catalogue(self, name: str, ids: Tensor) -> None:
        tower = jittered(name)
        for wrong in (-1, N):
            with pytest.raises(DataError, match="item indices span"):
                tower(torch.tensor([0, wrong]))
        with pytest.raises(DataError, match="must be int64"):
            tower(torch.tensor([0.0]))

    def test_learns(self, name: str, ids: Tensor) -> None:
        """Each tower alone can pull two items together and push a third away."""
        tower = jittered(name)
        optimiser = torch.optim.Adam(tower.parameters(), lr=0.02)
        at = torch.tensor([0, 5, 8])
        losses = []
        for _ in range(40):
            first, second, third = nn.functional.normalize(tower(at), dim=-1)
            loss = first @ third - first @ second
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < min(-1.0, losses[0])


@pytest.mark.parametrize("name", [name for name in TOWERS if name not in BY_INDEX])
def test_unknown_items_get_zeros_and_leak_nothing(name: str, ids: Tensor) -> None:
    clean, spoiled = jittered(name), jittered(name, torch.nan)
    assert not clean(ids)[0, 0].any()
    assert clean(ids)[0, 1].any()
    torch.testing.assert_close(spoiled(ids), clean(ids), rtol=0, atol=0)
    for tower in (clean, spoiled):
        loss_of(tower(ids)).sum().backward()
    for one, other in zip(clean.parameters(), spoiled.parameters(), strict=True):
        assert one.grad is not None and torch.equal(one.grad, other.grad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "bert"}, "unknown item tower 'bert'; choose one of embedding, hashed"),
        ({"name": "image-cnn", "features": ItemFeatures(3)}, "needs ItemFeatures.images"),
        ({"dim": 0}, "at least 1"),
        ({"hidden": -1}, "hidden must be"),
        ({"modality_dropout": 1.0}, "modality_dropout must be"),
        ({"modality_dropout": float("nan")}, "modality_dropout must be"),
    ],
)
def test_refuses_bad_settings(change: dict[str, object], message: str) -> None:
    settings = {"name": "fusion", "features": features(), "dim": DIM, **change}
    with pytest.raises(DataError, match=message):
        build_tower(**settings)


def test_refuses_features_of_another_catalogue() -> None:
    with pytest.raises(DataError, match="content has 2 rows for 3 items"):
        ItemFeatures(3, content=torch.zeros(2, 4))
