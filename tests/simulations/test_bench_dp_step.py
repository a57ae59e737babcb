from __future__ import annotations

import numpy as np
import pytest
import torch

from privacy.errors import InputError
from privacy.user_gradients import Method
from simulations import bench_dp_step


def test_the_bench_measures_every_engine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_dp_step, "USERS", 6)
    result = bench_dp_step.run([300], rounds=3)
    rows = {row["engine"]: row for row in result["rows"]}
    assert list(rows) == ["no DP", "Opacus hooks", "ours", "ours, ghost", "ours, lazy noise"]
    assert rows["no DP"]["times_no_dp"] == 1.0
    assert all(row["ms"] > 0 and row["peak_mb"] > 0 for row in rows.values())
    assert "6 users" in bench_dp_step.format_table(result) and "ours, ghost" in bench_dp_step.format_table(
        result
    )


def test_hooks_are_left_out_where_they_do_not_fit():
    assert bench_dp_step._no_room(100) is None
    reason = bench_dp_step._no_room(10**9)
    assert reason is not None and "would need about 32768 GB" in reason


def test_shortfalls_take_the_better_of_dense_and_lazy_noise():
    rows = [
        {"items": 4000, "engine": "ours", "times_no_dp": 3.0, "memory_times_no_dp": 2.0},
        {"items": 4000, "engine": "ours, lazy noise", "times_no_dp": 2.1, "memory_times_no_dp": 1.5},
        {"items": 1_000_000, "engine": "ours", "times_no_dp": 9.0, "memory_times_no_dp": 2.0},
        {"items": 1_000_000, "engine": "ours, lazy noise", "times_no_dp": 1.3, "memory_times_no_dp": 1.5},
    ]
    assert bench_dp_step._shortfalls(rows) == ["1000000 items: 1.30 x the step without privacy, reach 1.2"]


@pytest.mark.parametrize(("lazy", "method"), [(False, "hooks"), (True, "hooks"), (False, "ghost")])
def test_our_step_moves_rows_and_encoder(lazy: bool, method: Method):
    given = bench_dp_step.problem(500)
    before, weights = given.table.clone(), [p.detach().clone() for p in given.encoder.parameters()]
    step = bench_dp_step.our_step(given, lazy=lazy, method=method)
    step()
    step()
    moved = (given.table != before).any(dim=1).numpy()
    read = np.unique(given.batch.item_ids.numpy())
    assert moved[read].all()
    assert moved.all() == (not lazy or read.size == 500)
    assert any(not torch.equal(p, w) for p, w in zip(given.encoder.parameters(), weights, strict=True))


def test_two_rounds_are_too_few():
    with pytest.raises(InputError, match="rounds=2"):
        bench_dp_step.run([100], rounds=2)
