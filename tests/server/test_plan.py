from __future__ import annotations

from typing import Any

import pytest

from client.plan_settings import check_settings
from privacy.accounting.accountant import epsilon
from privacy.accounting.plan import FederationPlan
from privacy.errors import InputError, PolicyRefusal
from privacy.wire.federation import most_behind, round_to_two_digits
from server.plan import fit_steps, gradient_rounds, head_items, make_plan, notices, popularity_share
from server.scenario import Scenario, override
from tests.tiny_federation import small_scenario

FIVE = {f"c{k}": 400 for k in range(5)}


def planned(changes: dict[str, Any] | None = None, users_of: dict[str, int] | None = None) -> FederationPlan:
    return make_plan(
        small_scenario(changes),
        session="00" * 16,
        users_of=users_of or FIVE,
        n_items=500,
        catalogue_sha256="11" * 32,
    )


def names(plan: FederationPlan) -> list[str]:
    return [release.name for release in plan.releases]


@pytest.mark.parametrize(
    ("changes", "users", "releases"),
    [
        ({}, 60, ["popularity", "statistics", "metrics-statistics", "metrics-final"]),
        (
            {"recipe": "hybrid", "fit.steps": 1},
            60,
            ["popularity", "statistics", "metrics-statistics", "fit", "metrics-final"],
        ),
        (
            {"recipe": "hybrid", "gradients.sampling_probability": 1.0},
            Scenario().gradients.min_users // 5,
            [
                "popularity",
                "statistics",
                "metrics-statistics",
                "gradients",
                "metrics-gradients",
                "metrics-final",
            ],
        ),
        (
            {"recipe": "hybrid", "privacy.mode": "off", "fit.steps": 9, "gradients.min_users": 300},
            60,
            [
                "popularity",
                "statistics",
                "metrics-statistics",
                "gradients",
                "metrics-gradients",
                "metrics-final",
            ],
        ),
        (
            {"recipe": "gradients", "gradients.sampling_probability": 1.0},
            60,
            ["popularity", "gradients", "metrics-gradients", "metrics-final"],
        ),
        (
            {"fit.steps": 1, "privacy.protect_within_client": False},
            60,
            ["popularity", "statistics", "metrics-statistics", "metrics-final"],
        ),
    ],
)
def test_which_releases_a_recipe_makes(changes: dict[str, Any], users: int, releases: list[str]) -> None:
    plan = planned(changes, dict.fromkeys(FIVE, users))
    assert names(plan) == releases
    assert all(r.left_the_client == (r.kind != "fit") for r in plan.releases)


def test_a_plan_spends_its_budget() -> None:
    for budget in (0.5, 8.0):
        plan = planned({"privacy.epsilon": budget})
        assert 0.99 * budget <= epsilon(plan.events(), plan.target_delta) <= budget
        assert plan.epsilon == budget


def test_only_kinds_that_draw_users_are_sampled() -> None:
    plan = planned({"recipe": "hybrid", "fit.steps": 1, "gradients.rounds": 1, "gradients.min_users": 0})
    assert {r.name for r in plan.releases if r.sampling_probability < 1.0} == {"gradients", "fit"}


@pytest.mark.parametrize("tower", ["content", "fusion"])
def test_a_map_of_content_is_refused_where_there_are_too_few_users_to_train_it(tower: str) -> None:
    asked: dict[str, Any] = {"recipe": "hybrid", "model.item_tower": tower, "gradients.min_users": 2001}
    with pytest.raises(InputError, match=r"min_users = 2,001 users on, here 2,000: use recipe = 'gradients'"):
        planned(asked)
    assert "gradients" in names(planned({**asked, "gradients.min_users": 2000}))


def test_what_was_asked_of_rounds_that_are_left_out_is_said_with_the_cure() -> None:
    asked: dict[str, Any] = {
        "recipe": "hybrid",
        "gradients.loss": "bpr",
        "gradients.server_optimizer": "fedavg",
    }
    scenario = override(Scenario(), asked)
    (line,) = notices(scenario, 99_999)
    for part in (
        "Not used: gradients.loss = 'bpr', gradients.server_optimizer = 'fedavg'.",
        "gradients.min_users = 100,000 users on, here 99,999",
        "gradients.min_users = 0 or recipe = 'gradients'",
    ):
        assert part in line
    assert not notices(scenario, 100_000)
    for used in ({"recipe": "gradients"}, {"gradients.min_users": 0}):
        assert not notices(override(scenario, used), 2000)
    assert not notices(override(Scenario(), {"gradients.min_users": 5000}), 2000)


def test_popularity_has_a_larger_share_of_little_budget() -> None:
    few = [popularity_share(override(Scenario(), {"privacy.epsilon": e}), 943) for e in (0.1, 1.0, 4.0, 8.0)]
    assert few == sorted(few, reverse=True)
    assert few[0] == 0.4
    assert few[-1] == 0.08
    assert 0.3 < few[1] < 0.4
    assert popularity_share(override(Scenario(), {"privacy.mode": "off"}), 5) == 0.08
    assert popularity_share(override(Scenario(), {"shares.popularity": 0.01}), 5) == 0.01


def test_the_blend_to_begin_with_follows_from_public_facts() -> None:
    assert planned({"privacy.epsilon": 1.0}).settings["blend"] == "popular items"
    assert planned({"privacy.mode": "off"}).settings["blend"] == "transitions"


def test_without_privacy_there_is_no_noise_no_sampling_and_no_small_clip_norm() -> None:
    plan = planned({"privacy.mode": "off", "recipe": "hybrid"})
    assert {r.noise_multiplier for r in plan.releases} == {0.0}
    assert {r.sampling_probability for r in plan.releases} == {1.0}
    assert plan.settings["gradients"]["sampling_probability"] == 1.0
    assert plan.settings["gradients"]["l2_clip_norm"] > 100
    assert not plan.private


def test_fixed_noise_is_taken_and_unknown_names_are_refused() -> None:
    plan = planned({"privacy.noise_multipliers": {"statistics": 0.1}})
    assert plan.release("statistics").noise_multiplier == 0.1
    assert epsilon(plan.events(), plan.target_delta) > 8.0  # the ledger refuses, not the plan
    with pytest.raises(
        InputError, match=r"names \['statstics'\]; the releases of this plan are \['popularity'"
    ):
        planned({"privacy.noise_multipliers": {"statstics": 0.1}})


@pytest.mark.parametrize(("clients", "noise"), [(3, "per_client"), (4, "per_client"), (5, "distributed")])
def test_noise_goes_where_few_clients_need_it(clients: int, noise: str) -> None:
    assert planned(users_of={f"c{k}": 50 for k in range(clients)}).noise == noise


def test_fewer_than_three_clients_are_no_federation() -> None:
    with pytest.raises(
        InputError, match=r"2 clients enrolled; federation.min_clients = 3: start more clients"
    ):
        planned(users_of={"a": 10, "b": 10})


@pytest.mark.parametrize("users", [0, 1, 9, 10, 99, 100, 101, 999, 1000, 1987, 12_345, 99_999])
def test_rounded_numbers_leave_room_for_the_true_one(users: int) -> None:
    rounded = max(1, round_to_two_digits(users))
    assert users <= most_behind(rounded) <= max(users * 1.2, users + 2)
    assert planned(users_of={"a": rounded, "b": 1, "c": 1}).max_users == most_behind(rounded)


def test_the_cohort_is_sorted_and_its_users_are_added() -> None:
    plan = planned(users_of={"b": 7, "a": 5, "c": 3})
    assert plan.cohort == ("a", "b", "c")
    assert plan.settings["users"] == 15


def test_head_items_follow_from_public_numbers() -> None:
    default = small_scenario().model_copy(update={"statistics": Scenario().statistics})
    assert head_items(default, 3000, 10_000) == 500
    assert head_items(default, 60, 10_000) == 50
    assert head_items(default, 60, 40) == 40
    assert head_items(default, 10**6, 10_000) == 4000
    weaker = default.model_copy(update={"privacy": default.privacy.model_copy(update={"epsilon": 2.0})})
    assert head_items(weaker, 3000, 10_000) == 250
    assert head_items(small_scenario({"privacy.mode": "off"}), 60, 40) == 20
    assert head_items(small_scenario({"statistics.head": 99}), 60, 40) == 40


def test_default_lengths_of_training() -> None:
    assert gradient_rounds(Scenario()) < gradient_rounds(Scenario(recipe="gradients"))
    assert fit_steps(small_scenario({"fit.steps": 3})) == 3
    assert fit_steps(Scenario()) > 0


def test_a_softmax_over_too_many_items_is_refused_with_the_reason() -> None:
    changes = {"recipe": "hybrid", "gradients.loss": "softmax", "statistics.head": 10_001}
    with pytest.raises(InputError, match="a row for each of them, and more than 10,000 do not fit"):
        make_plan(
            small_scenario(changes),
            session="00" * 16,
            users_of=FIVE,
            n_items=20_000,
            catalogue_sha256="11" * 32,
        )


def test_a_catalogue_too_large_for_a_matrix_is_found_by_its_subspace() -> None:
    def planned_for(n_items: int, users: int, changes: dict[str, Any]) -> FederationPlan:
        return make_plan(
            override(Scenario(), {"recipe": "statistics", "privacy.protect_within_client": False} | changes),
            session="00" * 16,
            users_of={f"c{k}": users // 5 for k in range(5)},
            n_items=n_items,
            catalogue_sha256="11" * 32,
        )

    off = {"privacy.mode": "off"}
    cases = [
        (4000, 2000, off, "matrix"),
        (4001, 2000, off, "subspace"),
        (20_000, 2000, {}, "matrix"),  # so few users: the noise allows a head of 333
        (20_000, 100_000, {}, "subspace"),
        (20_000, 100_000, {"privacy.epsilon": 0.1}, "matrix"),
        (300, 2000, {"statistics.method": "subspace"}, "subspace"),
        (20_000, 2000, {**off, "statistics.head": 500}, "matrix"),
    ]
    for n_items, users, changes, method in cases:
        plan = planned_for(n_items, users, changes)
        kinds = [release.kind for release in plan.releases]
        assert ("statistics-subspace" in kinds) == (method == "subspace"), (n_items, users, changes)
        assert "statistics" in kinds  # transitions come from the head in either case
        assert (plan.settings["subspace_rank"] > 0) == (method == "subspace")
        # A matrix gives the tower of its transitions; the Gram part of a subspace has releases of its own.
        assert plan.settings["gram_share"] == 0.0
        check_settings(plan.settings, protects_within_client=plan.private)
    plan = planned_for(300, 2000, {"statistics.method": "subspace", "statistics.gram_share": 0.25})
    shares = {release.name: release.share for release in plan.releases}
    assert shares["statistics"] == pytest.approx(3 * shares["statistics-subspace"])
    assert plan.release("statistics-subspace").steps == 3
    assert planned({}).release("statistics").share == pytest.approx(
        sum(shares[n] for n in ("statistics", "statistics-subspace"))
    )
    half = planned_for(300, 2000, {"statistics.method": "subspace"})
    shares = {release.name: release.share for release in half.releases}
    assert shares["statistics"] == pytest.approx(shares["statistics-subspace"])
    matrix = planned_for(300, 2000, {"statistics.gram_share": 0.25})
    assert matrix.settings["gram_share"] == 0.25


def test_a_fit_is_planned_as_the_scenario_says() -> None:
    fit = planned({"fit.epochs": 7, "fit.dropout": 0.3, "fit.own_items": False}).settings["fit"]
    assert (fit["epochs"], fit["dropout"], fit["own_items"]) == (7, 0.3, False)
    fit = planned().settings["fit"]
    assert (fit["epochs"], fit["dropout"], fit["own_items"]) == (20, 0.2, True)


@pytest.mark.parametrize(
    "fit",
    [
        {"epochs": -1},
        {"epochs": 10_001},
        {"dropout": 0.91},
        {"dropout": -0.1},
        {"dropout": float("nan")},
        {"own_items": "sometimes"},
    ],
    ids=str,
)
def test_a_fit_out_of_range_is_refused_by_server_and_client(fit: dict[str, Any]) -> None:
    (name,) = fit
    with pytest.raises(InputError, match=rf"fit\.{name}"):
        small_scenario({f"fit.{name}": fit[name]})
    settings = planned().settings
    check_settings(settings, protects_within_client=True)
    with pytest.raises(PolicyRefusal, match=rf"fit\.{name}"):
        check_settings({**settings, "fit": {**settings["fit"], **fit}}, protects_within_client=True)
