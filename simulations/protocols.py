"""The protocols a bench can measure under: which events train, who is judged on what, and how ranks are taken."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from privacy.errors import InputError
from recsys_models.data.dataset import Dataset
from recsys_models.data.sequences import Sequences
from recsys_models.data.splits import (
    LeaveLastOut,
    ShareSplit,
    global_time_split,
    leave_last_out,
    random_share_split,
)
from recsys_models.evaluation import (
    NEGATIVES,
    NEGATIVES_SEED,
    Scorer,
    checksum_of_negatives,
    evaluate,
    evaluate_against,
    evaluate_many,
    evaluation_negatives,
)

ProtocolName = Literal["last-out", "time", "negatives-99", "lightgcn"]
PROTOCOLS: tuple[str, ...] = get_args(ProtocolName)
LABELS: dict[str, str] = {
    "last-out": "full ranking, last item out",
    "time": "full ranking, first item after one moment for all",
    "negatives-99": f"{NEGATIVES} negatives (seed {NEGATIVES_SEED}), last item out: for comparison only",
    "lightgcn": "full ranking, random 80/20 of every user: for comparison only",
}
_SOURCE = {"recall@10": "hit@10", "recall@20": "hit@20", "ndcg@10": "ndcg@10"}


@dataclass(frozen=True)
class Protocol:
    """A data set under one protocol.

    Attributes:
        data: everybody's events.
        name: one of :data:`PROTOCOLS`.
    """

    data: Dataset
    name: str = "last-out"

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise InputError(f"unknown protocol {self.name!r}: use one of {', '.join(PROTOCOLS)}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the figures."""
        return ("recall@20", "ndcg@20") if self.name == "lightgcn" else tuple(_SOURCE)

    @property
    def has_validation(self) -> bool:
        """Whether something can be picked without the test items."""
        return self.name != "lightgcn"

    @cached_property
    def split(self) -> LeaveLastOut:
        """One validation and one test item a user.

        Raises:
            InputError: where the protocol has many.
        """
        if self.name == "time":
            return global_time_split(self.data.sequences)
        if self.name == "lightgcn":
            raise InputError("protocol lightgcn has no validation item: nothing can be picked under it")
        return leave_last_out(self.data.sequences)

    @cached_property
    def train(self) -> Sequences:
        """What may be fitted."""
        return self._shares.train if self.name == "lightgcn" else self.split.train

    @cached_property
    def checksum(self) -> str:
        """Of all that decides the figures but the model; with drawn negatives, of split and draw."""
        if self.name == "lightgcn":
            return self._shares.checksum
        if self.name == "negatives-99":
            return f"{self.split.checksum}+{checksum_of_negatives(self._negatives)}"
        return self.split.checksum

    @cached_property
    def users(self) -> int:
        """How many users are judged."""
        if self.name == "lightgcn":
            return int((self._shares.test.lengths > 0).sum())
        return int(self.split.evaluated.size)

    def judge(self, scorer: Scorer) -> dict[str, float]:
        """The test figures of a fitted scorer."""
        if self.name == "lightgcn":
            found = evaluate_many(scorer, self._shares.train, self._shares.test)
            return {name: found[name] for name in self.metrics}
        history, target = self.split.history("test"), self.split.target("test")
        if self.name == "negatives-99":
            means = evaluate_against(scorer, history, target, self._negatives).means()
        else:
            means = evaluate(scorer, history, target).means()
        return {name: means[source] for name, source in _SOURCE.items()}

    def validation(self, scorer: Scorer) -> float:
        """NDCG@10 of the validation items in the full ranking: what every choice is made by."""
        split = self.split
        return evaluate(scorer, split.history("validation"), split.target("validation")).means()["ndcg@10"]

    @cached_property
    def _shares(self) -> ShareSplit:
        return random_share_split(self.data.sequences)

    @cached_property
    def _negatives(self) -> NDArray[np.int64]:
        return evaluation_negatives(self.data.sequences)
