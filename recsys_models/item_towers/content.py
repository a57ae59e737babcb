"""A trained map of frozen content vectors: cold items are mapped like all others."""

from __future__ import annotations

from torch import Tensor, nn

from recsys_models.errors import DataError
from recsys_models.item_towers.base import ItemTower


class ContentTower(ItemTower):
    """``v = W x + W2 relu(W1 x)`` of a public content vector ``x`` (``recsys_models.item_towers.text``).

    W starts as a random projection that keeps lengths and angles (Johnson and Lindenstrauss 1984) and W2 at zero, so the
    untrained tower already says which items are alike. Its parameters do not grow with the catalogue.

    Args:
        content_NF: frozen; zero rows (nothing known) stay zero.
        dim: width of the item vectors.
        hidden: width of the second branch; 0 leaves it out and the map linear.
        present_N: default: rows that are not zero.
    """

    content_NF: Tensor

    def __init__(
        self, content_NF: Tensor, dim: int, *, hidden: int = 0, present_N: Tensor | None = None
    ) -> None:
        if content_NF.dim() != 2 or content_NF.shape[1] < 1 or not content_NF.is_floating_point():
            raise DataError(
                f"content must be [n_items, F] floats, got {tuple(content_NF.shape)} {content_NF.dtype}"
            )
        if hidden < 0:
            raise DataError(f"hidden must be at least 0, got {hidden}")
        if present_N is None:
            present_N = (content_NF != 0).any(dim=1)
        super().__init__(content_NF.shape[0], dim, present_N=present_N)
        self.register_buffer("content_NF", content_NF, persistent=False)
        width = content_NF.shape[1]
        self.map = nn.Linear(width, dim, bias=False)
        nn.init.orthogonal_(self.map.weight, gain=max(1.0, width / dim) ** 0.5)
        self.branch: nn.Sequential | None = None
        if hidden:
            last = nn.Linear(hidden, dim)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.branch = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), last)

    def vectors_of(self, ids: Tensor) -> Tensor:
        """The map of each item's content."""
        content = self.known_features(self.content_NF, ids)
        vectors: Tensor = self.map(content)
        return vectors if self.branch is None else vectors + self.branch(content)
