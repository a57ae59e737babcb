"""Secure aggregation at work: clients fall silent at any step, and every round is exact or ends cleanly."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import InputError, PolicyRefusal, ProtocolError
from privacy.secagg import Section, VectorSchema, threshold_for
from privacy.secagg.messages import Reveal, Upload
from simulations.secagg_cohort import Cohort

STEPS = ("upload", "agree", "reveal")
VALUE_BOUND = 1000
SHOWN = 12
HANG_S = 60.0


def run(
    clients: int = 10,
    dropout: float = 0.1,
    schedules: int = 30,
    words: int = 1000,
    seed: int = 0,
    figure: Path | None = None,
) -> dict[str, Any]:
    """Run rounds in which clients fall silent, each before a step of its own.

    Args:
        clients: size of the cohort, 3 or more.
        dropout: probability in [0, 1] that a client falls silent somewhere in a round, before any of the steps with
            equal chance.
        schedules: number of rounds, each with its own draw of who falls silent.
        words: length of every client's vector.
        seed: of values, keys and schedules.
        figure: where to draw what the server saw and what came out, if anywhere.

    Returns:
        ``exact``, ``aborted`` and ``wrong`` counts (``wrong`` must be 0), ``unexpected`` (rounds that should
        have succeeded by the threshold and did not, or the reverse; must be 0), ``leaks`` (rounds in which the server
        holds shares that open more than the sum; must be 0), ``hangs`` (rounds longer than a minute; must be 0), the
        rows of all rounds, and ``ok``.
    """
    if not 0.0 <= dropout <= 1.0:
        raise InputError(f"dropout={dropout} must lie in [0, 1]")
    generator = np.random.default_rng(seed)
    cohort = Cohort(clients, VectorSchema([Section("sum", words, 32, VALUE_BOUND)], clients), seed=seed)
    cohort.exchange_keys()
    rows = [_one_round(cohort, number, dropout, generator) for number in range(1, schedules + 1)]
    counts = {kind: sum(row["outcome"] == kind for row in rows) for kind in ("exact", "aborted", "wrong")}
    unexpected = sum((row["outcome"] == "exact") != row["enough"] for row in rows)
    result: dict[str, Any] = {
        "clients": clients,
        "threshold": threshold_for(clients),
        "dropout": dropout,
        "words": words,
        **counts,
        "unexpected": unexpected,
        "leaks": sum(row["leak"] for row in rows),
        "hangs": sum(row["seconds"] > HANG_S for row in rows),
        "longest_s": max(row["seconds"] for row in rows),
        "rounds": rows,
    }
    result["ok"] = not any(result[kind] for kind in ("wrong", "unexpected", "leaks", "hangs"))
    if figure is not None:
        draw(result, cohort, figure, generator)
        result["figure"] = str(figure)
    return result


def format_table(result: dict[str, Any]) -> str:
    """The rounds as text, one line each."""
    lines = [f"{'round':>5}  {'silent before upload/agree/reveal':<34} {'answered':>8}  outcome"]
    for row in result["rounds"][:SHOWN]:
        silent = "/".join(str(row[step]) for step in STEPS)
        lines.append(
            f"{row['round']:>5}  {silent:<34} {row['answered']:>8}  {row['outcome']}: {row['detail']}"
        )
    hidden = len(result["rounds"]) - SHOWN
    if hidden > 0:
        lines.append(f"  ... and {hidden} more rounds, the longest {result['longest_s']:.2f} s")
    good = result["exact"] + result["aborted"] - result["unexpected"]
    lines.append(
        f"{good} of {len(result['rounds'])} rounds right: {result['exact']} exact sums, {result['aborted']} clean aborts "
        f"below the threshold ({result['threshold']} of {result['clients']}); {result['wrong']} wrong sums, "
        f"{result['leaks']} leaks, {result['hangs']} hangs"
    )
    return "\n".join(lines)


def draw(result: dict[str, Any], cohort: Cohort, path: Path, generator: np.random.Generator) -> None:
    """Left: one client's numbers as they are and as the server sees them. Right: outcomes by survivors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    number = len(result["rounds"]) + 1
    name = cohort.names[0]
    values = generator.integers(-VALUE_BOUND, VALUE_BOUND, result["words"], endpoint=True)
    message = cohort.clients[name].upload(cohort.header(number), cohort.schema, {"sum": values})
    seen = np.frombuffer(Upload.decode(message).body, dtype="<i4")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.plot(np.sort(values) / 2**31, label="what the client has")
    left.plot(np.sort(seen) / 2**31, label="what the server sees")
    left.set(title="One upload, sorted", xlabel="word", ylabel="value / 2³¹")
    left.legend()
    answered = np.array([row["answered"] for row in result["rounds"]])
    for outcome, color in (("exact", "tab:green"), ("aborted", "tab:orange"), ("wrong", "tab:red")):
        chosen = np.array([row["outcome"] == outcome for row in result["rounds"]], dtype=bool)
        counts = np.bincount(answered[chosen], minlength=result["clients"] + 1)
        right.bar(np.arange(result["clients"] + 1), counts, color=color, label=outcome, alpha=0.7)
    right.axvline(result["threshold"] - 0.5, color="black", linestyle=":", label="threshold")
    right.set(title="Rounds by outcome", xlabel="clients that answered to the end", ylabel="rounds")
    right.legend()
    figure.savefig(path)
    pyplot.close(figure)


def _one_round(cohort: Cohort, number: int, dropout: float, generator: np.random.Generator) -> dict[str, Any]:
    silent = _schedule(cohort.names, dropout, generator)
    values = {name: {"sum": _values(cohort.schema.words, generator)} for name in cohort.names}
    answered = len(cohort.names) - sum(map(len, silent.values()))
    row: dict[str, Any] = {
        "round": number,
        **{step: len(names) for step, names in silent.items()},
        "answered": answered,
        "enough": answered >= threshold_for(len(cohort.names)),
    }
    started = time.monotonic()
    try:
        # The demonstration's values are random per round, which stands for noise.
        sums, survivors = cohort.run_round(
            cohort.header(number),
            values,
            silent_upload=silent["upload"],
            silent_agree=silent["agree"],
            silent_reveal=silent["reveal"],
            is_noised=True,
        )
    except (ProtocolError, PolicyRefusal) as error:
        for client in cohort.clients.values():
            client.abort()
        leak = _opens_more(cohort, silent["upload"], aborted=True)
        seconds = time.monotonic() - started
        return {**row, "outcome": "aborted", "detail": str(error), "leak": leak, "seconds": seconds}
    plain = sum((values[name]["sum"] for name in survivors), np.zeros(cohort.schema.words, np.int64))
    is_exact = bool(np.array_equal(sums["sum"], plain))
    detail = f"sum over {len(survivors)} clients"
    leak = _opens_more(cohort, silent["upload"], aborted=False)
    outcome = "exact" if is_exact else "wrong"
    return {**row, "outcome": outcome, "detail": detail, "leak": leak, "seconds": time.monotonic() - started}


def _opens_more(cohort: Cohort, silent_upload: list[str], *, aborted: bool) -> bool:
    """Whether the revealed shares open anything beyond the published sum.

    After an abort nothing may open: fewer revealed than the threshold. And nobody may reveal both kinds of share for one
    peer: one self share for each survivor, one pair share for each pair of a survivor and a dropped client, no more.
    """
    survivors = len(cohort.names) - len(silent_upload)
    reveals = [Reveal.decode(data) for data in cohort.reveals]
    if aborted and len(reveals) >= threshold_for(len(cohort.names)):
        return True
    pairs = survivors * len(silent_upload)
    return any(len(r.self_shares) != survivors or len(r.pair_shares) != pairs for r in reveals)


def _values(words: int, generator: np.random.Generator) -> NDArray[np.int64]:
    return generator.integers(-VALUE_BOUND, VALUE_BOUND, words, endpoint=True, dtype=np.int64)


def _schedule(names: tuple[str, ...], dropout: float, generator: np.random.Generator) -> dict[str, list[str]]:
    silent: dict[str, list[str]] = {step: [] for step in STEPS}
    for name in names:
        if generator.random() < dropout:
            silent[STEPS[generator.integers(len(STEPS))]].append(name)
    return silent
