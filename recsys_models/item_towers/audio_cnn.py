"""A small convolutional network over log-mel spectrograms of items, trained from scratch."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys_models.errors import DataError
from recsys_models.item_towers.base import ItemTower
from recsys_models.item_towers.patches import PatchConv1d

_FLOOR = 1e-6


def log_mel(
    wave: NDArray[np.floating], rate: int, *, bands: int = 40, window: int = 1024, hop: int = 512
) -> NDArray[np.float32]:
    """Log power in mel-spaced bands (Stevens, Volkmann and Newman 1937; triangles as in Davis and Mermelstein 1980).

    Args:
        wave: mono samples in [-1, 1].
        rate: samples a second.
        bands: M.
        window: samples of a frame (Hann).
        hop: samples from frame to frame.

    Returns:
        float32 ``[M, T]`` with ``T = 1 + (len(wave) - window) // hop``; every value at least log(1e-6).

    Raises:
        DataError: if the wave is shorter than a window, or not finite.
    """
    if wave.ndim != 1 or len(wave) < window or bands < 1 or hop < 1 or rate < 1:
        raise DataError(f"need a mono wave of at least {window} samples, got shape {wave.shape} at {rate} Hz")
    if not np.isfinite(wave).all():
        raise DataError("the wave holds values that are not finite: decode it again")
    frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=1)) ** 2 / window
    highest = 2595.0 * np.log10(1.0 + rate / 2 / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(0.0, highest, bands + 2) / 2595.0) - 1.0)
    frequency = np.fft.rfftfreq(window, 1.0 / rate)
    rising = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.log(np.maximum(triangles @ power.T, _FLOOR)).astype(np.float32)


class AudioCnnTower(ItemTower):
    """Convolutions of stride 2 over time, the mel bands as channels, then the mean and the maximum over time.

    Args:
        mel_NMT: log-mel spectrograms (:func:`log_mel`) of equal length, about unit variance.
        dim: width of the item vectors.
        present_N: which items have a sound.
        channels: of every convolution.
        layers: convolutions.
    """

    mel_NMT: Tensor

    def __init__(
        self,
        mel_NMT: Tensor,
        dim: int,
        *,
        present_N: Tensor | None = None,
        channels: int = 32,
        layers: int = 2,
    ) -> None:
        if mel_NMT.dim() != 3 or not mel_NMT.is_floating_point():
            raise DataError(f"sounds must be [n_items, M, T] floats, got {tuple(mel_NMT.shape)}")
        if layers < 1 or channels < 1 or mel_NMT.shape[2] < 2**layers:
            raise DataError(
                f"{layers} layers of stride 2 need {2 ** max(layers, 0)} frames and a channel, got "
                f"{tuple(mel_NMT.shape)}, {channels=}"
            )
        super().__init__(mel_NMT.shape[0], dim, present_N=present_N)
        self.register_buffer("mel_NMT", mel_NMT, persistent=False)
        widths = [mel_NMT.shape[1], *[channels] * layers]
        self.convolutions = nn.ModuleList(
            PatchConv1d(before, after, width=3, stride=2) for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(layers))
        self.out = nn.Linear(2 * channels, dim)

    def vectors_of(self, ids: Tensor) -> Tensor:
        """Mean and strongest response over time, mapped."""
        signal = self.known_features(self.mel_NMT, ids).transpose(-1, -2)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            signal = torch.relu(norm(convolution(signal)))
        vectors: Tensor = self.out(torch.cat([signal.mean(dim=-2), signal.amax(dim=-2)], dim=-1))
        return vectors
