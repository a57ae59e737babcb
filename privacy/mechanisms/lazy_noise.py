"""Noise for a large table of which a step reads few rows: drawn when a row is read, not when it is owed.

LazyDP (Lim et al., "LazyDP: Co-Designing Algorithm-Software for Scalable Training of Differentially Private
Recommendation Models", ASPLOS 2024, Section 5). Dense noise on a million rows costs more than everything else in a
step, and nobody looks at most of them. A row that has not been read for k steps is owed the sum of k independent
draws; that sum has a law of its own, from which one draw (here: one per bit of k) is enough.

Where it applies:

* One party holds the noised table and adds all of the noise: a client's own fit of a large table, or
  ``per_client`` noise on a table that stays at the client.
* The step is linear in the noise with the same factor each time (SGD with a constant rate, no momentum, no decay
  on the noised rows); otherwise the owed draws do not simply add up.
* Every row is settled before it is read, and all rows before the table is published or measured.

Where it does not apply:

* Noise that is distributed over clients and summed under secure aggregation. The sum is dense words: what a client
  leaves out, nobody else adds, and *which* rows it leaves out would tell the server what its users touched.
* Releases in which every row is published after every step, such as this federation's tower.
* Against somebody who can watch memory or time on the machine that trains: the rows read are visible there.

Law: the sum of 2^b draws from the discrete Gaussian of scale sigma >= 3 is, within a factor of exp(+-tau), tau < 1e-34,
the discrete Gaussian of scale sigma * 2^(b/2) (Kairouz, Liu, Steinke 2021, Theorem 1; the module ``discrete_gaussian``
uses the same fact for shares). k draws are therefore one draw for every bit of k.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privacy.errors import InputError
from privacy.mechanisms.discrete_gaussian import MAX_SIGMA, MIN_SHARE_SIGMA, sample
from privacy.randomness import RandomSource

Integers = NDArray[np.int64]


class LazyNoise:
    """What each row of a table is owed, and the draws that settle it.

    Args:
        rows: of the table.
        width: entries of a row.
        sigma: scale of one step's noise in grid steps, 3..2^17.
        randomness: source of the noise.

    Raises:
        InputError: a size is not positive, or sigma is NaN or out of range.
    """

    def __init__(self, rows: int, width: int, sigma: float, randomness: RandomSource) -> None:
        if rows < 1 or width < 1:
            raise InputError(f"a table of {rows} x {width} has no rows to noise")
        if not MIN_SHARE_SIGMA <= sigma <= MAX_SIGMA:
            raise InputError(f"sigma={sigma} is outside 3..2^17 grid steps: choose another unit")
        self._width = width
        self._sigma = sigma
        self._randomness = randomness
        self._steps = 0
        self._settled_at = np.zeros(rows, dtype=np.int32)
        # Beyond this many doublings the scale leaves the sampler's range; larger debts take several draws.
        self._most_doublings = int(np.floor(2.0 * np.log2(MAX_SIGMA / sigma)))

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return self._steps

    def step(self) -> None:
        """One step has been taken: every row is owed one draw more. Costs nothing."""
        self._steps += 1

    def settle(self, rows: Integers) -> Integers:
        """The noise these rows are owed, drawn now; they owe nothing afterwards.

        Args:
            rows: row numbers, none twice. Those about to be read by the next step.

        Returns:
            ``[len(rows), width]`` grid steps, to be added to the rows.

        Raises:
            InputError: a row is named twice, which would pay it twice.
        """
        if rows.size > 1 and not (np.diff(np.sort(rows)) > 0).all():
            raise InputError("a row is named twice: settle each row once")
        owed = (self._steps - self._settled_at[rows]).astype(np.int64)
        self._settled_at[rows] = self._steps
        noise = np.zeros((rows.size, self._width), dtype=np.int64)
        doublings = 0
        while owed.any():
            last = doublings == self._most_doublings
            draws = owed if last else owed & 1
            while draws.any():
                due = np.flatnonzero(draws)
                scale = self._sigma * 2.0 ** (doublings / 2)
                drawn = sample(scale, due.size * self._width, self._randomness)
                noise[due] += drawn.reshape(due.size, self._width)
                draws = np.maximum(draws - 1, 0)
            owed = np.zeros_like(owed) if last else owed >> 1
            doublings += 1
        return noise

    def settle_all(self) -> Integers:
        """Everything owed, ``[rows, width]``: before the table is published, measured or saved."""
        return self.settle(np.arange(self._settled_at.size, dtype=np.int64))
