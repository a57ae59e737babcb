"""The local half of release 3: one private step on [encoder + item tower] a round.

Each round every user takes part with probability q, drawn by this client alone (Poisson sampling). The joint gradient of a
user, encoder parameters, map of content and item rows together, is clipped as one vector; the tower part, map and rows as far
as the plan trains them (``recsys_models.item_towers.content_map``), gets this client's share of the noise and goes into the
secure sum, the encoder part gets all of the noise and moves the encoder here. Noise on the encoder is needed although it never
leaves: the encoder of the next round shapes the gradients of other users of this client (``docs/privacy.md``, trap 1).

With an adaptive clip norm the round names the norm, and the vector has one cell more, the count of users within it
(``privacy.mechanisms.joint_clip``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.local_steps import LocalTraining
from client.model import ClientModel
from client.public_state import PublicState
from privacy.bounded import BoundedSum
from privacy.errors import PolicyRefusal, ProtocolError
from privacy.mechanisms.discrete_gaussian import add_noise
from privacy.mechanisms.joint_clip import JointClip
from privacy.randomness import RandomSource
from privacy.release_terms import ReleaseTerms
from privacy.rounded_once import reach_before_rounding
from privacy.user_gradients.clipped_sum import Method, choose_method, clipped_sum, wrap_for
from privacy.user_gradients.engine import LossFn, encoder_size, set_encoder_gradient
from privacy.user_gradients.guard import check_engine
from recsys_models.batches import NextItemBatch, next_item_batch
from recsys_models.data.histories import TimedHistories, made_up_times
from recsys_models.item_towers.content_map import MappedEncoder, mapped_loss
from recsys_models.negatives import FULL_SOFTMAX_ITEMS, CatalogueSampler
from recsys_models.release_shapes import trained_rows
from recsys_models.sampled_losses import sampled_loss

_SHORTEST = 2  # a next-item loss needs an item and its successor
_CHUNK = 256  # users per backward pass; bounds memory, changes nothing else
_CHUNK_SLOTS = 2**19  # and item vectors in one
_GUARD_USERS = 8
_GUARD_EVENTS = 6


@dataclass(frozen=True)
class RoundClip:
    """How users are clipped in one round.

    Attributes:
        l2_clip_norm: of a user's joint gradient.
        unit: grid step of the gradients' cells.
        l2_bound: of a user's joint gradient, in grid steps.
        joint: how gradients and count share the bound; None where the clip norm is fixed and nobody is counted.
        norm: that the round names; as ``l2_clip_norm`` but for half a grid step.
    """

    l2_clip_norm: float
    unit: float
    l2_bound: int
    joint: JointClip | None
    norm: float

    def count(self, norms: NDArray[np.float64]) -> int:
        """What users of these norms before clipping add to the count's cell."""
        return 0 if self.joint is None else self.joint.count(norms, self.norm)

    def joined(self, gradients: BoundedSum, count: int, terms: ReleaseTerms) -> BoundedSum:
        """The release's vector: gradients, and the count where there is one."""
        return gradients if self.joint is None else self.joint.joined(gradients, count, terms.unit)


class GradientTrainer:
    """Rounds of one gradient release for one client.

    The engine is checked when this is made, on made-up users; the log is not read before the first step.

    Args:
        model: the private encoder, moved in place.
        training: gives the histories of this client's users, catalogue indices.
        public: what was published; its head items are the rows of the trained tower.
        settings: agreed model settings.
        users: this client's number of users as enrolled (rounded): the public denominator of the encoder's step.
        randomness: for sampling, negatives and noise.

    Attributes:
        method: by which per-user gradients are taken.

    Raises:
        ProtocolError: a softmax over more head items than it is offered for, or a map of content that is not as agreed.
    """

    def __init__(
        self,
        model: ClientModel,
        training: Callable[[], Sequence[NDArray[np.int64]]],
        public: PublicState,
        settings: dict[str, Any],
        *,
        users: int,
        randomness: RandomSource,
    ) -> None:
        gradients = settings["gradients"]
        self._training = training
        self._public = public
        self._head = public.head.copy()
        self._sampler = CatalogueSampler(len(public.head), public.popularity[public.head].astype(np.float64))
        self._negatives: int = gradients["negatives"]
        self._max_length: int = settings["max_length"]
        self._is_full_softmax = gradients["loss"] == "softmax"
        candidates = len(self._head) if self._is_full_softmax else self._negatives
        if self._is_full_softmax and candidates > FULL_SOFTMAX_ITEMS:
            raise ProtocolError(
                f"a softmax over {candidates} published head items; at most {FULL_SOFTMAX_ITEMS}"
            )
        self._content = self._agreed_content(gradients["content_width"])
        self._rows = trained_rows(gradients["item_tower"], len(self._head))
        # Content rides beside the item vectors, in slots that are wider by so much.
        wider = 1 + gradients["content_width"] // public.dim
        self._chunk = max(1, min(_CHUNK, _CHUNK_SLOTS // ((self._max_length + 1 + candidates) * wider)))
        self._loss = sampled_loss(
            "sampled-softmax" if self._is_full_softmax else gradients["loss"],
            negatives=self._negatives,
            n_items=max(2, len(self._head)),
            calibration=gradients["calibration"],
        )
        self._expected_users = max(users * gradients["sampling_probability"], 1.0)
        self._settings: dict[str, Any] = gradients
        self._randomness = randomness
        self._device = model.device
        self._raw_encoder = model.recommender.encoder
        self._trained = self._with_map(gradients["content_width"])
        self.method: Method = choose_method(settings["per_user_gradients"], self._trained, self._chunk)
        self._guard()
        self._encoder = wrap_for(self.method, self._trained)
        # Adam divides by the gradient's size, which under noise is the noise's: it would turn noise into full steps.
        private = bool(settings["private"])
        learning_rate = gradients["client_learning_rate"]
        parameters = self._raw_encoder.parameters()
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(parameters, lr=learning_rate)
            if private
            else torch.optim.Adam(parameters, lr=learning_rate)
        )

    @property
    def encoder_parameters(self) -> int:
        """Length of the encoder's part of the joint vector, which stays here."""
        return encoder_size(self._raw_encoder)

    @property
    def layer_parameters(self) -> int:
        """Length of what comes before the item rows: the encoder's part and that of the map of content."""
        return encoder_size(self._trained)

    def _agreed_content(self, width: int) -> torch.Tensor | None:
        """Public content of the head items ``[K, F]``; None where no map is trained.

        Raises:
            ProtocolError: none was published, or of another width than agreed.
        """
        if not width:
            return None
        content = self._public.content[self._head]
        if content.shape[1] != width:
            raise ProtocolError(f"published content of width {content.shape[1]}, agreed {width}")
        return torch.from_numpy(content)

    def _with_map(self, width: int) -> nn.Module:
        encoder = self._raw_encoder
        return MappedEncoder(encoder, width, self._public.dim).to(self._device) if width else encoder

    def _loss_of(self, batch: NextItemBatch) -> LossFn:
        return batch if self._content is None else mapped_loss(batch, self._content.to(self._device))

    @cached_property
    def _histories(self) -> TimedHistories:
        """Every user's events on head items, as rows of the trained tower."""
        return TimedHistories.of(self._training()).over(self._public.head_position)

    def close(self) -> None:
        """Take the per-user hooks off the encoder again."""
        self._encoder.to_standard_module()

    def _guard(self) -> None:
        """Compare the per-user engine with autograd on a few made-up users before it is used.

        Not on users of this client: the server sees whether the comparison fails, and it chooses the numbers compared.

        Raises:
            SensitivityViolation: the engine does not give each user's own gradient for this model.
        """
        longest = max(_SHORTEST, min(self._max_length + 1, _GUARD_EVENTS))
        lengths = [_SHORTEST + user % (longest - _SHORTEST + 1) for user in range(_GUARD_USERS)]
        made_up = [self._randomness.integers(len(self._head), length) for length in lengths]
        batch = self._packed(TimedHistories(made_up, made_up_times(made_up)))
        check_engine(
            self._trained,
            self._table(),
            batch.item_ids,
            lambda users: self._loss_of(batch.select(users)),
            self._settings["l2_clip_norm"],
            train_table=self._rows > 0,
            method=self.method,
        )

    def check(self, terms: ReleaseTerms, l2_clip_norm: object, step: int) -> None:
        """Refuse a round that cannot be answered; all of it public, so that no refusal depends on the log.

        Args:
            terms: of the release.
            l2_clip_norm: as the round names it; read only where the norm is adaptive.
            step: of the round, from 0.

        Raises:
            ProtocolError: head items or their content are others than when training began. Checked before anything is
                drawn: else only clients whose users have items outside the new ones would fail.
            PolicyRefusal: no releases could have led to this clip norm, or it is out of the range of any.
            InputError: ghost clipping is agreed, and the noise asks for a grid too coarse for it.
        """
        if not np.array_equal(self._public.head, self._head):
            raise ProtocolError(f"the head items changed in the middle of release {terms.release.name!r}")
        if self._content is not None:
            if terms.release.local_steps > 1:
                raise PolicyRefusal("settings-out-of-range", "local steps cannot move a map of content")
            if not np.array_equal(self._public.content[self._head], self._content.numpy()):
                raise ProtocolError(f"the content changed in the middle of release {terms.release.name!r}")
        joint = JointClip.agreed(terms.l2_bound, self._settings)
        if joint is not None and terms.release.local_steps > 1:
            raise PolicyRefusal("clip-norm-out-of-range", "the clip norm of local steps cannot be adaptive")
        if joint is not None and not joint.is_reachable(l2_clip_norm, step):
            raise PolicyRefusal("clip-norm-out-of-range", f"clip norm {l2_clip_norm!r} at step {step}")
        if self.method == "ghost":
            clip = self.round_clip(terms)
            reach_before_rounding(clip.l2_bound, clip.unit, self.layer_parameters)

    def step(self, terms: ReleaseTerms, l2_clip_norm: float | None = None) -> NDArray[np.int64]:
        """One round: sample, differentiate, clip jointly, move the encoder, return the tower's noised part.

        Args:
            terms: of the release; their length is that of the tower part, the count's cell included.
            l2_clip_norm: of this round, where it is adaptive; the first round's if None.

        Returns:
            ``[dim * F + K * dim]`` grid steps, map before rows, either left out where it is not trained, or one more with
            the count last, ready to be masked.
        """
        if terms.release.local_steps > 1:
            return self._local_round(terms)
        users = self._drawn_users(terms)
        clip = self.round_clip(terms, l2_clip_norm)
        total = self.joint_sum(users, terms, clip)
        split = self.encoder_parameters
        encoder_part = BoundedSum(total.values[:split], total.l2_bound, total.unit, total.users)
        tower_part = BoundedSum(total.values[split:], total.l2_bound, total.unit, total.users)
        self._move_encoder(encoder_part, terms, clip.unit)
        return terms.add_share(tower_part, self._randomness)

    def _drawn_users(self, terms: ReleaseTerms) -> NDArray[np.int64]:
        """A Poisson sample of this client's users, those of them that have a next item."""
        drawn = self._randomness.bernoulli(terms.release.sampling_probability, len(self._histories))
        usable = np.array([len(h) >= _SHORTEST for h in self._histories], dtype=bool)
        return np.flatnonzero(drawn & usable)

    def _local_round(self, terms: ReleaseTerms) -> NDArray[np.int64]:
        """Several steps on this client's own copy of the head; the sum of their noised gradients."""

        def draw() -> list[NextItemBatch]:
            users = self._drawn_users(terms)
            return [self.batch(users[k : k + self._chunk]) for k in range(0, len(users), self._chunk)]

        change = terms.lazy_sum(len(self._head), self._public.dim, self._randomness)
        LocalTraining(
            self._encoder,
            self.encoder_parameters,
            self._public.item_tower[self._public.head],
            self._settings["local_learning_rate"] / self._expected_users,
            draw,
            lambda part: self._move_encoder(part, terms, terms.unit),
        ).round(terms, change)
        return change.release(name=terms.release.name).values if terms.private else change.settled()

    def round_clip(self, terms: ReleaseTerms, l2_clip_norm: float | None = None) -> RoundClip:
        """How users are clipped in a round that names this norm; None stands for the first round's."""
        joint = JointClip.agreed(terms.l2_bound, self._settings)
        if joint is None:
            return RoundClip(terms.l2_clip_norm, terms.unit, terms.l2_bound, None, terms.l2_clip_norm)
        norm = joint.first_norm if l2_clip_norm is None else l2_clip_norm
        return RoundClip(joint.clip_norm(norm), joint.unit(norm), joint.gradient_bound, joint, norm)

    def joint_sum(
        self, users: NDArray[np.int64], terms: ReleaseTerms, clip: RoundClip | None = None
    ) -> BoundedSum:
        """Clipped joint gradients of these users, [encoder || tower (|| count)] in grid steps, without noise: not to be
        sent. The tower's part is [map of content || item rows].
        """
        clip = clip or self.round_clip(terms)
        table = self._table()
        total = clipped_sum(
            self._encoder, self._rows, self._public.dim, l2_clip_norm=clip.l2_clip_norm, unit=clip.unit
        )
        count = 0
        for start in range(0, len(users), self._chunk):
            batch = self.batch(users[start : start + self._chunk])
            norms = total.add(table, batch.item_ids, self._loss_of(batch))
            count += clip.count(norms.cpu().numpy())
        return clip.joined(total.total(), count, terms)

    def _move_encoder(self, total: BoundedSum, terms: ReleaseTerms, unit: float) -> None:
        values = total.values
        if terms.private:
            # All of the noise, not a share: nothing sums this part up with other clients.
            name = f"{terms.release.name}/encoder"
            values = add_noise(
                total, terms.total_sigma, self._randomness, name=name, left_the_client=False
            ).values
        set_encoder_gradient(self._raw_encoder, values * unit / self._expected_users)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _table(self) -> torch.Tensor:
        return torch.from_numpy(self._public.item_tower[self._public.head]).to(self._device)

    def batch(self, users: NDArray[np.int64]) -> NextItemBatch:
        """These users' windows, with negatives drawn for each of them in turn."""
        return self._packed(self._histories.pick(users))

    def _packed(self, histories: TimedHistories) -> NextItemBatch:
        if self._is_full_softmax:
            batch = next_item_batch(histories, max_length=self._max_length, n_items=len(self._head))
            return batch.to(self._device)
        shape = (len(histories), self._negatives)
        negatives = self._sampler.sample(self._randomness.uniform(shape[0] * shape[1]).reshape(shape))
        return next_item_batch(
            histories,
            max_length=self._max_length,
            negatives=negatives,
            log_expected_count=self._sampler.log_expected_count(negatives, self._negatives),
            loss=self._loss,
        ).to(self._device)
