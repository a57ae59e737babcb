"""Times reach the encoder wherever it computes: else it would be trained on others than it is asked with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys_models.encoders.hstu import HstuTrunk
from server.federation import Unwatched
from simulations.run import simulate
from simulations.synthetic import synthetic_log
from tests.tiny_federation import small_scenario

RECIPES: dict[str, dict[str, Any]] = {
    "private fit": {"fit.steps": 2, "fit.sampling_probability": 0.5},
    "ordinary fit": {"privacy.protect_within_client": False, "fit.epochs": 2, "model.reranker": "neumf"},
    "gradients": {"recipe": "gradients"},
    "without privacy": {"privacy.mode": "off", "recipe": "hybrid", "fit.epochs": 1, "gradients.min_users": 0},
}


@pytest.mark.parametrize(
    ("recipe", "has_times"), [*((name, True) for name in RECIPES), ("ordinary fit", False)]
)
def test_every_pass_knows_the_times_of_the_log(
    recipe: str, has_times: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[bool, set[bool]] = {True: set(), False: set()}
    forward = HstuTrunk.forward

    def noting(self: HstuTrunk, items: torch.Tensor, mask: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        is_guard = bool((times[mask] == 1.0).any())  # made-up users have made-up times, from one second
        if not is_guard:
            known[self.training].update(times[mask].isfinite().tolist())
        return forward(self, items, mask, times)

    monkeypatch.setattr(HstuTrunk, "forward", noting)
    data = synthetic_log(40, 40, seed=5)
    if not has_times:
        data = replace(data, sequences=replace(data.sequences, timestamps=None))
    scenario = small_scenario({"encoder": "hstu", "fit.steps": 0, **RECIPES[recipe]})
    report = simulate(scenario, tmp_path, Unwatched(), data=data)
    assert "refused" not in report
    assert report["lists"]
    assert known == {True: {has_times}, False: {has_times}}
