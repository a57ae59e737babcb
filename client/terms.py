"""The numbers of a release, as a client computes them for itself."""

from __future__ import annotations

from client.public_state import PublicState
from privacy.accounting.plan import FederationPlan
from privacy.release_terms import ReleaseTerms, release_terms
from recsys_models.release_shapes import release_shape


def agreed_terms(plan: FederationPlan, name: str, public: PublicState) -> ReleaseTerms:
    """What the agreed plan and the published head items make of a release; the server is asked for none of it.

    Raises:
        InputError: the plan has no such release.
        DataError: the release is of a kind that nothing is known of.
    """
    shape = release_shape(
        plan.release(name).kind,
        n_items=public.n_items,
        head=len(public.head),
        settings=plan.settings,
        private=plan.private,
    )
    return release_terms(plan, name, shape)
