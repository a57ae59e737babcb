"""A linear map of public content that is trained together with a user encoder, by each user's own gradient.

Item vectors ``V = rows + C M`` with C ``[K, F]`` public and M ``[F, d]`` trained: the content tower of
``recsys_models.item_towers.content`` without its second branch. A user's gradient with respect to M is ``C^T G``, G hers with
respect to the item vectors (chain rule), so it has F x d numbers however many items she has touched, and an item that nobody
has touched moves with those that share its content.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils import skip_init

from recsys_models.batches import NextItemBatch


class MappedEncoder(nn.Module):
    """A user encoder and the *change* of the map, as one module: what is differentiated, and clipped, together.

    The map starts at zero because the vectors it is added to are the published ones, which hold M already; the gradient with
    respect to a change is that with respect to M. So nobody but the owner of M needs to know it.

    Args:
        encoder: kept as it is; its parameters come first, the map's ``[d, F]`` after them.
        width: F, columns of the content vectors.
        dim: of the item vectors.
    """

    def __init__(self, encoder: nn.Module, width: int, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        # Without its random start, which would move torch's global generator.
        self.map = skip_init(nn.Linear, width, dim, bias=False)
        for weight in self.map.parameters():
            nn.init.zeros_(weight)

    def forward(self, vectors_BRD: Tensor, content_BRF: Tensor, loss: NextItemBatch) -> Tensor:
        """Each user's loss ``[B]`` from the vectors and the content of her slots."""
        return loss(self.encoder, vectors_BRD + self.map(content_BRF))


def mapped_loss(batch: NextItemBatch, content_KF: Tensor) -> Callable[[nn.Module, Tensor], Tensor]:
    """The batch's loss for a :class:`MappedEncoder`, wrapped for per-user gradients or not.

    Args:
        batch: users; its item ids number the rows of ``content_KF``.
        content_KF: public content of the items.
    """
    is_empty = (batch.item_ids < 0).unsqueeze(-1)
    content_BRF = content_KF[batch.item_ids.clamp(min=0)].masked_fill(is_empty, 0.0)
    return lambda module, vectors_BRD: module(vectors_BRD, content_BRF, batch)
