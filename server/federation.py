"""The federation: enrol, agree, popularity, statistics, comparison, gradients, fit, metrics, publish.

Written against ``Transport`` alone. The order is that of ``docs/architecture.md``; every release follows the same four
lines: reserve in the ledger, ask for one secure sum, commit, publish what follows from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.events import ReleaseEvent
from privacy.accounting.ledger import Ledger
from privacy.accounting.plan import FederationPlan
from privacy.accounting.schedule import ScheduledRelease
from privacy.errors import InputError, PolicyRefusal, ProtocolError
from privacy.release_terms import ReleaseTerms, release_terms
from privacy.secagg.keys import Roster
from privacy.wire import federation as wire
from privacy.wire.federation import Arrays, Enrolment, Task, public_state_sha256
from recsys_models.item_towers.cold_start import fill_from_content
from recsys_models.item_towers.subspace import next_basis, start_basis, tower_from_product
from recsys_models.release_shapes import detail_layout, release_shape
from recsys_models.retrieval.presets import PRESETS
from server.detail import detail_from_sums
from server.item_tower import (
    SCORE_NORM,
    RoundClips,
    TowerOptimizer,
    popularity_arrays,
    statistics_arrays,
)
from server.plan import make_plan
from server.quality import Quality, quality_from_comparison, quality_from_sums
from server.scenario import Scenario
from server.secure_round import Exchange, SecureRounds, SecureSum, encode_each
from server.tower_start import TowerStart
from server.trained_tower import TowerInTraining
from server.transport import Transport

_UNDONE = ("item_tower", "blend", "blend_recall")
"""Published again as they were before, where gradient rounds brought nothing."""
_RECALL_RANGE = (1e-3, 1.0 - 1e-3)
"""Noise may say that nobody or everybody finds her item; as a probability that would be a certainty."""


class Watcher(Protocol):
    """Is told how the federation goes on; ``server.console.RunProgress`` is one."""

    def release(self, name: str, i: int | None = None, total: int | None = None) -> None:
        """A release begins."""
        ...

    def round(
        self,
        i: int,
        total: int,
        answered: int | None = None,
        of: int | None = None,
        epsilon: float | None = None,
    ) -> None:
        """A round of it is over."""
        ...


class Unwatched:
    """A watcher that nobody looks at: for audits, tests and programs that only want the outcome."""

    def release(self, name: str, i: int | None = None, total: int | None = None) -> None:
        """A release begins."""

    def round(
        self,
        i: int,
        total: int,
        answered: int | None = None,
        of: int | None = None,
        epsilon: float | None = None,
    ) -> None:
        """A round of it is over."""


@dataclass
class Outcome:
    """What a federation produced, whole or up to a refusal.

    Attributes:
        arrays: everything published, by name.
        qualities: released metrics by release name, in order.
        detail: the detailed metrics as they stand in the report; None where they were not released.
        seconds: wall-clock time by phase.
        chosen: the release whose tower was published.
        clip_norms: of the gradient rounds, in order, where the norm is adaptive.
    """

    arrays: Arrays = field(default_factory=dict[str, NDArray[Any]])
    qualities: dict[str, Quality] = field(default_factory=dict[str, Quality])
    detail: dict[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    chosen: str = ""
    clip_norms: list[float] = field(default_factory=list[float])


class Federation:
    """One run.

    Args:
        scenario: what is asked for.
        transport: reaches the clients.
        ledger: the population's; opened with the scenario's budget.
        roster: pinned identity keys, or None to pin the keys the clients enrol with.
        session: hex name of this run.
        n_items: size of the catalogue.
        catalogue_sha256: hex.
        watcher: is told of progress.
        after_release: called with a name after each metric release (simulations look at exact figures there).
        start: what the tower starts from; None for a random start.
        content: ``[n_items, F]`` public vectors of all items, from which items without statistics get a row; None leaves them
            without.
    """

    def __init__(
        self,
        scenario: Scenario,
        transport: Transport,
        ledger: Ledger,
        roster: Roster | None,
        *,
        session: str,
        n_items: int,
        catalogue_sha256: str,
        watcher: Watcher,
        after_release: Callable[[str], None] = lambda _name: None,
        start: TowerStart | None = None,
        content: NDArray[np.float32] | None = None,
    ) -> None:
        self.scenario = scenario
        self.ledger = ledger
        self.exchange = Exchange(transport, scenario.federation.deadline_s)
        self.outcome = Outcome()
        self._transport = transport
        self._roster = roster
        self._session = session
        self.n_items = n_items
        self.catalogue_sha256 = catalogue_sha256
        self._watcher = watcher
        self._after_release = after_release
        self.start = start
        self._content = content
        if content is None and scenario.model.item_tower != "ids":
            raise InputError(
                f"model.item_tower = {scenario.model.item_tower!r} needs the items' content vectors"
            )
        self._plan: FederationPlan | None = None
        self._rounds: SecureRounds | None = None
        self._unseen: dict[str, set[str]] = {}

    def run(self) -> Outcome:
        """Run the whole schedule.

        Raises:
            BudgetExceeded: before the release that the budget does not cover; earlier ones stand.
            ProtocolError: too few clients survived.
            InputError: the clients cannot form the federation that was asked for.
        """
        with self._phase("enrol"):
            self.enrol()
        names = {release.kind for release in self.plan.releases}
        with self._phase("popularity"):
            if "popularity" in names:
                self.release_popularity()
            self.begin_from_start()
            self.publish_content()
        if names & {"statistics", "statistics-subspace"}:
            with self._phase("statistics"):
                if "statistics" in names:
                    self.release_statistics()
                if "statistics-subspace" in names:
                    self.release_subspace()
                self.release_comparison("metrics-statistics")
        if "gradients" in names:
            with self._phase("gradients"):
                self.release_gradients()
        last_steps = [("fit", self.fit_encoders), ("metrics", self._release_final_metrics)]
        for name, act in reversed(last_steps) if self.plan.fit_ends_measuring else last_steps:
            with self._phase(name):
                act()
        with self._phase("publish"):
            self.publish(final=True)
        return self.outcome

    @property
    def _popularity_is_known(self) -> bool:
        return self.start is not None and self.start.keeps_popularity

    @property
    def has_plan(self) -> bool:
        """Whether clients have agreed to a plan yet."""
        return self._plan is not None

    @property
    def plan(self) -> FederationPlan:
        """The agreed plan."""
        if self._plan is None:
            raise ProtocolError("clients have not enrolled yet")
        return self._plan

    @property
    def rounds(self) -> SecureRounds:
        """The session's secure aggregates."""
        if self._rounds is None:
            raise ProtocolError("clients have not enrolled yet")
        return self._rounds

    # -- enrolment --------------------------------------------------------------------------------------------

    def enrol(self) -> None:
        """Learn who is there, agree on a plan, exchange keys."""
        asked = {client: b"" for client in self._transport.clients()}
        enrolments = self._read_enrolments(self.exchange.ask(wire.ENROL, asked))
        self._check_enrolments(enrolments)
        self._plan = make_plan(
            self.scenario,
            session=self._session,
            users_of={client: e.users for client, e in enrolments.items()},
            n_items=self.n_items,
            catalogue_sha256=self.catalogue_sha256,
            popularity_is_known=self._popularity_is_known,
        )
        agreed = self.exchange.ask(wire.AGREE, self._to_all(Task("plan", self._plan.to_json())))
        if set(agreed) != set(self._plan.cohort):
            self._agree_without(set(self._plan.cohort) - set(agreed), enrolments)
        roster = self._roster or Roster({client: enrolments[client].identity for client in self.plan.cohort})
        self._rounds = SecureRounds(self.exchange, self.plan, roster)
        self._rounds.open_epoch()

    def _read_enrolments(self, bodies: dict[str, bytes]) -> dict[str, Enrolment]:
        """Decode; a client whose enrolment cannot be read is a dropout, not the end of everybody's federation."""
        enrolments: dict[str, Enrolment] = {}
        for client, body in bodies.items():
            try:
                enrolments[client] = Enrolment.decode(body)
            except ProtocolError as error:
                self.exchange.dropouts.append(
                    {"client": client, "message": wire.ENROL, "reason": f"rejected: {error}"}
                )
        return enrolments

    def _check_enrolments(self, enrolments: dict[str, Enrolment]) -> None:
        for client, enrolment in enrolments.items():
            if enrolment.client_id != client:
                raise InputError(
                    f"client {client!r} enrolled as {enrolment.client_id!r}: each client has one name"
                )
            if enrolment.catalogue_sha256 != self.catalogue_sha256:
                raise InputError(
                    f"client {client!r} holds catalogue {enrolment.catalogue_sha256[:12]}…, the federation "
                    f"{self.catalogue_sha256[:12]}…: give every client the same catalogue file"
                )

    def _agree_without(self, refused: set[str], enrolments: dict[str, Enrolment]) -> None:
        """Plan once more for the clients that agreed, if they are enough; the others are left out by their own will."""
        reasons = "; ".join(self.exchange.refusals(wire.AGREE))
        remaining = {client: e.users for client, e in enrolments.items() if client not in refused}
        if len(remaining) < self.scenario.federation.min_clients:
            raise PolicyRefusal(
                "too-few-agreed",
                f"{len(remaining)} of {len(enrolments)} clients agreed to the plan, "
                f"{self.scenario.federation.min_clients} are needed ({reasons})",
            )
        self._plan = make_plan(
            self.scenario,
            session=self._session,
            users_of=remaining,
            n_items=self.n_items,
            catalogue_sha256=self.catalogue_sha256,
            popularity_is_known=self._popularity_is_known,
        )
        agreed = self.exchange.ask(wire.AGREE, self._to_all(Task("plan", self._plan.to_json())))
        if set(agreed) != set(self._plan.cohort):
            raise PolicyRefusal(
                "no-stable-cohort", "clients that had agreed refused the plan for fewer clients"
            )

    # -- releases ---------------------------------------------------------------------------------------------

    def release_popularity(self) -> None:
        """Release 1: a secure noisy histogram; the head items, negatives and the fallback ranking follow from it."""
        terms = self._terms("popularity")
        total = self._release_sum(terms, step=0)
        self._update(popularity_arrays(total, int(self.plan.settings["head"])))

    def begin_from_start(self) -> None:
        """Publish what the run starts from, where no statistics are going to replace it."""
        if self.start is None or self.scenario.recipe != "gradients":
            return
        self._update({**self.start.kept, **self.start.transitions, "item_tower": self.start.tower})

    def publish_content(self) -> None:
        """Content vectors of all items: one party computes them, so that all score with the same.

        They are public: a client could compute them, from the same catalogue.
        """
        if self._content is not None:
            self._update({"content": self._content})

    def release_statistics(self) -> None:
        """Release 2: Gram and transitions of the head items; item tower and transition channel follow from them."""
        head = self.outcome.arrays["head"]
        terms = self._terms("statistics")
        secure_sum = self._charged(terms, step=0)
        noise_sd = terms.executed_sd(len(secure_sum.survivors))
        total = secure_sum.in_units(terms.unit)
        arrays = statistics_arrays(total, noise_sd, head, self.n_items, self.plan.settings)
        if self.start is not None and "item_tower" in arrays:
            arrays["item_tower"] = self.start.completing(arrays["item_tower"], head)
        if self._content is not None and "item_tower" in arrays:
            tower = arrays["item_tower"]
            known: NDArray[np.bool_] = np.any(tower != 0.0, axis=1)
            arrays["item_tower"] = fill_from_content(tower, known, self._content)
        self._update(arrays)
        self.outcome.chosen = "statistics"

    def release_subspace(self) -> None:
        """Release 2 of a large catalogue: rounds of ``A V``; a tower of all items follows, instead of the head's alone."""
        terms = self._terms("statistics-subspace")
        rank, dim = int(self.plan.settings["subspace_rank"]), int(self.plan.settings["dim"])
        known = None if self.start is None else self.start.tower
        seed = int(self.plan.session[:8], 16)
        basis = start_basis(self.outcome.arrays["popularity"], rank, seed, known)
        product, noise_sd = np.zeros((self.n_items, rank)), 0.0
        for step in range(terms.release.steps):
            if step > 0:
                basis = next_basis(product, noise_sd)
            self._update({"basis": basis})
            secure_sum = self._charged(terms, step=step)
            noise_sd = terms.executed_sd(len(secure_sum.survivors))
            product = secure_sum.in_units(terms.unit).reshape(self.n_items, rank)
        tower = tower_from_product(product, noise_sd, dim, score_norm=SCORE_NORM).astype(np.float32)
        if self.start is not None:
            tower = self.start.completing(tower, np.flatnonzero(tower.any(axis=1)))
        self._update({"item_tower": tower})
        self.outcome.chosen = "statistics"

    def release_gradients(self) -> None:
        """Release 3: rounds of joint steps on [encoder + tower]; kept only if the released validation recall rose."""
        release = self.plan.release("gradients")
        before = dict(self.outcome.arrays)
        tower = self._tower_in_training(before.get("item_tower"))
        terms = self._terms("gradients")
        optimizer = TowerOptimizer(self.scenario.gradients.server_optimizer, self._server_learning_rate())
        expected_users = self.plan.settings["users"] * release.sampling_probability
        clip = RoundClips(terms, self.plan.settings["gradients"], expected_users)
        for step in range(release.steps):
            secure_sum = self._charged(terms, step=step, parameters=clip.parameters)
            gradient = clip.gradient(secure_sum.values)
            self.outcome.clip_norms = clip.path
            tower.step(optimizer, gradient / expected_users)
            self._update({"item_tower": tower.vectors})
        self.release_comparison("metrics-gradients")
        if not self._gradients_paid():
            self._update({name: before[name] for name in _UNDONE if name in before})
            self.publish(reset_encoder=True)
            return
        self.outcome.chosen = "gradients"

    def _tower_in_training(self, before: NDArray[np.float32] | None) -> TowerInTraining:
        """What the rounds move, published where nothing was before."""
        is_mapped = self.plan.settings["gradients"]["content_width"] > 0
        content = self._content if is_mapped else None
        if content is None:
            content = np.zeros((self.n_items, 0), dtype=np.float32)
        tower = TowerInTraining(
            self.scenario.model.item_tower,
            before,
            self.outcome.arrays["head"],
            content,
            dim=int(self.plan.settings["dim"]),
            seed=int(self.plan.session[:8], 16),
        )
        if before is None:
            self._update({"item_tower": tower.vectors})
        return tower

    def _server_learning_rate(self) -> float:
        if self.scenario.gradients.server_learning_rate is not None:
            return self.scenario.gradients.server_learning_rate
        if self.scenario.gradients.server_optimizer == "fedavg":
            return 1.0
        return 0.01 if self.scenario.recipe == "hybrid" else 0.05

    def _gradients_paid(self) -> bool:
        """Whether released recall@10 on validation is at least what it was before the gradients."""
        before = self.outcome.qualities.get("metrics-statistics")
        after = self.outcome.qualities["metrics-gradients"]
        return before is None or after.model["recall@10"].value >= before.model["recall@10"].value

    def fit_encoders(self) -> None:
        """Every client fits its encoder on the frozen tower; nothing comes back but an acknowledgement."""
        charged = any(release.kind == "fit" for release in self.plan.releases)
        is_ordinary = not (self.plan.private and self.plan.protect_within_client)
        if not charged and not (is_ordinary and self.plan.settings["fit"]["epochs"]):
            return
        name = "fit"
        self._watcher.release(name)
        reservation = self.ledger.reserve(self._event(self._terms(name))) if charged else None
        answers = self._tell(wire.FIT, Task(name))
        if reservation is not None:
            self.ledger.commit(reservation)
        self._watcher.round(1, 1, len(answers), len(self.plan.cohort), self._epsilon())

    def release_comparison(self, name: str) -> None:
        """Recall of every preset of the blend on validation items; all clients begin with the one that is chosen."""
        terms = self._terms(name)
        secure_sum = self._charged(terms, step=0, kind=wire.EVALUATE, parameters={"stage": "validation"})
        earlier = [quality.chosen for quality in self.outcome.qualities.values() if quality.chosen]
        first = earlier[-1] if earlier else self.plan.settings["blend"]
        quality = quality_from_comparison(secure_sum, terms, first)
        self.outcome.qualities[name] = quality
        recall = np.clip(quality.model["recall@10"].value, *_RECALL_RANGE)
        blend = np.array(PRESETS[quality.chosen], dtype=np.float32)
        self._update({"blend": blend, "blend_recall": np.array([recall], dtype=np.float32)})
        self.publish()
        self._after_release(name)

    def release_metrics(self, name: str) -> None:
        """Release 4: recall and NDCG as secure noisy sums."""
        terms = self._terms(name)
        secure_sum = self._charged(terms, step=0, kind=wire.EVALUATE, parameters={"stage": "test"})
        quality = quality_from_sums(secure_sum, terms)
        self.outcome.qualities[name] = quality
        self._after_release(name)

    def _release_final_metrics(self) -> None:
        self.release_metrics("metrics-final")
        if any(release.kind == "metrics-detail" for release in self.plan.releases):
            self.release_detail()

    def release_detail(self) -> None:
        """Release 5, where it is on: rank metrics, list properties and exposure by activity group."""
        terms = self._terms("metrics-detail")
        secure_sum = self._charged(terms, step=0, kind=wire.EVALUATE, parameters={"stage": "test"})
        layout = detail_layout(self.n_items, self.plan.settings, self.plan.private)
        self.outcome.detail = detail_from_sums(secure_sum, terms, layout, self.plan.settings)

    def publish(self, *, final: bool = False, reset_encoder: bool = False) -> None:
        """Send what clients have not seen yet."""
        parameters = {"final": final, "reset_encoder": reset_encoder}
        self._tell(wire.PUBLISH, Task("publish", parameters))

    # -- one release ------------------------------------------------------------------------------------------

    def _terms(self, name: str) -> ReleaseTerms:
        """The release's numbers, which every client computes for itself as well."""
        shape = release_shape(
            self.plan.release(name).kind,
            n_items=self.n_items,
            head=len(self.outcome.arrays.get("head", ())),
            settings=self.plan.settings,
            private=self.plan.private,
        )
        return release_terms(self.plan, name, shape)

    def _release_sum(self, terms: ReleaseTerms, *, step: int) -> NDArray[np.float64]:
        return self._charged(terms, step=step).in_units(terms.unit)

    def _charged(
        self,
        terms: ReleaseTerms,
        *,
        step: int,
        kind: str = wire.RELEASE,
        parameters: dict[str, Any] | None = None,
    ) -> SecureSum:
        """Reserve (all steps, before the first), ask for the secure sum, commit."""
        release = terms.release
        if step == 0:
            self._watcher.release(release.name, self._position(release), len(self.plan.releases))
        reservation = self.ledger.reserve(self._event(terms)) if step == 0 and self.plan.private else None
        tasks = self._with_unseen(Task(release.name, {"step": step, **(parameters or {})}))
        try:
            secure_sum = self.rounds.sum(
                tasks, terms, model_hash=public_state_sha256(self.outcome.arrays), kind=kind
            )
        finally:
            # Clients may have uploaded even if the sum failed, so a reservation that was acted on is never given back.
            if reservation is not None:
                self.ledger.commit(reservation)
        self._have_seen(secure_sum.survivors)
        self._watcher.round(
            step + 1, release.steps, len(secure_sum.survivors), len(self.plan.cohort), self._epsilon()
        )
        return secure_sum

    def _event(self, terms: ReleaseTerms) -> ReleaseEvent:
        return terms.event(simulated=self.scenario.seed is not None)

    def _position(self, release: ScheduledRelease) -> int:
        return [r.name for r in self.plan.releases].index(release.name) + 1

    def _epsilon(self) -> float | None:
        return self.ledger.epsilon_spent() if self.plan.private else None

    def _update(self, arrays: Arrays) -> None:
        """Change the public state; each client gets it with the next message that reaches it."""
        self.outcome.arrays.update(arrays)
        for client in self.plan.cohort:
            self._unseen.setdefault(client, set()).update(arrays)

    def _with_unseen(self, task: Task) -> dict[str, Task]:
        """The task for each client, with the arrays it has not acknowledged: a client that missed some can come back."""
        by_names: dict[frozenset[str], Task] = {}
        tasks: dict[str, Task] = {}
        for client in self.plan.cohort:
            names = frozenset(self._unseen.get(client, ()))
            arrays = {name: self.outcome.arrays[name] for name in sorted(names)}
            tasks[client] = by_names.setdefault(names, replace(task, arrays=arrays))
        return tasks

    def _have_seen(self, clients: Iterable[str]) -> None:
        for client in clients:
            self._unseen.pop(client, None)

    def _tell(self, kind: str, task: Task) -> dict[str, bytes]:
        """Send a task that every client acknowledges, with what it has not seen yet."""
        answers = self.exchange.ask(kind, encode_each(self._with_unseen(task), Task.encode))
        self._have_seen(answers)
        return answers

    def _to_all(self, task: Task) -> dict[str, bytes]:
        payload = task.encode()
        return {client: payload for client in self.plan.cohort}

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.outcome.seconds[name] = round(time.perf_counter() - started, 3)
