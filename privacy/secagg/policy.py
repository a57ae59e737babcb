"""What a client insists on in secure aggregation, whatever the server says (protocol §9)."""

from __future__ import annotations

from dataclasses import dataclass

from privacy.errors import InputError
from privacy.secagg.labels import MAX_COHORT, Suite
from privacy.secagg.schema import WORD_BITS

SMALLEST_COHORT = 3
MAX_ROUNDS_PER_EPOCH = 1000
MAX_WORDS = 1 << 27


def threshold_for(cohort_size: int) -> int:
    """The number of clients that must agree: floor(2n/3) + 1.

    With c < n/3 clients colluding with the server, 2t > n + c: no two disjoint views of the survivors
    can both gather t signatures (Bonawitz et al., CCS 2017, §6.2), and any t clients include at least
    t - c honest ones.
    """
    return 2 * cohort_size // 3 + 1


@dataclass(frozen=True)
class SecaggPolicy:
    """A client's own limits. Nothing a server sends can weaken them.

    Attributes:
        min_cohort: fewest clients a sum may cover, before and after dropouts. At least 3: of two
            clients, each could subtract its own part from the sum.
        max_cohort: most clients invited to one round; the complete graph of masks is meant for up to 50.
        max_words: longest vector.
        word_bits: word widths this client will send.
        retry_budget: how often an aborted round may be answered again for the same (task, model), where the
            caller says that its payload may be retried. A retry is a second answer: the server may have
            finished the first attempt without this client.
        refuse_sum_difference: refuse to complete a sum without noise whose survivors differ by exactly one
            client from any earlier such sum (So et al., AAAI 2023).
        suite: algorithms; a server asking for others is refused.
    """

    min_cohort: int = SMALLEST_COHORT
    max_cohort: int = 50
    max_words: int = MAX_WORDS
    word_bits: tuple[int, ...] = WORD_BITS
    retry_budget: int = 1
    refuse_sum_difference: bool = True
    suite: Suite = Suite.X25519_MLKEM768

    def __post_init__(self) -> None:
        if self.min_cohort < SMALLEST_COHORT:
            raise InputError(
                f"min_cohort={self.min_cohort}: a sum of fewer than {SMALLEST_COHORT} clients protects nobody"
            )
        if not self.min_cohort <= self.max_cohort <= MAX_COHORT:
            raise InputError(
                f"max_cohort={self.max_cohort} must lie in {self.min_cohort} (min_cohort) to {MAX_COHORT}"
            )
        if not 1 <= self.max_words <= MAX_WORDS:
            raise InputError(f"max_words={self.max_words} must lie in 1 to {MAX_WORDS}")
        if not set(self.word_bits) <= set(WORD_BITS):
            raise InputError(f"word_bits={self.word_bits} may hold 16, 32 and 64 only")
        if self.retry_budget < 0:
            raise InputError(f"retry_budget={self.retry_budget} must not be negative")
