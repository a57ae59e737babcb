"""The leak canary: a model without any knowledge of other users must score chance in our evaluation.

The model is PFedRec's (Zhang et al., "Dual Personalization on Federated Recommendation", IJCAI 2023) with federation off:
every user trains an item table and a scorer of her own on her own log, from one random start. It cannot know what she does
next. Its published harness gives it HR@10 = 1.000, because training negatives are drawn from what is in no part of the log:
every item is pushed down but the held-out one. Here the same model runs twice:

* with negatives from everything that is not in train, as everywhere in this project: chance, or our harness leaks;
* with the leaky sampler: far above chance, or the canary is blind.

An item tower of pure noise under an untrained encoder, in the same evaluator, must score chance as well.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import InputError
from recsys_models.data.dataset import Dataset
from recsys_models.data.sequences import Sequences
from recsys_models.data.splits import LeaveLastOut, leave_last_out
from recsys_models.encoders import build_encoder
from recsys_models.evaluation import NEGATIVES, evaluate_against, evaluation_negatives
from recsys_models.metrics.ranking import mean_metrics
from recsys_models.negatives import UntouchedSampler
from recsys_models.training import EncoderScorer

CHANCE = 10 / (NEGATIVES + 1)
MUST_FIRE = 0.5
"""What the leaky sampler must reach for the canary to count, after :data:`ROUNDS` rounds."""
ROUNDS = 20
_STANDARD_ERRORS = 3.0
# Those of the published harness.
_DIM = 32
_NEGATIVES_EACH = 4
_BATCH = 256
_RATE = 0.1
_TABLE_RATE_PER_ITEM = 80.0
_TOWERS = 4


def run(dataset: Dataset, *, rounds: int = ROUNDS, seed: int = 0) -> dict[str, Any]:
    """Run canary, positive control and noise towers.

    Args:
        dataset: whose users train alone.
        rounds: passes of each user over her own log.
        seed: of everything drawn but the evaluation's negatives, whose seed is published.

    Returns:
        ``rows`` (``what``, ``hit@10``, ``ndcg@10``, ``low``, ``high``, ``ok``), ``users`` and ``ok``.

    Raises:
        InputError: for fewer rounds than 1.
    """
    if rounds < 1:
        raise InputError(f"{rounds} rounds train nothing: ask for at least 1")
    split = leave_last_out(dataset.sequences)
    negatives = evaluation_negatives(dataset.sequences)
    margin = _STANDARD_ERRORS * math.sqrt(CHANCE * (1.0 - CHANCE) / split.evaluated.size)
    chance = (CHANCE - margin, CHANCE + margin)
    honest = alone(split, UntouchedSampler(split.train), negatives, rounds=rounds, seed=seed)
    leaky = alone(split, UntouchedSampler(dataset.sequences), negatives, rounds=rounds, seed=seed)
    rows = [
        _row("a table of her own, our sampler", honest, *chance),
        _row("a table of her own, leaky sampler", leaky, MUST_FIRE, 1.0),
        _row("a tower of noise, untrained encoder", noise_towers(split, negatives, seed), *chance),
    ]
    return {
        "dataset": dataset.summary(),
        "users": int(split.evaluated.size),
        "rounds": rounds,
        "rows": rows,
        "ok": all(row["ok"] for row in rows),
    }


def alone(
    split: LeaveLastOut,
    sampler: UntouchedSampler,
    negatives: NDArray[np.int64],
    *,
    rounds: int,
    seed: int,
) -> dict[str, float]:
    """Metrics of every user's own model after ``rounds``, among the test item and the drawn negatives."""
    tables = OwnTables(split.train, seed)
    for _ in range(rounds):
        tables.round(sampler)
    users = split.evaluated
    own = tables.scores(users, split.test[users][:, None])
    others = tables.scores(users, negatives[users])
    # A tie counts against the test item.
    return mean_metrics(1 + (others >= own).sum(axis=1), (10,))


class OwnTables:
    """Every user's item table and scorer, ``sigmoid(<w_u, e_ui> + b_u)``, trained on her own log, all users at a time.

    Args:
        train: everybody's log; no number ever passes from one user to another.
        seed: of start, order and negatives.
    """

    def __init__(self, train: Sequences, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._users = train.user_of_event()
        self._items = train.items
        self._n_items = train.catalogue.n_items
        start = torch.from_numpy(self._random.standard_normal((self._n_items, _DIM), dtype=np.float32))
        self._rows = start.repeat(train.n_users, 1)
        bound = _DIM**-0.5
        head = self._random.uniform(-bound, bound, (train.n_users, _DIM + 1))
        self._weights, self._bias = torch.from_numpy(head.astype(np.float32)).split([_DIM, 1], dim=1)
        self._weights, self._bias = self._weights.contiguous(), self._bias[:, 0].contiguous()

    def round(self, sampler: UntouchedSampler) -> None:
        """One pass of every user over her positives and fresh negatives, in batches of her own."""
        drawn = np.repeat(self._users, _NEGATIVES_EACH)
        users = np.concatenate([self._users, drawn])
        items = np.concatenate([self._items, sampler.sample(drawn, self._random.random(drawn.size))])
        is_positive = np.arange(users.size) < self._users.size
        order = np.lexsort((self._random.random(users.size), users))
        users, items, is_positive = users[order], items[order], is_positive[order]
        starts = np.searchsorted(users, users)
        batch = (np.arange(users.size) - starts) // _BATCH
        for number in range(int(batch.max()) + 1):
            here = batch == number
            self._step(users[here], items[here], is_positive[here])

    def _step(
        self, users: NDArray[np.int64], items: NDArray[np.int64], is_positive: NDArray[np.bool_]
    ) -> None:
        """Mean binary cross-entropy of each user's batch: a step of the scorer, then one of the table."""
        user, cell = torch.from_numpy(users), torch.from_numpy(users * self._n_items + items)
        target = torch.from_numpy(is_positive.astype(np.float32))
        share = 1.0 / torch.bincount(user, minlength=len(self._bias))[user].float()
        rows = self._rows[cell]
        error = self._error(rows, user, target) * share
        self._weights.index_add_(0, user, -_RATE * error[:, None] * rows)
        self._bias.index_add_(0, user, -_RATE * error)
        error = self._error(rows, user, target) * share
        rate = _RATE * self._n_items * _TABLE_RATE_PER_ITEM
        self._rows.index_add_(0, cell, -rate * error[:, None] * self._weights[user])

    def _error(self, rows: torch.Tensor, user: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((rows * self._weights[user]).sum(dim=1) + self._bias[user]) - target

    def scores(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits of items [B, n] for users [B], from each one's own table: [B, n]."""
        cells = torch.from_numpy(users[:, None] * self._n_items + items)
        weights = self._weights[torch.from_numpy(users)]
        return torch.einsum("bnd,bd->bn", self._rows[cells], weights).double().numpy()


def noise_towers(split: LeaveLastOut, negatives: NDArray[np.int64], seed: int) -> dict[str, float]:
    """Mean metrics of untrained encoders on towers of Gaussian noise."""
    found: list[dict[str, float]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(_TOWERS):
            tower = torch.randn(split.train.catalogue.n_items, _DIM)
            scorer = EncoderScorer(build_encoder("attention", _DIM), tower)
            judged = evaluate_against(scorer, split.history("test"), split.test, negatives)
            found.append(judged.means((10,)))
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def _row(what: str, means: dict[str, float], low: float, high: float) -> dict[str, Any]:
    hit, ndcg = means["hit@10"], means["ndcg@10"]
    return {"what": what, "hit@10": hit, "ndcg@10": ndcg, "low": low, "high": high, "ok": low <= hit <= high}


def format_table(result: dict[str, Any]) -> str:
    """The three rows, and the verdict."""
    lines = [
        f"{result['dataset']}, {result['users']} users judged, {NEGATIVES} negatives, {result['rounds']} rounds",
        f"{'model':<38} {'HR@10':>7} {'NDCG@10':>8}  must lie in",
    ]
    for row in result["rows"]:
        verdict = "" if row["ok"] else "  FAILS"
        lines.append(
            f"{row['what']:<38} {row['hit@10']:>7.3f} {row['ndcg@10']:>8.3f}  "
            f"[{row['low']:.3f}, {row['high']:.3f}]{verdict}"
        )
    lines.append(
        "no leak, and the canary sees one" if result["ok"] else "the evaluation leaks, or the canary is blind"
    )
    return "\n".join(lines)
