"""Whether items nobody has touched are found through their content, and never through their index.

A tenth of the items is *cold*: every event with one of them is taken out of training. The users whose last item is cold
are asked for it, after their whole history, in a ranking of the full catalogue and in one of the cold items alone. A model
that knows items by their index can do no better than chance there, so whatever it finds would be a leak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import InputError
from recsys_models.data.dataset import Dataset
from recsys_models.data.sequences import Sequences
from recsys_models.data.splits import leave_last_out
from recsys_models.encoders import build_encoder
from recsys_models.evaluation import Scorer, evaluate
from recsys_models.item_towers.base import export_vectors
from recsys_models.item_towers.cold_start import fill_from_content
from recsys_models.item_towers.hashed_text import truncated_svd
from recsys_models.item_towers.registry import ItemFeatures, build_tower
from recsys_models.item_towers.text import TextMethod, content_vectors, documents_of
from recsys_models.item_towers.text_cnn import hashed_tokens
from recsys_models.item_towers.training import train_with_tower
from recsys_models.metrics.intervals import proportion_estimate
from recsys_models.training import EncoderScorer
from simulations.invented_media import invent_media
from simulations.synthetic import BUILT_IN_NAME

Result = dict[str, Any]
Int = NDArray[np.int64]
Histories = Sequence[Int]
Model = tuple[str, str, Callable[[], Scorer]]
COLD_SHARE = 0.1
WANTED_TIMES_CHANCE = 10.0
_CUT = 10
_CONTENT_DIM = 256
_DIM = 64
_RECENT = 10
_DECAY = 0.8


@dataclass(frozen=True)
class ColdTask:
    """What is asked.

    Attributes:
        train: training events without the cold items.
        history: what is known of each user when she is asked.
        targets: the last item of users for whom it is cold; -1 for all others.
        cold: bool ``[N]``.
    """

    train: Sequences
    history: Sequences
    targets: Int
    cold: NDArray[np.bool_]

    @property
    def warm(self) -> Int:
        """Indices of all other items."""
        return np.flatnonzero(~self.cold)


def run(
    data: Dataset,
    *,
    seed: int = 0,
    epochs: int = 5,
    text: TextMethod = "hashed",
    networks: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Result:
    """Measure every way to know an item.

    Args:
        data: with titles or attributes.
        seed: which items are cold, and of training.
        epochs: of the trained towers.
        text: what the texts' vectors are made of.
        networks: also towers that read words, pictures and sounds themselves; the latter two are invented, for the built-in
            log alone.
        say: one line after each row.

    Returns:
        ``rows``, the two chance levels, ``shortfalls`` and ``ok``: content at ten times chance and every model that has it
        surely above chance among the cold items, indices at chance.

    Raises:
        InputError: nobody's last item is cold.
    """
    task = cold_task(data, seed)
    users = int(np.count_nonzero(task.targets >= 0))
    if not users:
        raise InputError(
            f"{data.name}: nobody's last item is among the cold ones: take another seed or more users"
        )
    content = content_vectors(data.catalogue, _CONTENT_DIM, method=text)
    chance = {"full": _CUT / data.catalogue.n_items, "cold": _CUT / int(task.cold.sum())}
    rows: list[Result] = []
    models = [*_models(task, content, seed, epochs)]
    if networks:
        models += _networks(data, task, content, seed, epochs)
    for name, by, build in models:
        started = time.process_time()
        row = {"model": name, "by": by, **_measure(build(), task, users)}
        row["cpu_seconds"] = round(time.process_time() - started, 1)
        say(f"{name}: recall@{_CUT} {row['full']:.4f}")
        rows.append(row)
    missed = shortfalls(rows, chance, users)
    return {
        "dataset": data.summary(),
        "text": text,
        "cold_items": int(task.cold.sum()),
        "items": data.catalogue.n_items,
        "users": users,
        "chance": chance,
        "rows": rows,
        "shortfalls": missed,
        "ok": not missed,
    }


def cold_task(data: Dataset, seed: int) -> ColdTask:
    """Choose the cold items, of those with events, and take them out of training."""
    split = leave_last_out(data.sequences)
    seen = np.unique(data.sequences.items)
    chosen = np.random.default_rng(seed).permutation(seen)[: max(_CUT, round(COLD_SHARE * len(seen)))]
    cold = np.zeros(data.catalogue.n_items, dtype=bool)
    cold[chosen] = True
    targets = split.target("test")
    targets = np.where((targets >= 0) & cold[np.maximum(targets, 0)], targets, -1)
    return ColdTask(without(split.train, cold), split.history("test"), targets, cold)


def without(sequences: Sequences, items: NDArray[np.bool_]) -> Sequences:
    """The sequences less every event with one of ``items``."""
    kept = ~items[sequences.items]
    counts = np.bincount(sequences.user_of_event()[kept], minlength=sequences.n_users)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Sequences(sequences.user_ids, sequences.items[kept], offsets, sequences.catalogue)


def _models(task: ColdTask, content: NDArray[np.float32], seed: int, epochs: int) -> Iterator[Model]:
    """Name, what it knows cold items by, and how it is made."""
    features = ItemFeatures(
        len(content), content=torch.from_numpy(content), trained=torch.from_numpy(~task.cold)
    )

    def trained(name: str) -> Callable[[], Scorer]:
        return lambda: _trained(name, features, task, seed, epochs)

    yield "trained embeddings", "index", trained("embedding")
    yield "statistics tower", "index", lambda: MeanScorer(_statistics_tower(task))
    yield "statistics tower, filled from content", "content", lambda: MeanScorer(_filled_tower(task, content))
    yield "likeness of content, untrained", "content", lambda: MeanScorer(content)
    yield "trained content map", "content", trained("content")
    yield "trained fusion of index and content", "content", trained("fusion")


def _networks(
    data: Dataset, task: ColdTask, content: NDArray[np.float32], seed: int, epochs: int
) -> Iterator[Model]:
    """Towers over words, pictures and sounds, and the fusion of everything there is."""
    features = ItemFeatures(
        len(content),
        content=torch.from_numpy(content),
        tokens=torch.from_numpy(hashed_tokens(documents_of(data.catalogue))),
        trained=torch.from_numpy(~task.cold),
    )
    names = {"text-cnn": "words"}
    if data.name.startswith(BUILT_IN_NAME):
        media = invent_media(data.catalogue, seed)
        features = replace(features, **vars(media))
        names |= {"image-cnn": "invented pictures", "audio-cnn": "invented sounds"}
    for tower, what in names.items():
        build = partial(_trained, tower, features, task, seed, epochs)
        yield f"trained network over {what}", "content", build
    what = ", ".join(["index", "content", *names.values()]).replace("invented ", "")
    yield f"fusion of {what}", "content", partial(_trained, "fusion", features, task, seed, epochs)


def _trained(name: str, features: ItemFeatures, task: ColdTask, seed: int, epochs: int) -> Scorer:
    torch.manual_seed(seed)
    tower = build_tower(name, features, _DIM)
    encoder = build_encoder("mean-pool", _DIM, decay=_DECAY)
    train_with_tower(encoder, tower, task.train, np.random.default_rng(seed), items=task.warm, epochs=epochs)
    return EncoderScorer(encoder, export_vectors(tower))


def _statistics_tower(task: ColdTask) -> NDArray[np.float32]:
    """The tower that the Gram statistic gives without noise, of all items: its strongest eigenvectors."""
    users = task.train.user_of_event()
    pairs = np.unique(np.stack([task.train.items, users]), axis=1)
    weight = 1.0 / np.sqrt(np.bincount(pairs[1], minlength=task.train.n_users))[pairs[1]]
    shape = (task.train.catalogue.n_items, task.train.n_users)
    rows = torch.sparse_coo_tensor(
        torch.from_numpy(pairs), torch.from_numpy(weight), shape, check_invariants=True
    ).coalesce()
    directions, _ = truncated_svd(rows, _DIM)
    return directions.astype(np.float32)


def _filled_tower(task: ColdTask, content: NDArray[np.float32]) -> NDArray[np.float32]:
    tower = _statistics_tower(task)
    mean_norm = float(np.linalg.norm(tower[~task.cold], axis=1).mean())
    return fill_from_content(tower, ~task.cold, content, row_norm=mean_norm)


class MeanScorer:
    """Likeness to the recency-weighted mean of the newest history items' vectors."""

    def __init__(self, vectors_ND: NDArray[np.float32]) -> None:
        self.vectors_ND = vectors_ND

    def __call__(self, histories: Histories) -> NDArray[np.floating]:
        """Scores [B, n_items]."""
        users = np.zeros((len(histories), self.vectors_ND.shape[1]), dtype=np.float32)
        for row, history in enumerate(histories):
            newest = history[-_RECENT:]
            weights = _DECAY ** np.arange(len(newest), dtype=np.float32)[::-1]
            users[row] = weights @ self.vectors_ND[newest]
        return users @ self.vectors_ND.T


def _measure(scorer: Scorer, task: ColdTask, users: int) -> Result:
    def among_cold(histories: Histories) -> NDArray[np.floating]:
        return np.where(task.cold, scorer(histories), np.float32(-1e30))

    row: Result = {}
    for name, ranked in (("full", scorer), ("cold", among_cold)):
        ranks = evaluate(ranked, task.history, task.targets).ranks
        hits = float(np.count_nonzero(ranks <= _CUT))
        estimate = proportion_estimate(hits, users)
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return row


def shortfalls(rows: Sequence[Result], chance: dict[str, float], users: int) -> list[str]:
    """What is not as it should be, one line each."""
    missed: list[str] = []
    for row in rows:
        if row["by"] == "index" and row["full_low"] > chance["full"]:
            missed.append(
                f"{row['model']} finds {row['full']:.4f} of the cold items, surely above chance {chance['full']:.4f}: a leak"
            )
        if row["by"] == "content" and not row["cold_low"] > chance["cold"]:
            missed.append(
                f"{row['model']} finds {row['cold']:.4f} among the cold items, not surely above chance {chance['cold']:.4f}"
            )
    best = max((row for row in rows if row["by"] == "content"), key=lambda row: row["full"])
    wanted = WANTED_TIMES_CHANCE * chance["full"]
    if not best["full"] >= wanted:
        missed.append(
            f"through content {best['full']:.4f} of {users} users' cold items are found, wanted {wanted:.4f}"
        )
    return missed


def format_table(result: Result) -> str:
    """One line a model; the last line is the figure."""
    chance = result["chance"]
    lines = [
        f"{result['cold_items']} of {result['items']} items held out of training; {result['users']} users whose last item is "
        "one of them",
        f"{'model':52} {'knows by':9} {'full catalogue':>24} {'x chance':>9} {'cold items only':>24} {'x chance':>9}"
        f" {'CPU s':>7}",
    ]
    for row in result["rows"]:
        cells = []
        for name in ("full", "cold"):
            shown = f"{row[name]:.4f} [{row[name + '_low']:.4f}, {row[name + '_high']:.4f}]"
            cells.append(f"{shown:>24} {row[name] / chance[name]:>9.1f}")
        lines.append(f"{row['model']:52} {row['by']:9} {cells[0]} {cells[1]} {row['cpu_seconds']:>7.1f}")
    best = max((row for row in result["rows"] if row["by"] == "content"), key=lambda row: row["full"])
    index = max((row for row in result["rows"] if row["by"] == "index"), key=lambda row: row["full"])
    lines.append(
        f"recall@{_CUT} of cold items in the full catalogue, chance {chance['full']:.5f}: by content {best['full']:.4f} "
        f"({best['full'] / chance['full']:.0f} x chance, {best['model']}), by index {index['full']:.4f}"
    )
    return "\n".join(lines)
