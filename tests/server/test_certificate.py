"""A certificate states what the ledger holds, no less; the page leaves out no message that can leave a client."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import typer

import fedtower
from privacy.accounting.accountant import epsilon, gdp_mu
from privacy.accounting.events import ReleaseEvent
from privacy.accounting.ledger import Ledger
from privacy.wire.federation import UPLINK
from server import budget_cli, disclosure
from server.certificate import certificate, code_version, own_view_epsilon
from server.disclosure import most_right_guesses, to_html, to_markdown
from server.report import write_report

DELTA = 1e-5


def event(name: str, noise: float, shares: int = 4, randomness: str = "system", **more: Any) -> ReleaseEvent:
    detail = {"l2_clip_norm": 1.0, "noise_shares": shares, "randomness": randomness}
    return ReleaseEvent(name, noise, detail=detail, **more)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    def make(*events: ReleaseEvent, claimed: float | None = None) -> Path:
        folder = tmp_path / "run"
        folder.mkdir()
        ledger = Ledger.open(
            folder / "ledger.sqlite", population="shop", epsilon_budget=8.0, target_delta=DELTA
        )
        for one in events:
            ledger.commit(ledger.reserve(one))
        ledger.release_unused(ledger.reserve(ReleaseEvent("given back", 5.0)))
        spent = ledger.epsilon_spent() if claimed is None else claimed
        privacy = {"epsilon": spent, "delta": DELTA, "assumed_colluding": 1, "threshold": 4}
        write_report({"privacy": privacy, "left_the_client": {"user_encoder": 0, "keys": 1234}}, folder)
        return folder

    return make


def _call(*args: object) -> int:
    with pytest.raises(SystemExit) as done:
        fedtower.run(typer.main.get_command(budget_cli.app), [str(a) for a in args])
    return done.value.code if isinstance(done.value.code, int) else -1


def test_states_guarantee_mechanism_trust_and_head(make_run: Callable[..., Path]) -> None:
    fit = event("fit", 3.0, left_the_client=False, sampling_probability=0.25, count=20)
    events = [event("popularity", 4.0), event("statistics", 1.5), fit]
    folder = make_run(*events)
    stated = certificate(folder)
    assert stated["guarantee"]["epsilon"] == epsilon(events, DELTA)
    assert stated["guarantee"]["epsilon_outside_the_clients"] == epsilon(events[:2], DELTA)
    assert (stated["guarantee"]["unit"], stated["guarantee"]["relation"]) == (
        "one user's whole log at one client",
        "add or remove one user",
    )
    assert [r["name"] for r in stated["releases"]] == [
        "popularity",
        "statistics",
        "fit",
    ]  # not what was given back
    assert stated["releases"][0]["l2_clip_norm"] == 1.0
    assert stated["accounting"]["second_opinion"]["epsilon"] >= stated["accounting"]["epsilon"] * 0.98
    assert stated["trust_model"]["noise"] == "distributed"
    assert (stated["trust_model"]["assumed_colluding"], stated["trust_model"]["survivors_required"]) == (1, 4)
    assert stated["protects"] is True
    assert (
        stated["ledger"]["head_hash"]
        == Ledger.open(
            folder / "ledger.sqlite", population="shop", epsilon_budget=8.0, target_delta=DELTA
        ).head_hash()
    )
    assert certificate(folder) == stated  # the same facts give the same bytes
    json.dumps(stated, allow_nan=False)


def test_own_view_counts_one_share_of_the_noise() -> None:
    events = [event("a", 4.0), event("b", 3.0, shares=1)]
    assert own_view_epsilon(events, DELTA) == pytest.approx(
        epsilon([ReleaseEvent("a", 2.0), ReleaseEvent("b", 3.0)], DELTA)
    )
    assert own_view_epsilon([ReleaseEvent("older", 4.0)], DELTA) is None


def test_one_simulated_release_makes_all_of_it_simulated(make_run: Callable[..., Path]) -> None:
    folder = make_run(event("a", 4.0), event("b", 4.0, randomness="simulated"))
    stated = certificate(folder)
    assert stated["protects"] is False
    assert "protects nobody" in to_markdown(disclosure.disclosure(stated))


def test_an_older_ledger_does_not_say(make_run: Callable[..., Path]) -> None:
    stated = certificate(make_run(ReleaseEvent("a", 4.0)))
    assert stated["protects"] is None


def test_a_report_that_claims_less_is_not_certified(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(event("a", 4.0), claimed=0.5)
    assert _call("certificate", folder) == 4
    assert "claims epsilon 0.5" in capsys.readouterr().err
    assert not (folder / "certificate.json").exists()


def test_an_empty_ledger_has_nothing_to_certify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Ledger.open(tmp_path / "l.sqlite", population="shop", epsilon_budget=8.0, target_delta=DELTA)
    assert _call("certificate", tmp_path / "l.sqlite") == 2
    assert "nothing was released" in capsys.readouterr().err


def test_the_command_writes_three_files(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(event("a", 4.0))
    assert _call("certificate", folder, "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "head " in out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "certificate.json",
        "what-leaves-your-device.html",
        "what-leaves-your-device.md",
    ]
    stated = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert stated == certificate(folder)
    assert _call("certificate", folder / "ledger.sqlite", "--json") == 0
    assert json.loads(capsys.readouterr().out)["left_the_client_bytes"] is None  # no report was read


class TestPage:
    def test_every_kind_of_the_wire_inventory_is_on_it(self, make_run: Callable[..., Path]) -> None:
        blocks = disclosure.disclosure(certificate(make_run(event("a", 4.0))))
        for text in (to_markdown(blocks), to_html(blocks)):
            assert all(kind in text for kind in UPLINK)
            assert "user encoder 0 B" in text

    def test_a_kind_that_nobody_described_stops_it(
        self, make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = make_run(event("a", 4.0))
        monkeypatch.setattr(disclosure.wire, "UPLINK", {**UPLINK, "query.log": "keys"})
        with pytest.raises(ValueError, match=r"does not describe: \['query.log'\]"):
            disclosure.disclosure(certificate(folder))

    def test_nothing_in_it_becomes_markup(self, make_run: Callable[..., Path]) -> None:
        page = to_html(disclosure.disclosure(certificate(make_run(event("<script>x</script>", 4.0)))))
        assert "<script>" not in page
        assert not re.search(r"(src|href)=", page)

    @pytest.mark.parametrize("noise", [0.8, 2.0, 6.0])
    def test_right_guesses_are_bounded_closely(self, make_run: Callable[..., Path], noise: float) -> None:
        """For Gaussians the best guess is known exactly: Phi(Phi^-1(0.01) + mu)."""
        events = [event("a", noise), event("b", 6.0)]
        mu = gdp_mu(events)
        assert mu is not None
        best = NormalDist().cdf(NormalDist().inv_cdf(0.01) + mu)
        assert best <= most_right_guesses(certificate(make_run(*events))) <= best * 1.02 + 0.002


def test_the_code_hash_follows_the_code(tmp_path: Path) -> None:
    for package in ("client", "server", "recsys_models", "privacy", "simulations"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("x = 1\n")
    before = code_version(tmp_path)["sha256"]
    (tmp_path / "client" / "a.py").write_text("x = 2\n")
    assert code_version(tmp_path)["sha256"] != before
    assert len(before) == 64
