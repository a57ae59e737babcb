from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from privacy.user_gradients import check_engine
from recsys_models.rerankers.neumf import NeuMF, candidate_loss, candidates, reranked

USERS, ITEMS, DIM = 6, 12, 4


def trained(seed: int = 0) -> NeuMF:
    torch.manual_seed(seed)
    reranker = NeuMF(DIM)
    nn.init.normal_(reranker.out.weight)
    return reranker


def vectors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(USERS, ITEMS, generator=generator),
        torch.randn(USERS, DIM, generator=generator),
        torch.randn(ITEMS, DIM, generator=generator),
    )


def seen() -> list[np.ndarray]:
    return [np.array([u, u + 1]) for u in range(USERS)]


def test_candidates_are_the_best_items_not_seen() -> None:
    scores, _, _ = vectors()
    items, values = candidates(scores, seen(), 4)
    for user in range(USERS):
        unseen = [i for i in range(ITEMS) if i not in (user, user + 1)]
        best = sorted(unseen, key=lambda i: -float(scores[user, i]))[:4]
        assert items[user].tolist() == best
        assert torch.equal(values[user], scores[user, best])


def test_untrained_it_keeps_the_order() -> None:
    scores, users, tower = vectors()
    assert torch.equal(reranked(NeuMF(DIM), scores, users, tower, seen()), scores)


def test_it_reorders_candidates_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, users, tower = vectors()
    monkeypatch.setattr(candidates, "__defaults__", (4,))
    found = reranked(trained(), scores, users, tower, seen())
    assert torch.equal(found.sort(dim=1).values, scores.sort(dim=1).values)
    items, values = candidates(scores, seen(), 4)
    wanted = (values + trained()(users, tower[items])).argsort(dim=1, descending=True)
    assert torch.equal(candidates(found, seen(), 4)[0], items.gather(1, wanted))
    others = torch.ones_like(scores, dtype=torch.bool).scatter(1, items, False)
    assert torch.equal(found[others], scores[others])
    assert not torch.equal(found, scores)


def test_a_user_who_has_seen_nearly_everything_keeps_her_seen_scores() -> None:
    scores, users, tower = vectors()
    almost = [np.arange(1, ITEMS)] + [np.zeros(0, np.int64)] * (USERS - 1)
    found = reranked(trained(), scores, users, tower, almost)
    assert torch.equal(found[0], scores[0])
    assert torch.isfinite(found).all()


def test_overflow_leaves_one_users_scores_as_they_were() -> None:
    scores, users, tower = vectors()
    users[2] = 3e38
    found = reranked(trained(), scores, users, tower, seen())
    assert torch.equal(found[2], scores[2])
    users[2] = 0.0
    others = [0, 1, 3, 4, 5]
    assert torch.equal(found[others], reranked(trained(), scores, users, tower, seen())[others])


def test_only_vectors_count_so_a_new_item_is_scored_like_its_double() -> None:
    _, users, tower = vectors()
    doubled = torch.cat([tower, tower[:1]])
    added = trained()(users, doubled.expand(USERS, -1, -1))
    assert torch.equal(added[:, 0], added[:, -1])


def test_the_loss_is_cross_entropy_among_candidates() -> None:
    scores, users, tower = vectors()
    items, values = candidates(scores, seen(), 5)
    values[3, -1] = -torch.inf
    is_target = torch.zeros_like(items, dtype=torch.bool)
    is_target[torch.arange(USERS), [0, 1, 2, 3, 4, 0]] = True
    is_target[5] = False
    loss = candidate_loss(trained(), users, tower[items], values, is_target)
    logits = values + trained()(users, tower[items])
    expected = nn.functional.cross_entropy(logits[:5], torch.arange(5), reduction="none")
    assert torch.allclose(loss[:5], expected)
    assert loss[5] == 0.0
    loss.sum().backward()  # minus infinity among the candidates leaves no NaN behind


def test_per_user_gradients_are_exact() -> None:
    """Slots of a user: a stand-in for her own vector, then her candidates."""
    _, _, tower = vectors()
    ids = torch.randint(0, ITEMS, (USERS, 6), generator=torch.Generator().manual_seed(2))
    targets = nn.functional.one_hot(torch.arange(USERS) % 5, 5).bool()

    def loss_for(chosen: torch.Tensor):
        def loss(reranker: nn.Module, slots: torch.Tensor) -> torch.Tensor:
            scores = torch.zeros(len(slots), 5)
            return candidate_loss(reranker, slots[:, 0], slots[:, 1:], scores, targets[chosen])

        return loss

    found = check_engine(trained(), tower, ids, loss_for, 0.05, train_table=False)
    assert found.users == USERS
    assert found.relative_error < 1e-5
