"""Settings that other frameworks have and this one refuses, each with the reason in one line.

Somebody who writes one of them in a scenario expects what it does elsewhere; "unknown setting" would not say why
it is missing. Every entry is a way in which a published epsilon has turned out to be untrue (``docs/privacy.md``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """What is refused and why.

    Attributes:
        setting: pattern of the dotted name, matched as a whole.
        value: pattern found anywhere in the value as text; "" matches every value.
        reason: one line, with what to do instead.
    """

    setting: str
    value: str
    reason: str


_ANYWHERE = r"(?:\w+\.)*"
_ROBUST = "krum|bulyan|median|trimmed|multi.?krum|flt?rust|zeno|norm.?bound|dnc"

REFUSALS = (
    Refusal(
        _ANYWHERE + r"(negatives_from|negative_sampling|negative_source|negatives)",
        r"batch",
        "in-batch negatives put one user's items into every other user's gradient, so clipping bounds nobody's share; "
        "negatives are drawn for each user from the released popularity (gradients.negatives)",
    ),
    Refusal(
        _ANYWHERE + r"(in_batch_negatives|inbatch_negatives|batch_negatives)",
        r"(?i)true|[1-9]",
        "in-batch negatives put one user's items into every other user's gradient, so clipping bounds nobody's share; "
        "negatives are drawn for each user from the released popularity (gradients.negatives)",
    ),
    Refusal(
        r"(federation|privacy)\.local_(steps|epochs|updates)|gradients\.local_(epochs|updates)|local_(steps|epochs|updates)",
        "",
        "several noisy local steps cannot share one distributed noise: the second step would start from weights that "
        "carry only a part of it; with privacy.noise = 'per_client' they are gradients.local_steps, and every one is charged",
    ),
    Refusal(
        _ANYWHERE + r"accountant",
        r"(?i)gdp|clt|central",
        "the central limit of Gaussian DP understates epsilon for sampled steps; epsilon is computed by privacy loss "
        "distributions and checked by a second method, there is nothing to choose",
    ),
    Refusal(
        _ANYWHERE + r"accountant",
        "",
        "epsilon is computed by privacy loss distributions and checked by a second method, there is nothing to choose",
    ),
    Refusal(
        _ANYWHERE + r"(server_optimizer|aggregator|aggregation|strategy|robust\w*)",
        rf"(?i){_ROBUST}",
        "robust aggregators compare single updates, and under secure aggregation the server never holds one; "
        "use fedavg or fedadam, every contribution is bounded by its clip norm",
    ),
    Refusal(
        _ANYWHERE + r"(batch_?norm\w*|normali[sz]ation|norm_layer|norm)",
        r"(?i)batch|true",
        "batch norm makes every user's state depend on all users of the batch, so that no user has a gradient of her "
        "own to clip; the encoders use layer norm",
    ),
    Refusal(
        _ANYWHERE + r"(normali[sz]e_by|normali[sz]er|divide_by|loss_reduction|reduction|weight_by|weighting)",
        "",
        "dividing by a private count makes the sensitivity depend on the data; sums are divided by the enrolled, "
        "rounded numbers of users, which are public",
    ),
    Refusal(
        r"gradients\.(encoder_noise|noise_on_encoder|protect_encoder|private_encoder|train_encoder_privately)",
        "",
        "an encoder trained without noise between the rounds carries one user into the gradients of the others; in "
        "gradient rounds its noise cannot be switched off, also with privacy.protect_within_client = false",
    ),
    Refusal(
        _ANYWHERE + r"(clip_per_layer|per_layer_clip\w*|clip_encoder|clip_tower)",
        "",
        "encoder and tower are trained together, so they are clipped as one vector (gradients.l2_clip_norm)",
    ),
    Refusal(
        _ANYWHERE
        + r"(secure_mode|poisson_sampling|target_epsilon_per_round|reset_budget\w*|epsilon_per_round)",
        "",
        "noise always comes from a cryptographic source, sampling is what is accounted, and the one budget is "
        "privacy.epsilon for everything that leaves",
    ),
)


def reason_for(setting: str, value: object) -> str | None:
    """Why a setting is refused.

    Args:
        setting: dotted name as written in the scenario.
        value: as written.

    Returns:
        The reason, or None for a setting nobody has thought of here.
    """
    text = str(value)
    for refusal in REFUSALS:
        if re.fullmatch(refusal.setting, setting) and re.search(refusal.value, text):
            return refusal.reason
    return None
