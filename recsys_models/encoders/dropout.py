"""Dropout whose masks come from a generator of its own.

torch's ``nn.Dropout`` draws from one generator of the whole process: several clients that train in threads would take each
other's draws, and equal seeds would not give equal runs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OwnDropout(nn.Dropout):
    """Inverted dropout (Srivastava et al., "Dropout", JMLR 2014) from ``generator``, on whose device the input must be."""

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__(p)
        self._generator = generator

    def forward(self, input: Tensor) -> Tensor:
        """The input itself outside training; else each entry zero with probability ``p``, the others divided by 1 - p."""
        if not self.training or self.p == 0.0:
            return input
        drawn = torch.rand(input.shape, generator=self._generator, device=input.device)
        return input * (drawn >= self.p) / (1.0 - self.p)

    def __deepcopy__(self, memo: object) -> OwnDropout:
        """A copy draws from the same generator, which torch cannot copy."""
        copied = OwnDropout(self.p, self._generator)
        return copied.train(self.training)


def own_dropout(module: nn.Module, generator: torch.Generator) -> None:
    """Let every dropout layer below ``module`` draw from ``generator``, in place."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(parent, name, OwnDropout(child.p, generator).train(child.training))
