"""This client's behaviour log, split for training and for measuring. It has no path to the wire."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.histories import TimedHistories
from recsys_models.data.sequences import Sequences
from recsys_models.data.splits import LeaveLastOut, leave_last_out

Stage = Literal["validation", "test"]


@dataclass(frozen=True)
class BehaviourLog:
    """The users of one client.

    Attributes:
        sequences: every user's events, oldest first.
        held_out: another split of the same users, for a simulation that measures by time; None leaves the last out.
    """

    sequences: Sequences
    held_out: LeaveLastOut | None = None

    @cached_property
    def split(self) -> LeaveLastOut:
        """Last event for the test, the one before for validation, the rest for training."""
        return self.held_out or leave_last_out(self.sequences)

    @property
    def n_users(self) -> int:
        """Number of users; private, apart from its rounding at enrolment."""
        return self.sequences.n_users

    @cached_property
    def training(self) -> TimedHistories:
        """Training history of each user."""
        return self.split.train.histories()

    @cached_property
    def before_test(self) -> Sequences:
        """Everything but the test events, with times and values where the log has them."""
        lengths = self.sequences.lengths
        return self.sequences.cut(lengths - (self.split.test >= 0))

    def seen(self, stage: Stage) -> TimedHistories:
        """What each user had seen before the target of ``stage``."""
        return self._before_validation if stage == "validation" else self._before_test

    @cached_property
    def _before_validation(self) -> TimedHistories:
        return self.split.history("validation").histories()

    @cached_property
    def _before_test(self) -> TimedHistories:
        return self.split.history("test").histories()

    def targets(self, stage: Stage) -> NDArray[np.int64]:
        """The item to be found for each user, or -1."""
        return self.split.target(stage)
