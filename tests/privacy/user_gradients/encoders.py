"""Small encoders for the tests of the engine: sound ones, and one for every way to break the bound."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

DIM = 6


class Sound(nn.Module):
    """Linear, LayerNorm, Embedding and dropout, all called as modules; history is the first three slots."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Embedding(3, DIM)
        self.hidden = nn.Linear(DIM, DIM)
        self.norm = nn.LayerNorm(DIM)
        self.dropout = nn.Dropout(0.5)
        self.out = nn.Linear(DIM, DIM, bias=False)

    def forward(self, items_BLD: Tensor) -> Tensor:
        ids = torch.arange(3, device=items_BLD.device).repeat(items_BLD.shape[0], 1)
        hidden = torch.tanh(self.hidden(items_BLD + self.position(ids)))
        return self.out(self.dropout(self.norm(hidden))).mean(dim=1)


class TwiceCalled(Sound):
    """One module called twice: still exact, calls add up."""

    def forward(self, items_BLD: Tensor) -> Tensor:
        return super().forward(self.hidden(items_BLD))


class FunctionalTable(Sound):
    """Looks a parameter up behind its module's back, besides calling the module."""

    def forward(self, items_BLD: Tensor) -> Tensor:
        ids = torch.arange(3, device=items_BLD.device).repeat(items_BLD.shape[0], 1)
        return super().forward(items_BLD + functional.embedding(ids, self.position.weight))


class FunctionalOutput(Sound):
    """Multiplies by a module's weight."""

    def forward(self, items_BLD: Tensor) -> Tensor:
        return super().forward(items_BLD) @ self.hidden.weight.T


class OnlyFunctional(Sound):
    """A module that is never called, only its weight used."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(DIM, DIM)

    def forward(self, items_BLD: Tensor) -> Tensor:
        return super().forward(functional.linear(items_BLD, self.extra.weight, self.extra.bias))


class BatchNormed(Sound):
    """Batch norm: every user's state depends on all users."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(DIM)

    def forward(self, items_BLD: Tensor) -> Tensor:
        return self.batch_norm(super().forward(items_BLD))


class CentredOverBatch(Sound):
    """Batch normalisation by hand, which no validator can see."""

    def forward(self, items_BLD: Tensor) -> Tensor:
        users = super().forward(items_BLD)
        return users - users.mean(dim=0, keepdim=True)


class Recurrent(nn.Module):
    """torch's GRU, which hooks do not support."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(DIM, DIM, batch_first=True)

    def forward(self, items_BLD: Tensor) -> Tensor:
        return self.gru(items_BLD)[0][:, -1]


class OpacusRecurrent(nn.Module):
    """Opacus' own GRU."""

    def __init__(self) -> None:
        super().__init__()
        from opacus.layers import DPGRU

        self.gru = DPGRU(DIM, DIM, batch_first=True)

    def forward(self, items_BLD: Tensor) -> Tensor:
        return self.gru(items_BLD)[0][:, -1]


class BareParameter(Sound):
    """A parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(DIM))

    def forward(self, items_BLD: Tensor) -> Tensor:
        return super().forward(items_BLD) * self.scale


class TorchAttention(Sound):
    """torch's attention: its output projection is used functionally."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)

    def forward(self, items_BLD: Tensor) -> Tensor:
        return super().forward(self.attention(items_BLD, items_BLD, items_BLD)[0])


def own_softmax(encoder: nn.Module, vectors_BRD: Tensor) -> Tensor:
    """Slots: three of history, one positive, the rest negatives of this user's own."""
    users_BD = encoder(vectors_BRD[:, :3])
    logits_BC = (vectors_BRD[:, 3:] @ users_BD.unsqueeze(-1)).squeeze(-1)
    return -torch.log_softmax(logits_BC, dim=1)[:, 0]


def in_batch_softmax(encoder: nn.Module, vectors_BRD: Tensor) -> Tensor:
    """The negatives are the positives of the other users."""
    logits_BB = encoder(vectors_BRD[:, :3]) @ vectors_BRD[:, 3].T
    return -torch.log_softmax(logits_BB, dim=1).diagonal()


def mean_over_batch(encoder: nn.Module, vectors_BRD: Tensor) -> Tensor:
    """Divided by a private count."""
    return own_softmax(encoder, vectors_BRD) / vectors_BRD.shape[0]


def mixed_by_a_constant(encoder: nn.Module, vectors_BRD: Tensor) -> Tensor:
    """Weighted by the other users' data, without any gradient flowing between users."""
    losses = own_softmax(encoder, vectors_BRD)
    return losses * losses.detach().mean()
