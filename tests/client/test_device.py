"""The same work on every device that is present: the CPU always, a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.encoder_fit import EncoderFit
from client.gradients import GradientTrainer
from client.model import ClientModel
from privacy.randomness import SeededRandomness
from recsys_models.devices import resolve_device
from recsys_models.errors import DataError
from recsys_models.retrieval.blend import ChannelScores
from tests.client.test_training import HISTORIES, PUBLIC, SETTINGS, terms

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
        ],
    ),
]


def _model(device: str) -> ClientModel:
    return ClientModel(SETTINGS, b"device", resolve_device(device))


@pytest.mark.parametrize("device", DEVICES)
def test_scores_do_not_depend_on_the_device(device: str):
    on_cpu = _model("cpu").scores(HISTORIES, ChannelScores(PUBLIC.channels()))
    model = _model(device)
    here = model.scores(HISTORIES, ChannelScores(PUBLIC.channels(model.device)))
    assert here.device.type == "cpu", "scores come back to the CPU, where ranking happens"
    assert next(model.recommender.parameters()).device.type == device
    np.testing.assert_allclose(here, on_cpu, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_a_private_step_is_the_same_step_on_every_device(device: str):
    """Same users, same noise (it never comes from the device): the grids agree to rounding."""
    results = []
    for where in ("cpu", device):
        randomness = SeededRandomness(5)
        trainer = GradientTrainer(
            _model(where), lambda: HISTORIES, PUBLIC, SETTINGS, users=8, randomness=randomness
        )
        results.append(trainer.step(terms("gradients")))
        trainer.close()
    assert np.abs(results[0] - results[1]).max() <= 8


@pytest.mark.parametrize("device", DEVICES)
def test_a_private_fit_runs_and_saves_from_every_device(device: str, tmp_path):
    model = _model(device)
    fit = EncoderFit(model, lambda: HISTORIES, PUBLIC, SETTINGS, users=8, randomness=SeededRandomness(5))
    fit.private(terms("fit", steps=2))
    model.save(tmp_path / "encoder.safetensors")
    again = _model("cpu")
    again.load(tmp_path / "encoder.safetensors")
    np.testing.assert_allclose(
        again.scores(HISTORIES, ChannelScores(PUBLIC.channels())),
        model.scores(HISTORIES, ChannelScores(PUBLIC.channels(model.device))),
        atol=1e-4,
    )


def test_a_device_that_is_not_here_is_named():
    with pytest.raises(DataError, match="cuda:99"):
        resolve_device("cuda:99")
