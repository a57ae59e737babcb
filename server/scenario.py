"""What a federation is asked to do: a TOML file, checked field by field before anything starts."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from privacy.errors import InputError
from recsys_models.encoder_sizes import ENCODER_SIZES, ENCODERS_WITH_HEADS, EncoderSize
from recsys_models.metrics.detail import MAX_GROUPS
from server.refused_settings import reason_for


class _Section(BaseModel):
    # By alias: "from" is a word of Python's own.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)


Share = Annotated[float, Field(ge=0.0, le=1.0)]


Rating = Annotated[float, Field(ge=-1e6, le=1e6)]


def _rises(scale: tuple[float, float]) -> tuple[float, float]:
    if not scale[0] < scale[1]:
        raise ValueError("must be two numbers, the lowest rating first")
    return scale


def _ascending(bounds: tuple[int, ...]) -> tuple[int, ...]:
    if list(bounds) != sorted(set(bounds)):
        raise ValueError("must ascend, each once")
    return bounds


class PrivacySection(_Section):
    """Budget and where the noise is added.

    Attributes:
        mode: "off" is for research: no noise, no clipping that matters, shouted in every output.
        epsilon: budget of everything that leaves the clients and, with ``protect_within_client``, of the encoders too.
        noise: "distributed" (shares of one noise), "per_client" (each adds all of it) or "auto": per_client up to 4
            clients, distributed above; "distributed" up to 4 clients is refused.
        protect_within_client: False fits encoders without noise, which exposes users of one client to each other. Encoders
            in gradient rounds are noised all the same, and the final metrics are then released before that fit.
        colluding: clients assumed to help the server subtract noise; default a fifth of the cohort, at least 1.
        per_user_gradients: how clients take and clip each user's gradient of the encoder: "hooks" writes every user's down,
            "ghost" only its norm, for wide encoders, with a slightly smaller clip norm; "auto" is hooks until their memory
            would exceed 256 MiB a batch. Guarantee and noise are the same.
        noise_multipliers: fixed noise by release name instead of a fitted one; the budget still refuses.
    """

    mode: Literal["on", "off"] = "on"
    epsilon: Annotated[float, Field(gt=0.0)] = 8.0
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-5
    noise: Literal["auto", "distributed", "per_client"] = "auto"
    colluding: Annotated[int, Field(ge=0)] | None = None
    protect_within_client: bool = True
    per_user_gradients: Literal["auto", "hooks", "ghost"] = "auto"
    noise_multipliers: dict[str, Annotated[float, Field(gt=0.0)]] = {}


class StatisticsSection(_Section):
    """Popularity and the item-item statistics.

    Attributes:
        head: items the statistics cover; default from the number of users, items and epsilon.
        method: how the item tower is found: "matrix" (Gram matrix of the head items, one round), "subspace" (rounds of the
            power method over all items, ``n_items * subspace_rank`` cells each), or "auto": subspace where the head that
            the noise allows is larger than a dense matrix may be (``server.plan.statistics_method``).
        subspace_rank: columns; default 8 more than the width of item vectors.
        subspace_rounds: each with fresh noise; they share the Gram part of the statistics' budget.
        gram_share: of the statistics' squared norm that goes to co-occurrence; 0, the default with a matrix, makes the item
            tower of the transitions read in both directions, which needs no share of its own. By a subspace it is 0.5.
        orders: transitions up to this many steps apart are counted.
        decay: weight of a step relative to the next shorter one.
    """

    method: Literal["auto", "matrix", "subspace"] = "auto"
    subspace_rank: Annotated[int, Field(ge=1, le=2048)] | None = None
    subspace_rounds: Annotated[int, Field(ge=1, le=20)] = 3

    head: Annotated[int, Field(ge=2)] | None = None
    gram_share: Share | None = None
    orders: Annotated[int, Field(ge=1, le=10)] = 5
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7


class GradientsSection(_Section):
    """Joint training of encoder and item tower, one step a round or, with noise = "per_client", several.

    Attributes:
        local_steps: private steps that each client takes on its own copy of the tower's head between two rounds; all are
            charged.
        local_learning_rate: of those steps, on the mean gradient per expected user; read only if there are several. With
            the same ``server_learning_rate`` and "fedavg" the result is federated averaging.
        l2_clip_norm: of a user's joint gradient; with ``adaptive_clip``, that of the first round.
        adaptive_clip: whether the norm follows a quantile of the users' norms, by a count that is part of the release.
        target_quantile: share of users that should be within the norm.
        clip_rate: longest geometric step of the norm in a round.
        min_users: the hybrid recipe leaves gradients out below this many users, where their noise exceeds what a few
            rounds can learn, and spends their share on the statistics.
        negatives: sampled items a user, for every loss but "softmax".
        loss: of the next item: "sampled-softmax" with its log-q correction; "softmax" over all items of the tower, for at
            most 10,000 of them; "bpr", "bce" and "gbce" (``recsys_models.sigmoid_losses``).
        calibration: t of "gbce"; 0 is "bce".
    """

    rounds: Annotated[int, Field(ge=1, le=10_000)] | None = None
    min_users: Annotated[int, Field(ge=0)] = 100_000
    sampling_probability: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    l2_clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    adaptive_clip: bool = False
    target_quantile: Annotated[float, Field(ge=0.01, le=0.99)] = 0.5
    clip_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    negatives: Annotated[int, Field(ge=1, le=10_000)] = 64
    loss: Literal["sampled-softmax", "softmax", "bpr", "bce", "gbce"] = "sampled-softmax"
    calibration: Share = 0.75
    server_optimizer: Literal["fedavg", "fedadam"] = "fedadam"
    server_learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    client_learning_rate: Annotated[float, Field(gt=0.0)] = 0.01
    local_steps: Annotated[int, Field(ge=1, le=1000)] = 1
    local_learning_rate: Annotated[float, Field(gt=0.0)] = 1.0

    @property
    def asked(self) -> str:
        """Settings of the rounds that are not the defaults, as text; ``min_users`` only says whether there are rounds."""
        asked = self.model_dump(exclude_defaults=True, exclude={"min_users"})
        return ", ".join(f"gradients.{name} = {value!r}" for name, value in asked.items())


class FitSection(_Section):
    """Training of each client's encoder on the published tower; nothing is sent.

    Attributes:
        steps: noisy steps, where users of a client are protected from each other.
        sampling_probability: of a user in a noisy step.
        epochs: passes over the client's log at most, where they are not; 0 leaves the fit out.
        dropout: in those passes.
        own_items: whether those passes also move the item vectors, in a copy that stays at the client; else the copy is the
            published vectors times one factor.
    """

    steps: Annotated[int, Field(ge=0, le=100_000)] | None = None
    sampling_probability: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    l2_clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    epochs: Annotated[int, Field(ge=0, le=10_000)] = 20
    dropout: Annotated[float, Field(ge=0.0, le=0.9)] = 0.2
    own_items: bool = True


class ModelSection(_Section):
    """Encoder and tower.

    Attributes:
        size: what ``dim``, ``blocks``, ``heads`` and ``dropout`` are where they are left out
            (``recsys_models.encoder_sizes``).
        heads: attention heads, a divisor of ``dim``; more than 1 only for an encoder that has heads.
        dropout: while an encoder trains.
        reranker: "neumf" lets each client re-rank its best 100 items by a model of its own, fitted without noise after the
            encoder; so not beside ``protect_within_client``.
        rating_scale: lowest and highest rating, public, where logs have a ``value``: each client then predicts ratings too, by
            a model of its own; as above.
        content: "auto" publishes vectors of the items' titles, texts and attributes, a recall channel of their own, and gives
            items outside the statistics a row predicted from them (``recsys_models.item_towers.cold_start``). Facts and
            post-processing, so it costs no budget. "auto" makes the text's part of hashed n-grams; "pretrained" of pretrained
            token vectors, which only the server needs installed (the extra ``fedtower[text]``).
        item_tower: what gradient rounds train: a row for each head item ("ids"), a linear map of the public content vectors
            ("content"), or both, added up ("fusion"). With a map an item without any event gets a vector from its content.
    """

    size: Literal["S", "M", "L"] = "S"
    dim: Annotated[int, Field(ge=2, le=1024)] | None = None
    max_length: Annotated[int, Field(ge=1, le=2048)] = 50
    blocks: Annotated[int, Field(ge=1, le=32)] | None = None
    heads: Annotated[int, Field(ge=1, le=32)] | None = None
    dropout: Annotated[float, Field(ge=0.0, le=0.9)] | None = None
    reranker: Literal["none", "neumf"] = "none"
    rating_scale: Annotated[tuple[Rating, Rating], AfterValidator(_rises)] | None = None
    content: Literal["auto", "pretrained", "off"] = "auto"
    item_tower: Literal["ids", "content", "fusion"] = "ids"

    @property
    def text_method(self) -> Literal["hashed", "wordllama"]:
        """What the texts' vectors are made of (``recsys_models.item_towers.text``)."""
        return "wordllama" if self.content == "pretrained" else "hashed"


class ItemTowerSection(_Section):
    """What the item tower starts from (``server.tower_start``).

    Attributes:
        init: "random", "text" (the catalogue's content), or "release" (an earlier run's published tower).
        from_run: ``from`` in the file: run folder of that release; relative paths are relative to the scenario file.
        link: how a release's items are found in this catalogue: by item id (the rest by content), or, for another domain,
            all of them by "content".
    """

    init: Literal["random", "text", "release"] = "random"
    from_run: Annotated[str, Field(min_length=1)] | None = Field(default=None, alias="from")
    link: Literal["ids", "content"] = "ids"

    @model_validator(mode="after")
    def _names_its_release(self) -> ItemTowerSection:
        if (self.init == "release") is (self.from_run is None):
            raise ValueError("init = 'release' and from = 'RUN FOLDER' belong together: give both or neither")
        return self


class ResumeSection(_Section):
    """The run that this one continues: its published arrays, and its ledger (``--resume RUN`` sets ``ledger.path``).

    Attributes:
        from_run: ``from`` in the file: the earlier run's folder; relative paths are relative to the scenario file.
        number: of this run in the chain, so that a seed gives each of them noise of its own.
    """

    from_run: Annotated[str, Field(min_length=1)] | None = Field(default=None, alias="from")
    number: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _is_later(self) -> ResumeSection:
        if (self.number > 1) is (self.from_run is None):
            raise ValueError("from = 'RUN FOLDER' and a number of at least 2 belong together")
        return self


class EvaluationSection(_Section):
    """The detailed metric release, beside the core one (``docs/evaluation.md``).

    Attributes:
        detail: "auto" makes it where its noise is not all it says: without privacy, or from 5,000 enrolled users on at
            epsilon = 8, from more at smaller budgets (``server.plan.detail_from_users``).
        group_bounds: least number of training events of each activity group but the first. Public: never chosen on data.
        min_group_users: groups that surely have fewer users are not reported; a client's policy may ask for more.
        diversity: what tells two items of a list apart: vectors of the item tower, or attributes of the catalogue.
    """

    detail: Literal["auto", "on", "off"] = "auto"
    group_bounds: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=MAX_GROUPS - 1), AfterValidator(_ascending)
    ] = (10, 20, 50, 100)
    min_group_users: Annotated[int, Field(ge=1)] = 20
    diversity: Literal["item-tower", "attributes"] = "item-tower"


class SharesSection(_Section):
    """How mu^2 is divided among the releases (``privacy.accounting.schedule``); they need not add up to 1.

    Attributes:
        popularity: default 0.08, and more where few users share a small budget (``server.plan.popularity_share``): head
            items that are not popular cost every later release.
        metrics_detail: counts only where the detailed metrics are released.
    """

    popularity: Share | None = None
    statistics: Share = 0.70
    gradients: Share = 0.07
    fit: Share = 0.05
    metrics: Share = 0.12
    metrics_detail: Share = 0.045


class FederationSection(_Section):
    """Waiting and cohorts."""

    min_clients: Annotated[int, Field(ge=3)] = 3
    deadline_s: Annotated[float, Field(gt=0.0)] = 300.0


class LedgerSection(_Section):
    """Where the server keeps the budget; left out, in the run folder, where it ends with the run.

    Attributes:
        path: a population's ledger (``fedtower budget open``); its terms are in the file and are not changed by a run.
        deployment: whose slice of it the run may spend (``fedtower budget slice``).
        window: the data window the clients' logs are from; needed once the ledger has closed one.
    """

    path: str | None = None
    deployment: Annotated[str, Field(min_length=1)] | None = None
    window: Annotated[str, Field(min_length=1)] | None = None


class SimulationSection(_Section):
    """Only read by ``fedtower simulate`` and ``fedtower provision``: who the clients are.

    Attributes:
        protocol: how the simulated clients hold items out, ``last-out`` as a deployment does, or at one moment for all.
    """

    clients: Annotated[int, Field(ge=1, le=1000)] = 5
    split: Literal["equal", "size-skew", "attribute"] = "equal"
    alpha: Annotated[float, Field(gt=0.0)] = 0.5
    attribute: str | None = None
    users: Annotated[int, Field(ge=1)] = 2000
    items: Annotated[int, Field(ge=2)] = 1000
    data: str | None = None
    protocol: Literal["last-out", "time"] = "last-out"


class Scenario(_Section):
    """One federation, from a TOML file and the command line.

    Attributes:
        recipe: which releases train the tower; see ``server.plan``.
        encoder: the user encoder every client trains for itself.
        seed: only for simulations; absent, all randomness is the operating system's.
    """

    name: str = "built-in"
    recipe: Literal["statistics", "gradients", "hybrid"] = "hybrid"
    encoder: Literal["attention", "gated-attention", "hstu", "gru", "cnn", "mean-pool"] = "attention"
    device: str = "auto"
    seed: Annotated[int, Field(ge=0)] | None = None
    privacy: PrivacySection = PrivacySection()
    model: ModelSection = ModelSection()
    item_tower: ItemTowerSection = ItemTowerSection()
    resume: ResumeSection = ResumeSection()
    statistics: StatisticsSection = StatisticsSection()
    gradients: GradientsSection = GradientsSection()
    fit: FitSection = FitSection()
    evaluation: EvaluationSection = EvaluationSection()
    shares: SharesSection = SharesSection()
    federation: FederationSection = FederationSection()
    ledger: LedgerSection = LedgerSection()
    simulation: SimulationSection = SimulationSection()

    @model_validator(mode="after")
    def _refuse_several_noisy_meanings(self) -> Scenario:
        if self.privacy.mode == "off" and self.privacy.noise_multipliers:
            raise ValueError(
                "privacy.mode = 'off' and privacy.noise_multipliers contradict each other: drop one"
            )
        return self

    @model_validator(mode="after")
    def _refuse_local_steps_that_share_noise(self) -> Scenario:
        if self.gradients.local_steps == 1:
            return self
        if self.gradients.adaptive_clip:
            raise ValueError(
                "gradients.adaptive_clip counts users once a round, gradients.local_steps clips them several times: drop one"
            )
        if self.private and self.privacy.noise == "distributed":
            raise ValueError(
                "several noisy local steps cannot share one distributed noise: the second step would start from weights "
                "that carry only a part of it; use privacy.noise = 'per_client', or gradients.local_steps = 1"
            )
        return self

    @model_validator(mode="after")
    def _refuse_a_map_that_nothing_trains(self) -> Scenario:
        tower = self.model.item_tower
        if tower == "ids":
            return self
        if self.recipe == "statistics":
            raise ValueError(
                f"model.item_tower = {tower!r} is trained by gradient rounds, and recipe = 'statistics' has none: use "
                "recipe = 'gradients' or 'hybrid', or model.item_tower = 'ids'"
            )
        if self.model.content == "off":
            raise ValueError(
                f"model.item_tower = {tower!r} maps public content, and model.content = 'off' leaves it out: use 'auto', or "
                "model.item_tower = 'ids'"
            )
        if self.gradients.local_steps > 1:
            raise ValueError(
                f"gradients.local_steps = {self.gradients.local_steps} moves a client's own copy of the rows it touches, and "
                f"model.item_tower = {tower!r} a map behind all rows: use gradients.local_steps = 1, or "
                "model.item_tower = 'ids'"
            )
        return self

    @model_validator(mode="after")
    def _refuse_settings_of_rounds_that_there_are_not(self) -> Scenario:
        if self.recipe == "statistics" and self.gradients.asked:
            raise ValueError(
                f"{self.gradients.asked}: read by gradient rounds alone, and recipe = 'statistics' has none: use recipe = "
                "'gradients' or 'hybrid', or leave it at its default"
            )
        return self

    @model_validator(mode="after")
    def _refuse_two_starts(self) -> Scenario:
        if self.resume.from_run is not None and self.item_tower.init != "random":
            raise ValueError("resume.from already gives the tower's start: drop item_tower.init")
        return self

    @model_validator(mode="after")
    def _refuse_heads_that_do_not_fit(self) -> Scenario:
        size, asked = self.encoder_size, self.model.heads
        if asked is not None and asked > size.heads:
            raise ValueError(
                f"model.heads = {asked}: the encoder {self.encoder!r} has no heads; {', '.join(ENCODERS_WITH_HEADS)} have"
            )
        if size.dim % size.heads:
            raise ValueError(
                f"model.heads = {size.heads} does not divide model.dim = {size.dim}: set model.heads to a divisor"
            )
        return self

    @model_validator(mode="after")
    def _refuse_what_would_break_a_promise_within_a_client(self) -> Scenario:
        asked = {
            "reranker": self.model.reranker != "none",
            "rating_scale": self.model.rating_scale is not None,
        }
        names = " and ".join(f"model.{name}" for name, is_asked in asked.items() if is_asked)
        if names and self.private and self.privacy.protect_within_client:
            raise ValueError(
                f"{names}: fitted without noise, so one user of a client would show in what its others are recommended; set "
                "privacy.protect_within_client = false, or leave it out"
            )
        return self

    @property
    def encoder_size(self) -> EncoderSize:
        """The encoder's size: that of ``model.size``, and what the section itself says over it."""
        model, size = self.model, ENCODER_SIZES[self.model.size]
        has_heads = self.encoder in ENCODERS_WITH_HEADS
        return EncoderSize(
            dim=size.dim if model.dim is None else model.dim,
            blocks=size.blocks if model.blocks is None else model.blocks,
            heads=(size.heads if model.heads is None else model.heads) if has_heads else 1,
            dropout=size.dropout if model.dropout is None else model.dropout,
        )

    @property
    def private(self) -> bool:
        """Whether noise is added at all."""
        return self.privacy.mode == "on"


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        InputError: unreadable, not TOML, or a field is unknown or out of range; one line that names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read scenario {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"scenario {path} is not UTF-8 text") from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"scenario {path} is not valid TOML: {error}") from None
    return _with_paths_from(parse_scenario(document, source=str(path)), path.resolve().parent)


def _with_paths_from(scenario: Scenario, folder: Path) -> Scenario:
    """Earlier runs are found from the scenario's own folder, in whatever folder the server's process runs."""
    changes = {
        f"{name}.from": str(folder / section.from_run)
        for name, section in (("item_tower", scenario.item_tower), ("resume", scenario.resume))
        if section.from_run is not None
    }
    return override(scenario, changes) if changes else scenario


def parse_scenario(document: dict[str, Any], *, source: str) -> Scenario:
    """Check a scenario's fields; all complaints in one line."""
    try:
        return Scenario.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{source}: " + "; ".join(_complaint(e) for e in error.errors())) from None


def _complaint(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "scenario"
    refused = reason_for(where, error["input"])
    if refused is not None:
        return f"{where} = {error['input']!r} is refused: {refused}"
    if error["type"] == "extra_forbidden":
        return f"unknown setting {where!r}{_closest(where)}"
    given = error["input"]
    shown = (
        ""
        if isinstance(given, dict) or (isinstance(given, float) and math.isnan(given))
        else f" (got {given!r})"
    )
    return f"{where}: {error['msg']}{shown}"


def _closest(where: str) -> str:
    import difflib

    known = [name for name in Scenario.model_fields] + [
        f"{section}.{inner.alias or name}"
        for section, field in Scenario.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for name, inner in field.annotation.model_fields.items()
    ]
    match = difflib.get_close_matches(where, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def override(scenario: Scenario, changes: dict[str, Any]) -> Scenario:
    """Return the scenario with dotted settings replaced (``{"privacy.epsilon": 4.0}``), checked again."""
    document = scenario.model_dump(exclude_none=True)
    for dotted, value in changes.items():
        *sections, name = dotted.split(".")
        target = document
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    return parse_scenario(document, source="command line")
