from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pydantic
import pytest

from client.policy import ClientPolicy
from privacy.errors import PolicyRefusal
from tests.privacy.accounting.test_plan import plan

CATALOGUE = "cd" * 32
RELEASES = plan().releases
TEN = tuple("abcdefghij")


def check(policy: ClientPolicy, *, users: int = 50, catalogue: str = CATALOGUE, **changes: Any) -> None:
    policy.check(plan(**changes), catalogue_sha256=catalogue, users=users)


def test_an_ordinary_plan_is_agreed_to() -> None:
    check(ClientPolicy())
    check(ClientPolicy(), noise="per_client", colluding=0)
    check(ClientPolicy(), cohort=TEN, colluding=2)
    check(ClientPolicy(min_colluding=1), cohort=TEN, colluding=1)
    check(ClientPolicy(allow_privacy_off=True), private=False)
    check(ClientPolicy(allow_unprotected_encoder=True), protect_within_client=False)
    sampled = replace(RELEASES[0], kind="gradients", sampling_probability=0.5)
    check(ClientPolicy(), releases=(sampled, RELEASES[1]))


@pytest.mark.parametrize(
    ("code", "policy", "changes"),
    [
        ("catalogue-mismatch", {}, {"catalogue_sha256": "00" * 32}),
        ("cohort-too-small", {}, {"cohort": ("a", "b"), "noise": "per_client"}),
        ("cohort-too-small", {"min_cohort": 6}, {}),
        ("too-many-users", {}, {"max_users": 49}),
        ("privacy-off-forbidden", {}, {"private": False}),
        ("delta-above-policy", {}, {"target_delta": 1e-4}),
        ("unprotected-encoder-forbidden", {}, {"protect_within_client": False}),
        ("too-few-colluders-assumed", {}, {"colluding": 0}),
        ("too-few-colluders-assumed", {"min_colluding": 2}, {}),
        ("too-few-colluders-assumed", {}, {"cohort": TEN, "colluding": 1}),
        (
            "release-misdescribed",
            {},
            {"releases": (RELEASES[0], replace(RELEASES[1], left_the_client=False))},
        ),
        ("release-misdescribed", {}, {"releases": (replace(RELEASES[0], kind="fit"),)}),
        ("epsilon-above-policy", {}, {"epsilon": 8.5}),
        ("epsilon-above-policy", {"max_epsilon": 2.0}, {}),
        ("plan-incomplete", {}, {"releases": (replace(RELEASES[0], noise_multiplier=None),)}),
        ("plan-incomplete", {}, {"releases": (replace(RELEASES[0], noise_multiplier=-1.0),)}),
        ("plan-incomplete", {}, {"releases": (replace(RELEASES[0], noise_multiplier=math.nan),)}),
        ("plan-incomplete", {}, {"releases": (replace(RELEASES[0], steps=0),)}),
        (
            "release-without-noise",
            {},
            {"releases": (RELEASES[0], replace(RELEASES[1], noise_multiplier=0.0))},
        ),
        (
            "sampling-not-executed",
            {},
            {"releases": (RELEASES[0], replace(RELEASES[1], sampling_probability=0.01))},
        ),
    ],
)
def test_every_refusal_has_its_code(code: str, policy: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(PolicyRefusal) as refusal:
        check(ClientPolicy(**policy), **changes)
    assert refusal.value.reason_code == code


def test_nothing_looser_than_three_clients_can_be_configured() -> None:
    for wrong in (
        {"min_cohort": 2},
        {"max_epsilon": 0.0},
        {"max_epsilon": math.nan},
        {"max_epsilon": math.inf},
        {"delta": 1.0},
        {"delta": math.nan},
        {"min_colluding": -1},
        {"max_epsilom": 3.0},
    ):
        with pytest.raises(pydantic.ValidationError):
            ClientPolicy(**wrong)
