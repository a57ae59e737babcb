"""What this client will agree to, whatever the server asks."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from privacy.accounting.accountant import epsilon
from privacy.accounting.plan import FederationPlan, assumed_colluders
from privacy.errors import InputError, PolicyRefusal

SAMPLED_KINDS = ("gradients", "fit")
"""Kinds of release in which a client draws its users; a sampling probability of any other would lower epsilon only on paper."""


LOCAL_KIND = "fit"
"""The one kind whose result stays here; any other that claimed so would be left out of epsilon for outsiders."""


class ClientPolicy(BaseModel):
    """Limits set by whoever holds the logs; no message can weaken them.

    Attributes:
        max_epsilon: most this client's users may be exposed to, over everything its ledger holds.
        delta: at which ``max_epsilon`` is meant; a plan with a larger delta is refused.
        min_cohort: fewest clients whose sum may be formed.
        allow_privacy_off: whether releases without noise are answered at all.
        allow_unprotected_encoder: whether the encoder may be fitted without noise, which exposes users of this client to
            each other (not to anybody outside).
        min_colluding: clients that must at least be assumed to collude when noise is shared; None, which is what planners
            assume as well: a fifth of the cohort, at least one.
        min_group_users: fewest users of an activity group that the server may report on (detailed metrics).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_epsilon: Annotated[float, Field(gt=0.0)] = 8.0
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-5
    min_cohort: Annotated[int, Field(ge=3)] = 3
    allow_privacy_off: bool = False
    allow_unprotected_encoder: bool = False
    min_colluding: Annotated[int, Field(ge=0)] | None = None
    min_group_users: Annotated[int, Field(ge=1)] = 20

    def check(self, plan: FederationPlan, *, catalogue_sha256: str, users: int) -> None:
        """Agree to a plan, or say why not.

        Args:
            plan: as received.
            catalogue_sha256: hex hash of this client's catalogue.
            users: most users that may stand behind the enrolled, rounded number.

        Raises:
            PolicyRefusal: with a reason code that may be sent to the server.
        """
        if plan.catalogue_sha256 != catalogue_sha256:
            raise PolicyRefusal(
                "catalogue-mismatch", "the plan is for another item catalogue than this client's"
            )
        if len(plan.cohort) < self.min_cohort:
            raise PolicyRefusal(
                "cohort-too-small", f"{len(plan.cohort)} clients; at least {self.min_cohort} required"
            )
        if users > plan.max_users:
            raise PolicyRefusal("too-many-users", f"the plan holds at most {plan.max_users} users a client")
        self._check_groups(plan)
        if not plan.private:
            if not self.allow_privacy_off:
                raise PolicyRefusal(
                    "privacy-off-forbidden", "the plan adds no noise; this client's policy forbids that"
                )
            return
        self._check_budget(plan)

    def _check_groups(self, plan: FederationPlan) -> None:
        """The server reads the sums of every group; what it may report of them is agreed before they are made."""
        if not any(release.kind == "metrics-detail" for release in plan.releases):
            return
        try:
            least = int(plan.settings["evaluation"]["min_group_users"])
        except (KeyError, TypeError, ValueError):
            raise PolicyRefusal("plan-incomplete", "the plan does not say what it means by a group") from None
        if least < self.min_group_users:
            raise PolicyRefusal(
                "group-too-small", f"groups from {least} users; at least {self.min_group_users} required"
            )

    def _check_budget(self, plan: FederationPlan) -> None:
        if plan.target_delta > self.delta:
            raise PolicyRefusal("delta-above-policy", f"delta {plan.target_delta} exceeds {self.delta}")
        if not plan.protect_within_client and not self.allow_unprotected_encoder:
            raise PolicyRefusal("unprotected-encoder-forbidden", "the plan fits encoders without noise")
        least = assumed_colluders(len(plan.cohort)) if self.min_colluding is None else self.min_colluding
        if plan.noise == "distributed" and plan.colluding < least:
            raise PolicyRefusal("too-few-colluders-assumed", f"{plan.colluding} assumed, {least} required")
        if plan.epsilon > self.max_epsilon:
            raise PolicyRefusal(
                "epsilon-above-policy", f"budget {plan.epsilon} exceeds this client's {self.max_epsilon}"
            )
        try:
            events = plan.events()
        except InputError as error:
            raise PolicyRefusal("plan-incomplete", str(error)) from None
        # A plan may be more than its budget covers: then the ledger refuses at that release, not here.
        if any(event.noise_multiplier == 0.0 for event in events):
            raise PolicyRefusal("release-without-noise", "a release of a private plan carries no noise")
        if any(r.sampling_probability != 1.0 and r.kind not in SAMPLED_KINDS for r in plan.releases):
            raise PolicyRefusal(
                "sampling-not-executed", "the plan accounts for a sampling that no client does"
            )
        if any(r.left_the_client is not (r.kind != LOCAL_KIND) for r in plan.releases):
            raise PolicyRefusal(
                "release-misdescribed",
                "the plan misstates which releases leave the client: all but the fit do",
            )
        if events and not epsilon(events[:1], plan.target_delta) < float("inf"):
            raise PolicyRefusal("release-without-bound", "the first release has no finite epsilon")
