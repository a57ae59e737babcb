"""What is special to one tower: compositions of indices, patches as convolutions, hidden modalities, sounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from recsys_models.errors import DataError
from recsys_models.item_towers.audio_cnn import AudioCnnTower, log_mel
from recsys_models.item_towers.content import ContentTower
from recsys_models.item_towers.fusion import FusionTower
from recsys_models.item_towers.ids import EmbeddingTower, HashedTower
from recsys_models.item_towers.image_cnn import ImageCnnTower
from recsys_models.item_towers.patches import PatchConv1d, PatchConv2d
from recsys_models.item_towers.text_cnn import TextCnnTower, hashed_tokens


@pytest.mark.parametrize("n_items", [1, 2, 9, 10, 1000])
def test_hashed_pairs_are_unique_and_small(n_items: int) -> None:
    tower = HashedTower(n_items, 2)
    ids = torch.arange(n_items)
    pairs = set(zip((ids // tower.base).tolist(), (ids % tower.base).tolist(), strict=True))
    assert len(pairs) == n_items
    rows = tower.quotients.num_embeddings + tower.remainders.num_embeddings
    assert rows <= 2 * n_items**0.5 + 2
    assert tower(ids).shape == (n_items, 2)


def test_untrained_content_tower_keeps_likeness() -> None:
    torch.manual_seed(0)
    content = functional.normalize(torch.randn(40, 16), dim=1)
    tower = ContentTower(content, 16, hidden=8)
    vectors = tower(torch.arange(40))
    torch.testing.assert_close(vectors @ vectors.T, content @ content.T, atol=1e-5, rtol=0)


def test_patches_in_one_dimension_are_a_convolution() -> None:
    torch.manual_seed(0)
    ours = PatchConv1d(4, 5, width=3, stride=2)
    theirs = nn.Conv1d(4, 5, 3, stride=2, padding=1)
    with torch.no_grad():
        theirs.weight.copy_(ours.map.weight.reshape(5, 4, 3))
        theirs.bias.copy_(ours.map.bias)
    signal = torch.randn(2, 7, 4)
    torch.testing.assert_close(ours(signal), theirs(signal.transpose(1, 2)).transpose(1, 2))


def test_patches_in_two_dimensions_are_a_convolution() -> None:
    torch.manual_seed(0)
    ours = PatchConv2d(3, 5)
    theirs = nn.Conv2d(3, 5, 3, stride=2, padding=1)
    with torch.no_grad():
        theirs.weight.copy_(ours.map.weight.reshape(5, 3, 3, 3))
        theirs.bias.copy_(ours.map.bias)
    image = torch.randn(2, 9, 8, 3)
    expected = theirs(image.movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(ours(image), expected)
    torch.testing.assert_close(ours(image.expand(4, 2, 9, 8, 3))[3], expected)


def test_text_cnn_ignores_how_much_padding_there_is() -> None:
    tokens = torch.from_numpy(hashed_tokens(["red nail polish", "shampoo", ""], length=4))
    torch.manual_seed(0)
    short = TextCnnTower(tokens, 3)
    torch.manual_seed(0)
    long = TextCnnTower(functional.pad(tokens, (0, 6)), 3)
    ids = torch.arange(3)
    torch.testing.assert_close(short(ids), long(ids))
    assert short(ids)[:2].any(dim=1).all() and not short(ids)[2].any()


def test_tokens_are_words_whatever_their_case() -> None:
    tokens = hashed_tokens(["Red NAIL", "red nail polish remover"], length=3, buckets=1000)
    assert tokens[0].tolist() == [*tokens[1, :2].tolist(), 0]
    assert (tokens[1] > 0).all() and tokens.max() < 1000


class TestFusion:
    @pytest.fixture
    def fusion(self) -> FusionTower:
        """Items 0 to 9 have an index and content, 10 to 19 content only, 20 an index only."""
        torch.manual_seed(0)
        trained = torch.arange(21) < 10
        trained[20] = True
        content = torch.randn(21, 8)
        content[20] = 0.0
        towers = {"id": EmbeddingTower(21, 4, present_N=trained), "content": ContentTower(content, 4)}
        return FusionTower(towers, 4, modality_dropout=0.5)

    def test_a_cold_item_lives_by_its_content(self, fusion: FusionTower) -> None:
        fusion.eval()
        ids = torch.arange(21)
        before = fusion(ids)
        assert before.any(dim=1).all()
        with torch.no_grad():
            fusion.towers["id"].table.weight[10:20] = torch.nan
        assert torch.equal(fusion(ids), before), "an untrained index is not taken for knowledge"

    def test_hides_modalities_in_training_but_never_all(self, fusion: FusionTower) -> None:
        torch.manual_seed(1)
        known = fusion._known(torch.arange(21).expand(2000, 21)).float()
        assert (known.sum(-1) >= 1).all()
        both, content_only, id_only = known[:, :10], known[:, 10:20], known[:, 20]
        # Of two, both stay with 1/4, and where both would go one is kept: (3/4 * ... ) = 1 - 1/4 - 1/8 each.
        assert both.mean() == pytest.approx(0.625, abs=0.01)
        assert (content_only == torch.tensor([0.0, 1.0])).all()
        assert (id_only == torch.tensor([1.0, 0.0])).all()

    def test_hides_nothing_in_use(self, fusion: FusionTower) -> None:
        fusion.eval()
        ids = torch.arange(21)
        assert torch.equal(fusion(ids), fusion(ids))
        fusion.train()
        assert not torch.equal(fusion(ids), fusion(ids))

    def test_towers_must_fit(self) -> None:
        with pytest.raises(DataError, match="differ in their number of items"):
            FusionTower({"a": EmbeddingTower(3, 2), "b": EmbeddingTower(4, 2)}, 2)
        with pytest.raises(DataError, match="at least one tower"):
            FusionTower({}, 2)


def test_log_mel_finds_the_tone() -> None:
    rate = 8000
    time = np.arange(rate) / rate
    low, high = (
        log_mel(np.sin(2 * np.pi * f * time), rate, bands=20, window=512, hop=256) for f in (200, 3000)
    )
    assert low.shape == (20, 1 + (rate - 512) // 256) and low.dtype == np.float32
    assert 0 < low.mean(1).argmax() < 6 < 14 < high.mean(1).argmax()
    assert (log_mel(np.zeros(600), rate, window=512) == np.float32(np.log(1e-6))).all()
    with pytest.raises(DataError, match="at least 512 samples"):
        log_mel(np.zeros(100), rate, window=512)
    with pytest.raises(DataError, match="not finite"):
        log_mel(np.full(600, np.nan), rate, window=512)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ContentTower(torch.zeros(3), 2), "content must be"),
        (lambda: TextCnnTower(torch.full((2, 3), 9), 2, buckets=9), "the vocabulary 0..8"),
        (lambda: TextCnnTower(torch.zeros(2, 3), 2), "int64"),
        (lambda: ImageCnnTower(torch.zeros(2, 3, 4, 4), 2), "at least 8 pixels"),
        (lambda: AudioCnnTower(torch.zeros(2, 3, 3), 2), "need 4 frames"),
        (lambda: EmbeddingTower(3, 2, present_N=torch.ones(3)), "present must be bool"),
    ],
)
def test_refuses_what_does_not_fit(build: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build()  # type: ignore[operator]
