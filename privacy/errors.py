"""What can go wrong in ``privacy``.

::

    ValueError
    └── InputError            a value somebody typed or sent is not usable; one line, names value and cure
    RuntimeError
    ├── BudgetExceeded        the next release would cost more than the budget; nothing was released
    ├── LedgerError           the ledger cannot be trusted (gap, fork, roll-back, damaged row)
    ├── SensitivityViolation  one user contributes more than the stated bound
    ├── ProtocolError         a peer or the server broke the protocol; the round is aborted
    └── PolicyRefusal         this client's own policy forbids what was asked
"""

from __future__ import annotations


class InputError(ValueError):
    """A value that was typed or received cannot be used; the message names it and the cure."""


class BudgetExceeded(RuntimeError):
    """The next release would exceed the privacy budget. Nothing was released."""


class LedgerError(RuntimeError):
    """The budget ledger cannot be trusted, so no release may be made."""


class SensitivityViolation(RuntimeError):
    """One user's contribution exceeds the bound the noise was calibrated to."""


class ProtocolError(RuntimeError):
    """A peer or the server deviated from the secure aggregation protocol; the round must abort."""


class PolicyRefusal(RuntimeError):
    """This client's own policy forbids the request.

    Attributes:
        reason_code: short machine-readable reason, safe to send to the server.
    """

    def __init__(self, reason_code: str, message: str) -> None:
        super().__init__(message)
        self.reason_code = reason_code
