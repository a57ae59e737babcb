"""The one signature of every user encoder, and the start that needs no data."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from recsys_models.encoders.pooling import RecencyPool
from recsys_models.errors import DataError

Start = Literal["pooled", "random"]


class UserEncoder(nn.Module):
    """A history of item vectors in, the user's vector after each item out; scores are dot products with item
    vectors.

    ``start`` decides what an untrained encoder says:

    * ``"pooled"``: ``u = M pool(x) + W trunk(x) + b`` with ``M = I``, ``W = 0``, ``b = 0``, so the untrained
      encoder *is* the recency-weighted mean of the history. Private training, which has few and noisy steps,
      starts from a sound recommender instead of from noise (a residual branch that starts at zero:
      Bachlechner et al., "ReZero", 2021).
    * ``"random"``: ``u = W trunk(x) + b``, everything initialised at random, as published.

    Guarantees, each held by a test that every encoder inherits:

    * causal: position ``t`` does not depend on items after ``t``;
    * what is written in masked positions, and how many of them there are, changes nothing;
    * the state after an item does not depend on whether later items are in the batch, so training and serving
      agree;
    * masked positions, and so users without history, give zeros;
    * where a trunk reads times, a position knows those of items up to its own, and times that are not known are as none;
    * per-user gradients from Opacus hooks equal autograd's.

    Args:
        trunk: maps (items_BLD, mask_BL) to hidden_BLD; with an attribute ``reads_times`` that is true,
            (items_BLD, mask_BL, times_BL).
        dim: width of item and user vectors.
        max_length: longest history, in items.
        start: see above.
        decay: initial recency weight of the pooled start.
        input_scale: public factor on the item vectors before the trunk (not before the pool), to bring a
            tower of very small vectors, such as a factorisation, near unit variance.
    """

    def __init__(
        self,
        trunk: nn.Module,
        *,
        dim: int,
        max_length: int,
        start: Start = "pooled",
        decay: float = 0.7,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if start not in ("pooled", "random"):
            raise DataError(f"start must be 'pooled' or 'random', got {start!r}")
        if not 0.0 < input_scale < float("inf"):
            raise DataError(f"input_scale must be positive and finite, got {input_scale!r}")
        self.dim = dim
        self.max_length = max_length
        self.input_scale = input_scale
        self.trunk = trunk
        self.reads_times = bool(getattr(trunk, "reads_times", False))
        self.out = nn.Linear(dim, dim)
        self.pool: RecencyPool | None = None
        self.pool_map: nn.Linear | None = None
        if start == "pooled":
            self.pool = RecencyPool(max_length, decay=decay)
            self.pool_map = nn.Linear(dim, dim, bias=False)
            nn.init.eye_(self.pool_map.weight)
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, items_BLD: Tensor, mask_BL: Tensor, times_BL: Tensor | None = None) -> Tensor:
        """User vectors after every item.

        Args:
            items_BLD: item vectors, oldest first, right-aligned (padding on the left). ``L <= max_length``.
            mask_BL: bool, True where there is an item.
            times_BL: float64, when each item was met, in seconds from any moment; not finite where that is not known, None
                where it is known of none. Read by some trunks alone.

        Returns:
            users_BLD; zero where masked.

        Raises:
            DataError: if the shapes do not fit.
        """
        self._check(items_BLD, mask_BL, times_BL)
        absent = ~mask_BL.unsqueeze(-1)
        items_BLD = items_BLD.masked_fill(absent, 0.0)
        inputs = (items_BLD * self.input_scale, mask_BL, *((times_BL,) if self.reads_times else ()))
        users_BLD: Tensor = self.out(self.trunk(*inputs))
        if self.pool is not None and self.pool_map is not None:
            users_BLD = users_BLD + self.pool_map(self.pool(items_BLD, mask_BL))
        return users_BLD.masked_fill(absent, 0.0)

    def _check(self, items_BLD: Tensor, mask_BL: Tensor, times_BL: Tensor | None) -> None:
        if items_BLD.dim() != 3 or items_BLD.shape[-1] != self.dim:
            raise DataError(f"items must be [B, L, {self.dim}], got {tuple(items_BLD.shape)}")
        if mask_BL.dtype != torch.bool or mask_BL.shape != items_BLD.shape[:2]:
            raise DataError(
                f"mask must be bool {tuple(items_BLD.shape[:2])}, got {mask_BL.dtype} {tuple(mask_BL.shape)}"
            )
        if times_BL is not None and (times_BL.dtype != torch.float64 or times_BL.shape != mask_BL.shape):
            raise DataError(
                f"times must be float64 {tuple(mask_BL.shape)}, got {times_BL.dtype} {tuple(times_BL.shape)}"
            )
        if items_BLD.shape[1] > self.max_length:
            raise DataError(
                f"history of {items_BLD.shape[1]} items exceeds max_length={self.max_length}; "
                "pass only the newest"
            )
