from __future__ import annotations

import numpy as np
import pytest

from client.behaviour_log import BehaviourLog
from client.evaluation import (
    comparison_contributions,
    metric_contributions,
    preset_ranks,
    rank_targets,
)
from client.model import ClientModel
from client.public_state import PublicState
from client.statistics import popularity_contributions, statistics_contributions
from recsys_models.retrieval.blend import ChannelScores
from recsys_models.retrieval.presets import POPULARITY, PRESETS, comparison_norm
from recsys_models.retrieval.transitions import SmoothTransitions, TransitionReadings, from_head
from tests.tiny_federation import dataset_of

N, DIM = 15, 4
RANDOM = np.random.default_rng(3)
# More users than one batch; some with too few events to be evaluated.
HISTORIES = [RANDOM.permutation(N)[: RANDOM.integers(0, 9)].tolist() for _ in range(150)]
HEAD = np.array([0, 3, 4, 9])
LOG = BehaviourLog(dataset_of(HISTORIES, N).sequences)
SETTINGS = {"encoder": "mean-pool", "dim": DIM, "max_length": 6, "blocks": 1, "heads": 1, "dropout": 0.0}


def public() -> PublicState:
    state = PublicState(N, DIM)
    factors = RANDOM.random((2, N, 3)).astype(np.float32)
    transitions = TransitionReadings(from_head(RANDOM.random((4, 4)), HEAD, N), SmoothTransitions(*factors))
    state.update(
        {
            "popularity": RANDOM.permutation(N).astype(np.float32),
            "item_tower": RANDOM.normal(size=(N, DIM)).astype(np.float32),
            "head": HEAD,
            **transitions.to_arrays(),
        }
    )
    return state


PUBLIC = public()


def plain_rank(scores: np.ndarray, target: int, seen: list[int]) -> int:
    """Place of the target among what was not seen, the last among equals."""
    return (
        sum(1 for item in range(N) if item not in seen and item != target and scores[item] >= scores[target])
        + 1
    )


@pytest.mark.parametrize("users", [1, 2, 3, 128, 129])
def test_one_user_more_does_not_move_the_ranks_of_others_however_close_their_scores(users: int) -> None:
    n_items, dim = 150, 8
    random = np.random.default_rng(0)
    state = PublicState(n_items, dim)
    # Orthogonal content and item vectors that hardly differ: what ranks the unseen items is how their scores are rounded.
    rotation = np.linalg.qr(random.normal(size=(n_items, n_items)))[0]
    nearly_one = 1.0 + 1e-7 * random.normal(size=(n_items, dim))
    state.update(
        {
            "content": (1e6 * rotation).astype(np.float32),
            "item_tower": (1e3 * nearly_one).astype(np.float32),
        }
    )
    model = ClientModel({**SETTINGS, "dim": dim}, b"s")
    histories = [random.permutation(n_items)[:20].tolist() for _ in range(users + 1)]
    more, fewer = (BehaviourLog(dataset_of(some, n_items).sequences) for some in (histories, histories[:-1]))
    compared = preset_ranks(model, more, state, "validation"), preset_ranks(model, fewer, state, "validation")
    for name in PRESETS:
        np.testing.assert_array_equal(compared[0][name][:-1], compared[1][name])
    ranked = rank_targets(model, more, state, "test"), rank_targets(model, fewer, state, "test")
    np.testing.assert_array_equal(ranked[0].model[:-1], ranked[1].model)


def test_ranks_are_those_of_the_full_catalogue_without_what_was_seen() -> None:
    model = ClientModel(SETTINGS, b"s")
    evaluated = [h for h in HISTORIES if len(h) >= 3]
    assert len(evaluated) not in (0, len(HISTORIES))
    for stage, cut in (("validation", 2), ("test", 1)):
        ranks = rank_targets(model, LOG, PUBLIC, stage)  # pyright: ignore[reportArgumentType]
        scorer = ChannelScores(PUBLIC.channels())
        for k, history in enumerate(evaluated):
            seen, target = history[:-cut], history[-cut]
            scores = model.scores([np.array(seen)], scorer)[0].numpy()
            assert plain_rank(scores, target, seen) == ranks.model[k]
            assert plain_rank(PUBLIC.popularity, target, seen) == ranks.popularity[k]
        assert len(ranks.model) == len(ranks.popularity) == len(evaluated)


def test_a_metric_row_a_user_holds_her_hits() -> None:
    ranks = rank_targets(ClientModel(SETTINGS, b"s"), LOG, PUBLIC, "test")
    rows = metric_contributions(ranks)
    assert rows.users == len(ranks.model)
    total = np.bincount(rows.indices, weights=rows.values, minlength=7)
    assert total[0] == len(ranks.model)
    assert total[1] == (ranks.model <= 10).sum()
    assert total[5] == (ranks.popularity <= 20).sum()


def test_statistics_are_of_the_training_part_alone() -> None:
    # Validation and test items of this user are in nobody's training part.
    log = BehaviourLog(dataset_of([[0, 3, 4, 9], [3, 4]], N).sequences)
    popularity = popularity_contributions(log, N)
    assert sorted(set(popularity.indices.tolist())) == [0, 3, 4]
    first_user = popularity.indices[: popularity.offsets[1]]
    assert first_user.tolist() == [0, 3]
    settings = {"gram_share": 0.5, "orders": 2, "decay": 0.5}
    statistics = statistics_contributions(log, PUBLIC, settings, private=True)
    assert statistics.length == 4 * 5 // 2 + 16
    assert statistics.users == 2
    # Transitions 0 -> 3 of the first user and 3 -> 4 of the second: positions 0, 1 and 1, 2 of the head.
    assert sorted(i - 10 for i in statistics.indices.tolist() if i >= 10) == [0 * 4 + 1, 1 * 4 + 2]
    transitions = statistics_contributions(log, PUBLIC, settings | {"gram_share": 0.0}, private=True)
    assert (transitions.length, sorted(transitions.indices.tolist())) == (16, [1, 6])


def test_transitions_are_counts_only_where_nothing_is_private() -> None:
    log = BehaviourLog(dataset_of([[0, 3, 0, 3, 0, 3, 9, 9]], N).sequences)
    settings = {"gram_share": 0.0, "orders": 1, "decay": 0.5}
    norms = [
        np.linalg.norm(statistics_contributions(log, PUBLIC, settings, private=private).values)
        for private in (True, False)
    ]
    assert norms == [pytest.approx(1.0), pytest.approx(np.hypot(3.0, 2.0))]


def test_every_preset_is_ranked_as_a_model_with_its_weights_would() -> None:
    model = ClientModel(SETTINGS, b"s")
    ranks = preset_ranks(model, LOG, PUBLIC, "validation")
    assert list(ranks) == list(PRESETS)
    for name, weights in PRESETS.items():
        model.begin_with(weights)
        of_model = rank_targets(model, LOG, PUBLIC, "validation")
        assert np.array_equal(ranks[name], of_model.model)
    assert np.array_equal(ranks[POPULARITY], of_model.popularity)
    assert len({part.tobytes() for part in ranks.values()}) > 3  # they differ, so the equality says something


def test_every_vote_has_the_norm_that_is_charged() -> None:
    model = ClientModel(SETTINGS, b"s")
    rows = comparison_contributions(preset_ranks(model, LOG, PUBLIC, "validation"))
    norms = np.sqrt(np.add.reduceat(rows.values**2, rows.offsets[:-1]))
    assert norms == pytest.approx(np.full(len(norms), comparison_norm()))
    nobody = BehaviourLog(dataset_of([[1], [2, 3]], N).sequences)
    assert len(comparison_contributions(preset_ranks(model, nobody, PUBLIC, "validation")).values) == 0
