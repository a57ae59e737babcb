"""The leak canary on a small built-in log: quiet under our sampler, loud under a leaky one."""

from __future__ import annotations

import numpy as np
import pytest

from privacy.errors import InputError
from recsys_models.data.dataset import Dataset
from recsys_models.data.splits import leave_last_out
from recsys_models.negatives import UntouchedSampler
from simulations.audits import leak
from simulations.synthetic import synthetic_log


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic_log(250, 300, seed=0)


def test_the_canary_is_quiet_here_and_fires_on_a_leak(data: Dataset) -> None:
    result = leak.run(data)
    ours, leaky, noise = result["rows"]
    assert abs(ours["hit@10"] - 0.1) <= 3 * np.sqrt(0.09 / 250)
    assert leaky["hit@10"] >= 0.5
    assert abs(noise["hit@10"] - 0.1) <= 3 * np.sqrt(0.09 / 250)
    assert result["ok"]
    assert leak.format_table(result).endswith("no leak, and the canary sees one")


@pytest.mark.parametrize("figure", [0.16, 0.04])
def test_a_figure_off_chance_fails_the_audit(
    figure: float, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leak, "alone", lambda *_args, **_kept: {"hit@10": figure, "ndcg@10": 0.1})
    monkeypatch.setattr(leak, "MUST_FIRE", 0.0)
    result = leak.run(data)
    assert [row["ok"] for row in result["rows"]] == [False, True, True]
    assert not result["ok"]
    assert "FAILS" in leak.format_table(result)


def test_no_number_passes_between_users(data: Dataset) -> None:
    split = leave_last_out(data.sequences)
    alone = leak.OwnTables(split.train, seed=1)
    alone.round(UntouchedSampler(split.train))
    start = leak.OwnTables(split.train, seed=1)
    items = np.arange(300)[None, :]
    drawn_by_nobody = 0
    for user in range(5):
        before = start._rows.view(250, 300, -1)[user]
        after = alone._rows.view(250, 300, -1)[user]
        moved = (before != after).any(dim=1).numpy()
        assert moved[split.train.of(user)].all()
        drawn_by_nobody += int((~moved).sum())
    assert drawn_by_nobody > 0, "items that a user neither has nor drew stay, whoever else trained on them"
    assert alone.scores(np.array([0]), items).shape == (1, 300)


def test_refuses_no_rounds(data: Dataset) -> None:
    with pytest.raises(InputError, match="0 rounds train nothing"):
        leak.run(data, rounds=0)
