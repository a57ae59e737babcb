"""What a run's item tower starts from, before anything of the run's own users is known to the server.

=============  =====================================================================================================
``init``       where the rows come from
=============  =====================================================================================================
``random``     the session's name (no ``TowerStart`` at all)
``text``       the catalogue's texts and attributes, by their main directions
``release``    an earlier run's published tower: rows by item id, items it does not have by their content; with
               ``link = "content"`` all of them by content, for a release of another domain
=============  =====================================================================================================

Where the recipe makes gradients only, the rows are where they begin. Where it releases statistics, these replace the rows of
the head items; the rows of all others are turned into the new tower's coordinates by the map that takes the head's old rows to
its new ones, and stay. A run that *resumes* another also keeps what else that one published: with gradients only and the same
catalogue popularity and head are not released again, and its transitions remain a channel.

All of it is post-processing of what is public already. It costs this run nothing, and does not make the earlier run free:
``provenance`` says on whose releases a tower stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import InputError
from privacy.wire.federation import Arrays
from recsys_models.data.catalogue import Catalogue
from recsys_models.item_towers.text import TextMethod, content_vectors
from recsys_models.item_towers.transfer import ridge_map, rows_by_id, rows_from_content
from recsys_models.retrieval.transitions import TransitionReadings
from server.item_tower import SCORE_NORM, tower_sha256
from server.published import PublishedRun, read_published
from server.scenario import Scenario

Float32 = NDArray[np.float32]

_CONTENT_IS_FREE = "The tower started from the public catalogue, which says nothing about any user."


@dataclass(frozen=True)
class TowerStart:
    """Rows to begin with, and what a resumed run keeps.

    Attributes:
        tower: ``[n_items, dim]``; zeros for items of which nothing was known.
        provenance: for report and certificate.
        kept: a resumed run's other arrays, over the same catalogue.
        transitions: its transitions, as arrays over this catalogue.
    """

    tower: Float32
    provenance: dict[str, Any]
    kept: Arrays = field(default_factory=dict[str, NDArray[Any]])
    transitions: Arrays = field(default_factory=dict[str, NDArray[Any]])

    @property
    def keeps_popularity(self) -> bool:
        """Whether popularity and head items are known without another release."""
        return "popularity" in self.kept and "head" in self.kept

    def completing(self, tower: Float32, head: NDArray[np.int64]) -> Float32:
        """A tower of the head items with this start's rows for the others, in the tower's coordinates."""
        outside: NDArray[np.bool_] = np.any(self.tower != 0.0, axis=1)
        taught = head[outside[head]]
        outside[head] = False
        if not outside.any() or not len(taught):
            return tower
        turn = ridge_map(self.tower[taught], tower[taught])
        whole = tower.copy()
        whole[outside] = (self.tower[outside].astype(np.float64) @ turn).astype(np.float32)
        return whole


def make_start(scenario: Scenario, catalogue: Catalogue, ledger_path: Path | None) -> TowerStart | None:
    """The start a scenario asks for; None for a random one.

    Args:
        scenario: what is asked for.
        catalogue: of this run.
        ledger_path: this run's ledger, to say whether it also holds the earlier run's releases.

    Raises:
        InputError: the earlier run's folder cannot be used here; one line that says why.
    """
    dim, method = scenario.encoder_size.dim, scenario.model.text_method
    if scenario.resume.from_run is not None:
        return _resumed(scenario, read_published(Path(scenario.resume.from_run)), catalogue, ledger_path)
    asked = scenario.item_tower
    if asked.init == "random":
        return None
    if asked.init == "text":
        return TowerStart(
            _text_tower(catalogue, dim, method), {"init": "text", "statements": [_CONTENT_IS_FREE]}
        )
    earlier = read_published(Path(asked.from_run or ""))
    tower, counts = _carried(earlier, catalogue, dim, link=asked.link, method=method)
    return TowerStart(tower, _provenance("release", earlier, ledger_path, counts))


def _text_tower(catalogue: Catalogue, dim: int, method: TextMethod) -> Float32:
    vectors = content_vectors(catalogue, dim, method=method)
    norms = np.linalg.norm(vectors, axis=1)
    if not norms.any():
        raise InputError(
            "item_tower.init = 'text', but the catalogue has neither texts nor attributes: use 'random'"
        )
    return (vectors * (SCORE_NORM / norms[norms > 0].mean())).astype(np.float32)


def _resumed(
    scenario: Scenario, earlier: PublishedRun, catalogue: Catalogue, ledger_path: Path | None
) -> TowerStart:
    dim, method = scenario.encoder_size.dim, scenario.model.text_method
    tower, counts = _carried(earlier, catalogue, dim, link="ids", method=method)
    provenance = _provenance("resume", earlier, ledger_path, counts)
    if scenario.recipe != "gradients":
        return TowerStart(tower, provenance)
    index = {item: index for index, item in enumerate(catalogue.item_ids)}
    place = np.array([index.get(item, -1) for item in earlier.catalogue.item_ids], dtype=np.int64)
    readings = TransitionReadings.from_arrays(earlier.arrays, earlier.catalogue.n_items)
    transitions = {} if readings is None else readings.over(place, catalogue.n_items).to_arrays()
    kept: Arrays = {}
    if earlier.catalogue.sha256 == catalogue.sha256:
        kept = {name: earlier.arrays[name] for name in ("popularity", "head") if name in earlier.arrays}
    return TowerStart(tower, provenance, kept, transitions)


def _carried(
    earlier: PublishedRun, catalogue: Catalogue, dim: int, *, link: str, method: TextMethod
) -> tuple[Float32, dict[str, int]]:
    rows = _in_width(earlier, dim)
    if link == "content":
        tower = rows_from_content(earlier.catalogue, rows, catalogue, method=method)
        if not tower.any():
            raise InputError(
                f"{earlier.folder} and this catalogue share no word and no attribute value: nothing links them"
            )
        return tower, _counts(np.zeros(len(tower), dtype=bool), tower)
    tower, is_matched = rows_by_id(earlier.catalogue.item_ids, rows, catalogue.item_ids)
    _check_matched(earlier, catalogue, is_matched)
    if not is_matched.all():
        linked = rows_from_content(earlier.catalogue, rows, catalogue, method=method)
        tower[~is_matched] = linked[~is_matched]
    return tower, _counts(is_matched, tower)


def _counts(is_matched: NDArray[np.bool_], tower: Float32) -> dict[str, int]:
    known = tower.any(axis=1)
    return {
        "by id": int((is_matched & known).sum()),
        "by content": int((~is_matched & known).sum()),
        "without a vector": int((~known).sum()),
    }


def _in_width(earlier: PublishedRun, dim: int) -> Float32:
    """The earlier rows, with columns of zeros where the new tower is wider: dot products stay what they were."""
    rows = earlier.arrays["item_tower"]
    if rows.shape[1] > dim:
        raise InputError(
            f"{earlier.folder} has item vectors of width {rows.shape[1]}, the scenario model.dim = {dim}: "
            f"set model.dim = {rows.shape[1]} or more"
        )
    return np.pad(rows, ((0, 0), (0, dim - rows.shape[1])))


def _check_matched(earlier: PublishedRun, catalogue: Catalogue, is_matched: NDArray[np.bool_]) -> None:
    if not is_matched.any():
        raise InputError(
            f"{earlier.folder} has no item id in common with this catalogue: for a release of another domain set "
            "item_tower.link = 'content'"
        )
    shared = np.flatnonzero(is_matched)
    titles = dict(zip(earlier.catalogue.item_ids, earlier.catalogue.titles, strict=True))
    differ = sum(titles[catalogue.item_ids[i]] != catalogue.titles[i] for i in shared)
    if 2 * differ > len(shared):
        raise InputError(
            f"{earlier.folder} has {len(shared)} item ids in common with this catalogue, but {differ} of them have another "
            "title there: the same numbers mean other items; set item_tower.link = 'content'"
        )


def _provenance(
    kind: str, earlier: PublishedRun, ledger_path: Path | None, counts: dict[str, int]
) -> dict[str, Any]:
    privacy = earlier.report.get("privacy") or {}
    scenario = earlier.report.get("scenario") or {}
    is_same = ledger_path is not None and earlier.ledger_path == ledger_path.resolve()
    before = (earlier.report.get("started_from") or {}).get("statements") or []
    return {
        "init": kind,
        "from": str(earlier.folder),
        "catalogue_sha256": earlier.catalogue.sha256,
        "item_tower_sha256": tower_sha256(earlier.arrays["item_tower"]),
        "items": counts,
        "earlier": {
            "name": scenario.get("name"),
            "mode": privacy.get("mode"),
            "epsilon": privacy.get("epsilon"),
            "delta": privacy.get("delta"),
            "in_this_ledger": is_same,
        },
        "statements": [_statement(privacy, is_same), *before],
    }


def _statement(privacy: dict[str, Any], is_same_ledger: bool) -> str:
    if privacy.get("mode") == "off":
        return (
            "It stands on an earlier release WITHOUT privacy: no epsilon bounds what that tower, and so this one, says about "
            "the users of that run."
        )
    if is_same_ledger:
        return (
            "It stands on an earlier release about the same population, charged to the same ledger: epsilon as stated here "
            "covers both."
        )
    if privacy.get("epsilon") is None:
        return (
            "It stands on an earlier release that came without a report: what that one cost its users is not known here and "
            "not in epsilon."
        )
    return (
        f"It stands on an earlier release that cost its own users epsilon = {privacy['epsilon']:.3f} at delta = "
        f"{privacy['delta']:g}, charged to another ledger: for anybody whose log is behind both, the two add up."
    )
