"""Rows of the quality table for the centralised twin of each encoder: trained as by the clients, but on all logs pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from recsys_models.encoder_sizes import EncoderSize
from recsys_models.encoders import ENCODERS, build_encoder
from recsys_models.negatives import FULL_SOFTMAX_ITEMS
from recsys_models.training import EncoderScorer, TrainingSettings, train_centrally
from simulations.central_rows import Row, Say, kept_row, plain_row
from simulations.protocols import Protocol

_NEGATIVES = 512
_DROPOUT = 0.2
TWIN_SETTINGS = TrainingSettings(epochs=40, batch_size=32, look_every=2, patience=8, device="cpu")
LARGE_TWIN_SETTINGS = replace(TWIN_SETTINGS, epochs=22, batch_size=64)
"""Where there are more than :data:`_MANY_EVENTS`: fewer, larger passes."""
_MANY_EVENTS = 500_000
_REVISIONS = {"hstu": 2}
"""Part of the names of an encoder's kept rows: raise it when the encoder computes something else at unchanged settings."""


def twin_rows(
    protocol: Protocol,
    encoders: Sequence[str],
    folder: Path,
    say: Say,
    *,
    size: EncoderSize,
    length: int,
    seeds: int = 1,
) -> list[Row]:
    """One row an encoder: its architecture at the federation's size, trained on all logs pooled, without noise.

    Args:
        protocol: data set and split.
        encoders: names, or ``all``, or ``none``.
        folder: where finished rows are kept, one a seed.
        say: one line after each look at the validation, and after each row.
        size: of the federation's encoders; its dropout is not read: the twin has one of its own, as a client's fit has.
        length: of the federation's windows.
        seeds: 1, 2, ... up to this many for each encoder; the row shows their mean.
    """
    settings = LARGE_TWIN_SETTINGS if protocol.train.n_events > _MANY_EVENTS else TWIN_SETTINGS
    if protocol.train.catalogue.n_items > FULL_SOFTMAX_ITEMS:
        settings = replace(settings, negatives=_NEGATIVES)
    names = ENCODERS if list(encoders) == ["all"] else [name for name in encoders if name != "none"]
    rows: list[Row] = []
    for name in names:
        twin = _Twin(name, protocol, settings, size, length, say)
        rows.append(_mean(protocol, [twin.row(seed, folder) for seed in range(1, seeds + 1)]))
    return rows


def _mean(protocol: Protocol, rows: list[Row]) -> Row:
    first = [row[protocol.metrics[0]] for row in rows]
    return rows[0] | {
        "seeds": len(rows),
        **{name: float(np.mean([row[name] for row in rows])) for name in protocol.metrics},
        "spread": max(first) - min(first) if len(rows) > 1 else None,
    }


class _Twin:
    """One encoder, to be trained from several seeds."""

    def __init__(
        self,
        name: str,
        protocol: Protocol,
        settings: TrainingSettings,
        size: EncoderSize,
        length: int,
        say: Say,
    ) -> None:
        self._name, self._protocol, self._settings = name, protocol, settings
        self._size, self._length, self._say = size, length, say

    def row(self, seed: int, folder: Path) -> Row:
        """The row of one seed, from its kept file if it was finished before."""
        key: Row = {
            "method": self._name,
            "settings": asdict(self._settings),
            "size": asdict(self._size),
            "length": self._length,
            "dropout": _DROPOUT,
            "seed": seed,
        }
        if self._name in _REVISIONS:
            key["encoder_revision"] = _REVISIONS[self._name]
        return kept_row(folder, self._protocol, key, lambda: self._trained(seed), self._say)

    def _trained(self, seed: int) -> Row:
        protocol, size = self._protocol, self._size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Item vectors of about unit length, brought to unit variance for the trunk.
            tower = nn.Embedding(protocol.train.catalogue.n_items, size.dim)
            nn.init.normal_(tower.weight, std=size.dim**-0.5)
            encoder = build_encoder(
                self._name,
                size.dim,
                max_length=self._length,
                blocks=size.blocks,
                heads=size.heads,
                dropout=_DROPOUT,
                start="random",
                input_scale=size.dim**0.5,
            )
            scorer = EncoderScorer(encoder, tower.weight.detach())
            training = train_centrally(
                encoder,
                tower,
                protocol.train,
                self._settings,
                np.random.default_rng(seed),
                validate=(lambda: protocol.validation(scorer)) if protocol.has_validation else None,
                say=lambda line: self._say(f"{self._name} (central), seed {seed}: {line}"),
            )
        return {**plain_row(self._name, scorer, protocol), "epochs": training.best_epoch}
