"""Mean-pooled history into a feed-forward net (Covington, Adams, Sargin, "Deep Neural Networks for YouTube
Recommendations", RecSys 2016, section 3.2), with learnable recency weights instead of a plain mean.
"""

from __future__ import annotations

from torch import Tensor, nn

from recsys_models.encoders.pooling import RecencyPool


class MeanPoolTrunk(nn.Module):
    """``MLP(recency-weighted mean)``; ``blocks`` hidden layers of width ``dim``."""

    def __init__(self, dim: int, *, max_length: int, blocks: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.pool = RecencyPool(max_length)
        layers: list[nn.Module] = []
        for _ in range(blocks):
            layers += [nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout)]
        self.mlp = nn.Sequential(*layers)

    def forward(self, items_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Returns hidden_BLD."""
        hidden_BLD: Tensor = self.mlp(self.pool(items_BLD, mask_BL))
        return hidden_BLD
