"""One item vector of all that is known about the item: index, content, text, image, sound."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recsys_models.errors import DataError
from recsys_models.item_towers.base import ItemTower


class FusionTower(ItemTower):
    """``g = sigmoid(W [x_1 .. x_M, present]); v = sum over m of g_m P_m x_m`` (gated multimodal units: Arevalo et al. 2017,
    section 3, with a mask).

    A modality an item lacks counts neither in the gates nor in the sum. In training each modality of each item is also
    hidden at random, all but one at most (Neverova et al., "ModDrop", 2016; for cold items Volkovs et al., "DropoutNet",
    2017): otherwise the index, which knows the frequent items best, would do all the work and the others would never learn
    to stand in for it.

    Args:
        towers: by name, over the same catalogue; each one's ``present_N`` says which items it knows.
        dim: width of the fused vectors.
        modality_dropout: probability that a known modality is hidden, in [0, 1).
    """

    def __init__(self, towers: Mapping[str, ItemTower], dim: int, *, modality_dropout: float = 0.0) -> None:
        if not towers:
            raise DataError("a fusion needs at least one tower")
        sizes = {name: tower.n_items for name, tower in towers.items()}
        if len(set(sizes.values())) != 1:
            raise DataError(f"the towers differ in their number of items: {sizes}")
        if not 0.0 <= modality_dropout < 1.0:
            raise DataError(f"modality_dropout must be in [0, 1), got {modality_dropout!r}")
        present_MN = torch.stack([tower.present_N for tower in towers.values()])
        super().__init__(present_MN.shape[1], dim, present_N=present_MN.any(dim=0))
        self.modality_dropout = modality_dropout
        self.towers = nn.ModuleDict(dict(towers))
        self.maps = nn.ModuleDict(
            {name: nn.Linear(tower.dim, dim, bias=False) for name, tower in towers.items()}
        )
        self.gate = nn.Linear(sum(tower.dim for tower in towers.values()) + len(towers), len(towers))

    def vectors_of(self, ids: Tensor) -> Tensor:
        """The gated sum over what is known of each item."""
        known = self._known(ids)
        inputs = [
            tower(ids).masked_fill(~known[..., column].unsqueeze(-1), 0.0)
            for column, tower in enumerate(self.towers.values())
        ]
        gates = torch.sigmoid(self.gate(torch.cat([*inputs, known.to(inputs[0].dtype)], dim=-1)))
        # A map has no bias, so a hidden modality adds nothing whatever its gate says.
        parts = [
            gates[..., column].unsqueeze(-1) * linear(vectors)
            for column, (linear, vectors) in enumerate(zip(self.maps.values(), inputs, strict=True))
        ]
        return torch.stack(parts).sum(dim=0)

    def _known(self, ids: Tensor) -> Tensor:
        """Bool ``[.., M]``: what is used of each item, here and now."""
        present_NM = torch.stack([tower.present_N for tower in self._item_towers()], dim=-1)
        known = present_NM[ids]
        if not self.training or self.modality_dropout == 0.0:
            return known
        luck = torch.rand(known.shape, device=known.device)
        kept = known & (luck >= self.modality_dropout)
        # An item whose every modality would go keeps the luckiest one it has.
        luckiest = luck.masked_fill(~known, -1.0).argmax(dim=-1, keepdim=True)
        rescued = torch.zeros_like(kept).scatter(-1, luckiest, True) & known
        return torch.where(kept.any(dim=-1, keepdim=True), kept, rescued)

    def _item_towers(self) -> list[ItemTower]:
        return [tower for tower in self.towers.values() if isinstance(tower, ItemTower)]
