"""How a client answers each message. The order is always: policy, ledger, data, clip, noise, mask.

Nothing that goes wrong here reaches the server as text: a refusal is a short reason code, and whatever else happens is the
code "internal" there and a log line here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from client.behaviour_log import BehaviourLog, Stage
from client.calibration_fit import calibrate
from client.detail_evaluation import detail_contributions, user_detail
from client.encoder_fit import EncoderFit
from client.evaluation import (
    Ranks,
    comparison_contributions,
    metric_contributions,
    preset_ranks,
    rank_targets,
)
from client.gradients import GradientTrainer
from client.model import ClientModel
from client.ordinary_fit import OrdinaryFit
from client.plan_settings import check_settings
from client.policy import ClientPolicy
from client.private_file import write_private
from client.public_state import PublicState
from client.rating_fit import fitted_rating_model
from client.rerank_fit import RerankFit
from client.statistics import popularity_contributions, statistics_contributions, subspace_sum
from client.terms import agreed_terms
from privacy.accounting.ledger import Ledger
from privacy.accounting.plan import FederationPlan
from privacy.accounting.schedule import ScheduledRelease
from privacy.bounded import UserContributions
from privacy.errors import (
    BudgetExceeded,
    InputError,
    LedgerError,
    PolicyRefusal,
    ProtocolError,
    SensitivityViolation,
)
from privacy.randomness import RandomSource
from privacy.release_terms import SECTION, ReleaseTerms
from privacy.secagg.client_session import SecaggClient
from privacy.secagg.keys import Identity
from privacy.secagg.labels import RoundHeader
from privacy.wire import federation as wire
from privacy.wire.federation import (
    Answer,
    Arrays,
    Enrolment,
    OpenRound,
    Task,
    most_behind,
    round_task,
    round_to_two_digits,
)
from recsys_models.metrics.calibration import calibration_of_recall
from recsys_models.release_shapes import detail_layout
from recsys_models.retrieval.presets import PRESETS

_LOG = logging.getLogger("fedtower.client")

# Messages of the protocol alone: neither the model nor what was published is another one after them.
_CHANGES_NO_RANK = frozenset(
    {wire.ENROL, wire.ADVERTISE, wire.KEYS, wire.CONFIRM, wire.SURVIVORS, wire.REVEAL}
)
_STAGED = ("comparison", "metrics", "metrics-detail")

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (BudgetExceeded, "budget-exceeded"),
    (LedgerError, "ledger-untrusted"),
    (SensitivityViolation, "sensitivity-violated"),
    (ProtocolError, "protocol-violated"),
    (InputError, "input-unusable"),
)


class ClientHandlers:
    """One client: its log, its private model, its ledger, and an answer to every message of the wire inventory.

    Args:
        client_id: name in the roster.
        log: this client's users.
        catalogue_sha256: hex hash of the item catalogue.
        n_items: size of the catalogue.
        identity: signs for this client.
        secagg: this client's side of secure aggregation, with the pinned roster.
        ledger: what has been released about this client's users.
        policy: this client's own limits.
        randomness: source of noise, sampling and masks.
        state_dir: where the private model is kept.
        device: where the private model computes.
    """

    def __init__(
        self,
        *,
        client_id: str,
        log: BehaviourLog,
        catalogue_sha256: str,
        n_items: int,
        identity: Identity,
        secagg: SecaggClient,
        ledger: Ledger,
        policy: ClientPolicy,
        randomness: RandomSource,
        state_dir: Path,
        device: torch.device | None = None,
    ) -> None:
        self.client_id = client_id
        self.log = log
        self.policy = policy
        self.ledger = ledger
        self._catalogue_sha256 = catalogue_sha256
        self._n_items = n_items
        self._identity = identity
        self._secagg = secagg
        self._randomness = randomness
        self._state_dir = state_dir
        self._device = device
        self._plan: FederationPlan | None = None
        self._rounds_done: dict[str, int] = {}
        self._charged_releases: set[str] = set()
        self._fitted_without_noise = False
        self._trainer: GradientTrainer | None = None
        self._stored_memory = b""
        self._ranks: dict[Stage, Ranks] = {}
        self._handlers: dict[str, Callable[[bytes], bytes]] = {
            wire.ENROL: self._enrol,
            wire.AGREE: self._agree,
            wire.ADVERTISE: self._advertise,
            wire.KEYS: self._secagg.accept_keys,
            wire.CONFIRM: self._confirm,
            wire.RELEASE: self._release,
            wire.EVALUATE: self._release,
            wire.SURVIVORS: self._secagg.sign_survivors,
            wire.REVEAL: self._secagg.reveal,
            wire.PUBLISH: self._publish,
            wire.FIT: self._fit,
        }

    def answer(self, kind: str, payload: bytes) -> bytes:
        """Answer one message; never raises for what the message holds."""
        if kind not in _CHANGES_NO_RANK:
            self._ranks.clear()
        try:
            if kind not in self._handlers:
                raise ProtocolError(f"message kind {kind!r} is not in the wire inventory")
            body = self._handlers[kind](payload)
            self._remember()
            return Answer(body=body).encode()
        except PolicyRefusal as refusal:
            _LOG.warning("%s refuses %s: %s", self.client_id, kind, refusal)
            return Answer(refusal=refusal.reason_code).encode()
        except Exception as error:
            reason = next((code for known, code in _REASONS if isinstance(error, known)), "internal")
            if reason == "internal":
                _LOG.exception("%s failed to answer %s", self.client_id, kind)
            else:
                _LOG.warning("%s refuses %s: %s", self.client_id, kind, error)
            return Answer(refusal=reason).encode()

    def _remember(self) -> None:
        """Store what was answered before the answer leaves, so that a crash cannot make this client answer twice."""
        memory = self._secagg.memory.to_json()
        if memory != self._stored_memory:
            write_private(self._state_dir / "answered.json", memory)
            self._stored_memory = memory

    # -- enrolment and agreement ------------------------------------------------------------------------------

    @property
    def enrolled_users(self) -> int:
        """Number of users as the server is told: rounded down to two significant digits, at least 1."""
        return max(1, round_to_two_digits(self.log.n_users))

    def _enrol(self, _payload: bytes) -> bytes:
        return Enrolment(
            self.client_id, self._identity.public_bytes(), self.enrolled_users, self._catalogue_sha256
        ).encode()

    def _agree(self, payload: bytes) -> bytes:
        plan = FederationPlan.from_json(Task.decode(payload).parameters)
        if self.client_id not in plan.cohort:
            raise PolicyRefusal("not-in-cohort", f"the plan's cohort does not name {self.client_id}")
        # Compared with what the rounded number implies: else a server could search for the exact one, plan by plan.
        users = most_behind(self.enrolled_users)
        self.policy.check(plan, catalogue_sha256=self._catalogue_sha256, users=users)
        check_settings(plan.settings, protects_within_client=plan.private and plan.protect_within_client)
        # Everything that can fail comes first: else a plan could be agreed to half, with the last plan's encoder.
        public = PublicState(self._n_items, plan.settings["dim"], plan.settings["subspace_rank"])
        model = self._untrained(plan)
        self._close_trainer()
        self._plan, self.public, self.model = plan, public, model
        self._rounds_done = {}
        self._charged_releases = set()
        self._fitted_without_noise = False
        return b""

    def _fresh_model(self) -> ClientModel:
        """An untrained model; its start holds no data, so it may follow from public bytes and be repeatable."""
        model = self._untrained(self.plan)
        if self.public.blend is not None:
            model.begin_with(self.public.blend)
        if self.public.blend_recall is not None:
            model.calibration = calibration_of_recall(self.public.blend_recall)
        return model

    def _untrained(self, plan: FederationPlan) -> ClientModel:
        model = ClientModel(plan.settings, plan.session.encode(), self._device)
        model.begin_with(PRESETS[plan.settings["blend"]])
        model.draw_dropout_from(self._randomness)
        return model

    @property
    def plan(self) -> FederationPlan:
        """The agreed plan.

        Raises:
            ProtocolError: nothing was agreed yet.
        """
        if self._plan is None:
            raise ProtocolError("no plan was agreed")
        return self._plan

    @property
    def settings(self) -> dict[str, Any]:
        """Agreed settings, and whether the run is private."""
        return {**self.plan.settings, "private": self.plan.private}

    def _advertise(self, payload: bytes) -> bytes:
        parameters = Task.decode(payload).parameters
        return self._secagg.advertise(
            bytes.fromhex(self.plan.session), int(parameters["epoch"]), self.plan.cohort
        )

    def _confirm(self, payload: bytes) -> bytes:
        self._secagg.accept_confirmations(payload)
        return b""

    # -- releases ---------------------------------------------------------------------------------------------

    def _release(self, payload: bytes) -> bytes:
        request = OpenRound.decode(payload)
        header = RoundHeader.decode(request.header)
        release = self.plan.release(request.task.name)
        if self._fitted_without_noise and self.plan.fit_ends_measuring:
            raise PolicyRefusal("encoder-not-private", f"{release.name} after a fit without noise")
        self._accept(request.task.arrays)
        terms = self._terms(release)
        schema = terms.schema(len(self.plan.cohort))
        # All that may be refused, and for public reasons only, comes before the ledger is charged and data is read.
        self._check_header(header, request.task, terms)
        step = self._check_turn(release, request.task)
        self._secagg.check_upload(header, schema)
        self._check_task(release, request.task, step, terms)
        self._rounds_done[release.name] = step + 1
        values = self._charged(terms, lambda: self._values(release, request.task, terms))
        return self._secagg.upload(header, schema, {SECTION: values}, is_noised=self.plan.private)

    def _check_header(self, header: RoundHeader, task: Task, terms: ReleaseTerms) -> None:
        """The label must bind what this client sees, recomputed from the bytes it received."""
        header.require(
            session=bytes.fromhex(self.plan.session),
            task=round_task(task, self.plan.session),
            task_hash=task.bound_to(self.plan.sha256),
            model_hash=self.public.sha256,
            catalogue_hash=bytes.fromhex(self._catalogue_sha256),
            schema_hash=terms.schema(len(self.plan.cohort)).sha256,
        )
        if not set(header.cohort) <= set(self.plan.cohort):
            raise PolicyRefusal("unknown-clients", "the round invites clients that the plan does not name")
        if header.threshold < self.plan.threshold:
            # Noise shares are calibrated to the plan's threshold: fewer survivors would carry too little noise.
            raise PolicyRefusal(
                "threshold-below-plan", f"threshold {header.threshold}, agreed {self.plan.threshold}"
            )

    def _check_task(self, release: ScheduledRelease, task: Task, step: int, terms: ReleaseTerms) -> None:
        """What the task asks for is something this client computes; an engine that fails its guard is found here."""
        if release.kind == "gradients":
            self._gradient_trainer().check(terms, task.parameters.get("l2_clip_norm"), step)
        if release.kind == "statistics-subspace":
            _ = self.public.basis  # refused here if there is none
        stage = task.parameters.get("stage")
        if release.kind in _STAGED and stage not in get_args(Stage):
            raise ProtocolError(
                f"metrics were asked for stage {stage!r}; {', '.join(get_args(Stage))} are known"
            )

    def _check_turn(self, release: ScheduledRelease, task: Task) -> int:
        """The step that is asked for, if it is its turn."""
        done = self._rounds_done.get(release.name, 0)
        step = int(task.parameters.get("step", 0))
        # A round this client missed may be skipped, never repeated: a repetition is a second, uncharged answer.
        if not done <= step < release.steps:
            raise PolicyRefusal(
                "step-out-of-turn", f"{release.name} step {step}: done {done} of {release.steps}"
            )
        return step

    def _charged(self, terms: ReleaseTerms, compute: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
        """Reserve before data is read, commit before anything leaves; a crash in between counts as spent.

        All steps of a release are reserved together when the first is asked for.
        """
        name = terms.release.name
        if not self.plan.private or name in self._charged_releases:
            return compute()
        reservation = self.ledger.reserve(terms.event(simulated=self._randomness.is_simulated))
        self._charged_releases.add(name)
        values = compute()
        self.ledger.commit(reservation)
        return values

    def _terms(self, release: ScheduledRelease) -> ReleaseTerms:
        """What this client itself computes the release's numbers to be."""
        return agreed_terms(self.plan, release.name, self.public)

    def _values(self, release: ScheduledRelease, task: Task, terms: ReleaseTerms) -> NDArray[np.int64]:
        if release.kind == "gradients":
            return self._gradient_step(release, task, terms)
        if release.kind == "statistics-subspace":
            return terms.add_share(subspace_sum(self.log, self.public, terms), self._randomness)
        return terms.protect(self._contributions(release, task), self._randomness)

    def _contributions(self, release: ScheduledRelease, task: Task) -> UserContributions:
        if release.kind == "popularity":
            return popularity_contributions(self.log, self._n_items)
        if release.kind == "statistics":
            return statistics_contributions(
                self.log, self.public, dict(self.plan.settings), self.plan.private
            )
        stage: Stage = task.parameters["stage"]
        if release.kind == "comparison":
            return comparison_contributions(preset_ranks(self.model, self.log, self.public, stage))
        if release.kind == "metrics-detail":
            detail = user_detail(
                self.model,
                self.log,
                self.public,
                stage,
                diversity=self.plan.settings["evaluation"]["diversity"],
            )
            return detail_contributions(
                detail, detail_layout(self._n_items, self.plan.settings, self.plan.private)
            )
        return metric_contributions(self.ranks(stage))

    def ranks(self, stage: Stage) -> Ranks:
        """Ranks of this client's users as its model stands; they stay here.

        Kept until the next message that could change the model or what was published, so that who looks at the exact figures
        after a release, as a simulation does, has not everybody ranked again. Every release is such a message: what a server
        is answered is always computed anew, and takes no less time for what was kept.
        """
        if stage not in self._ranks:
            self._ranks[stage] = rank_targets(self.model, self.log, self.public, stage)
        return self._ranks[stage]

    def _gradient_trainer(self) -> GradientTrainer:
        if self._trainer is None:
            self._trainer = GradientTrainer(
                self.model,
                lambda: self.log.training,
                self.public,
                self.settings,
                users=self.enrolled_users,
                randomness=self._randomness,
            )
        return self._trainer

    def _gradient_step(self, release: ScheduledRelease, task: Task, terms: ReleaseTerms) -> NDArray[np.int64]:
        values = self._gradient_trainer().step(terms, task.parameters.get("l2_clip_norm"))
        if self._rounds_done[release.name] == release.steps:
            self._close_trainer()
        return values

    def _close_trainer(self) -> None:
        if self._trainer is not None:
            self._trainer.close()
            self._trainer = None

    # -- what comes back --------------------------------------------------------------------------------------

    def _accept(self, arrays: Arrays) -> None:
        """Take in what was published; a new blend to begin with, or its recall, replaces what the model has.

        What is known already may come again, when the server missed an answer: what was fitted since then stays.
        """
        before, recall_before = self.public.blend, self.public.blend_recall
        self.public.update(arrays)
        blend, recall = self.public.blend, self.public.blend_recall
        if blend is not None and (before is None or not np.array_equal(blend, before)):
            self.model.begin_with(blend)
        if recall is not None and recall != recall_before:
            self.model.calibration = calibration_of_recall(recall)

    def _publish(self, payload: bytes) -> bytes:
        task = Task.decode(payload)
        if task.parameters.get("reset_encoder", False):
            self._close_trainer()
            self.model = self._fresh_model()
        self._accept(task.arrays)
        if task.parameters.get("final", False):
            self.model.save(self._state_dir / "encoder.safetensors")
        return b""

    def _fit(self, payload: bytes) -> bytes:
        task = Task.decode(payload)
        self._close_trainer()
        self._accept(task.arrays)
        if self.plan.private and self.plan.protect_within_client:
            release = self.plan.release(task.name)
            if release.kind != "fit":
                raise ProtocolError(f"release {release.name!r} is of kind {release.kind!r}, not a fit")
            self._check_turn(release, Task(task.name, {"step": release.steps - 1}))
            terms = self._terms(release)
            # An engine that fails its guard is found here, before anything is charged.
            fit = self._encoder_fit()
            self._rounds_done[release.name] = release.steps
            reservation = self.ledger.reserve(terms.event(simulated=self._randomness.is_simulated))
            fit.private(terms)
            self.ledger.commit(reservation)
        else:
            self._fitted_without_noise = True
            settings = self.settings
            fit = OrdinaryFit(self.model, self.log, self.public, settings, self._randomness)
            fit.run()
            if settings["reranker"] == "neumf":
                self._rerank_fit().run(settings["fit"]["batch_users"])
            calibrate(self.model, self.log.seen("test"), self.model.scorer(self.public))
            fit.count_all()
            if self.plan.settings["rating_scale"] is not None:
                low, high = self.plan.settings["rating_scale"]
                self.model.rating = fitted_rating_model(
                    self.log.before_test, self.public.item_tower, (low, high), randomness=self._randomness
                )
        return b""

    def _rerank_fit(self) -> RerankFit:
        scorer = self.model.scorer(self.public)
        return RerankFit(self.model, self.log.seen("test"), scorer, randomness=self._randomness)

    def _encoder_fit(self) -> EncoderFit:
        return EncoderFit(
            self.model,
            lambda: self.log.seen("test"),
            self.public,
            dict(self.plan.settings),
            users=self.enrolled_users,
            randomness=self._randomness,
        )
