from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from privacy.accounting.plan import FederationPlan, choose_noise
from privacy.accounting.schedule import ScheduledRelease
from privacy.errors import InputError


def plan(**changes: Any) -> FederationPlan:
    """A small plan of five clients."""
    made = FederationPlan(
        session="ab" * 16,
        cohort=("a", "b", "c", "d", "e"),
        releases=(
            ScheduledRelease("popularity", "popularity", 0.5, noise_multiplier=2.0),
            ScheduledRelease("metrics-final", "metrics", 0.5, noise_multiplier=3.0),
        ),
        epsilon=8.0,
        target_delta=1e-5,
        private=True,
        noise="distributed",
        colluding=1,
        protect_within_client=True,
        catalogue_sha256="cd" * 32,
        max_users=100,
        settings={"dim": 8, "fit": {"steps": 4}},
    )
    return replace(made, **changes)


def test_a_plan_survives_json() -> None:
    document = json.loads(json.dumps(plan().to_json()))
    assert FederationPlan.from_json(document) == plan()
    assert FederationPlan.from_json(document).sha256 == plan().sha256


@pytest.mark.parametrize(
    "changes",
    [
        {"session": "ac" * 16},
        {"cohort": ("a", "b", "c", "d", "f")},
        {"releases": plan().releases[:1]},
        {"releases": plan().releases[::-1]},
        {"releases": (replace(plan().releases[0], noise_multiplier=1.9), plan().releases[1])},
        {"releases": (replace(plan().releases[0], steps=2), plan().releases[1])},
        {"releases": (replace(plan().releases[0], sampling_probability=0.5), plan().releases[1])},
        {"releases": (replace(plan().releases[0], left_the_client=False), plan().releases[1])},
        {"releases": (replace(plan().releases[0], kind="statistics"), plan().releases[1])},
        {"epsilon": 7.0},
        {"target_delta": 1e-6},
        {"private": False},
        {"noise": "per_client"},
        {"colluding": 2},
        {"protect_within_client": False},
        {"catalogue_sha256": "ce" * 32},
        {"max_users": 101},
        {"settings": {"dim": 8, "fit": {"steps": 5}}},
    ],
)
def test_the_hash_changes_with_every_field(changes: dict[str, Any]) -> None:
    assert plan(**changes).sha256 != plan().sha256
    (field,) = changes
    assert field in FederationPlan.__dataclass_fields__


def test_every_field_is_in_the_test_above_and_in_the_json() -> None:
    assert set(plan().to_json()) == set(FederationPlan.__dataclass_fields__)


@pytest.mark.parametrize(
    ("clients", "threshold"), [(3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (9, 7), (10, 7), (50, 34)]
)
def test_threshold_and_honest_survivors(clients: int, threshold: int) -> None:
    cohort = tuple(f"{k:02d}" for k in range(clients))
    per_client = plan(cohort=cohort, noise="per_client", colluding=5)
    assert (per_client.threshold, per_client.honest_survivors) == (threshold, 1)
    for colluding in range(threshold - 1):
        assert plan(cohort=cohort, colluding=colluding).honest_survivors == threshold - colluding
    with pytest.raises(InputError, match=r"leaves 1 honest survivors .* use noise = 'per_client'"):
        plan(cohort=cohort, colluding=threshold - 1)


def test_releases_are_found_by_name_and_are_the_events() -> None:
    assert plan().release("metrics-final").noise_multiplier == 3.0
    assert [e.name for e in plan().events()] == ["popularity", "metrics-final"]
    assert plan(private=False).events() == ()
    with pytest.raises(
        InputError, match=r"release 'gradients' is not in the plan \(popularity, metrics-final\)"
    ):
        plan().release("gradients")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"releases": (plan().releases[0], plan().releases[0])}, r"names repeat: \['popularity'\]"),
        ({"noise": "none"}, "noise='none' is none of distributed, per_client"),
        ({"colluding": -3}, "colluding=-3 of the plan is not an integer"),
        ({"colluding": 0.5}, "colluding=0.5"),
        ({"max_users": 0}, "max_users=0"),
        ({"epsilon": math.nan}, "epsilon=nan"),
        ({"epsilon": -1.0}, "epsilon=-1.0"),
        ({"epsilon": "8"}, "epsilon='8'"),
        ({"target_delta": 1.0}, "target_delta=1.0"),
        ({"private": 0}, "private=0"),
        ({"protect_within_client": "no"}, "protect_within_client='no'"),
    ],
)
def test_plans_that_would_mean_less_noise_than_they_say_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan(**changes)


def test_unknown_and_missing_fields_are_refused() -> None:
    for document in ({**plan().to_json(), "extra": 1}, {"session": "ab"}):
        with pytest.raises(InputError, match=r"plan fields .* differ from the known"):
            FederationPlan.from_json(document)


@pytest.mark.parametrize(
    ("requested", "clients", "colluding", "chosen"),
    [
        ("auto", 3, None, ("per_client", 1)),
        ("auto", 4, None, ("per_client", 1)),
        ("auto", 5, None, ("distributed", 1)),
        ("auto", 20, None, ("distributed", 4)),
        ("auto", 20, 7, ("distributed", 7)),
        ("auto", 20, 0, ("distributed", 0)),
        ("distributed", 5, None, ("distributed", 1)),
        ("per_client", 20, None, ("per_client", 4)),
    ],
)
def test_where_the_noise_goes(requested: Any, clients: int, colluding: int | None, chosen: object) -> None:
    assert choose_noise(requested, clients, colluding) == chosen


@pytest.mark.parametrize("clients", [3, 4])
def test_shared_noise_among_few_is_refused(clients: int) -> None:
    with pytest.raises(InputError, match=f"'distributed' with {clients} clients.*use noise = 'per_client'"):
        choose_noise("distributed", clients, None)
