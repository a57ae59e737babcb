"""Every check that stands between a lie and a secret, each small and by name (protocol §9, §11).

Sessions call these through the module, so a test can disable any one of them and must then see another
test fail (``tests/privacy/secagg/mutation.py``). A guard returns nothing; it raises ``ProtocolError`` when
somebody broke the protocol and ``PolicyRefusal`` when this client's own policy forbids the request.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from privacy.errors import PolicyRefusal, ProtocolError
from privacy.secagg.keys import MLKEM_CIPHERTEXT_BYTES, MLKEM_PUBLIC_BYTES, Roster
from privacy.secagg.labels import RoundHeader, Suite
from privacy.secagg.memory import Answer
from privacy.secagg.messages import Confirmation, KeyMessage, Survivor
from privacy.secagg.policy import MAX_ROUNDS_PER_EPOCH, SecaggPolicy, threshold_for
from privacy.secagg.schema import VectorSchema
from privacy.secagg.shamir import is_share

# --- both sides ---------------------------------------------------------------------------------------------


def check_phase(found: str, expected: str) -> None:
    """Every step happens once and in order; a second survivor list or reveal request finds no open step."""
    if found != expected:
        raise ProtocolError(f"message out of order: this side is at step {found!r}, not {expected!r}")


def check_label(found: bytes, expected: bytes) -> None:
    """The message belongs to the round as this side understood it."""
    if found != expected:
        raise ProtocolError("message carries another round's label; the sender was told something else")


def check_sorted_ids(client_ids: Sequence[str]) -> None:
    """No client appears twice."""
    if any(a >= b for a, b in pairwise(client_ids)):
        raise ProtocolError("client ids repeat or are out of order")


def check_members(client_ids: Collection[str], members: Collection[str]) -> None:
    """Nobody takes part who was not invited."""
    strangers = set(client_ids) - set(members)
    if strangers:
        raise ProtocolError(f"not a member here: {sorted(strangers)[0]!r}")


def check_signature(roster: Roster, client_id: str, signature: bytes, message: bytes) -> None:
    """The message was signed by the identity enrolled under its sender's name."""
    if not roster.is_signed_by(client_id, signature, message):
        raise ProtocolError(f"signature does not verify under the enrolled key of {client_id!r}")


def check_sender(claimed: str, authenticated: str) -> None:
    """A message speaks for its sender only."""
    if claimed != authenticated:
        raise ProtocolError(f"message from {authenticated!r} claims to be from {claimed!r}")


# --- epoch --------------------------------------------------------------------------------------------------


def check_epoch_is_new(last_epoch: int, epoch: int) -> None:
    """An epoch number is never used again, so an old key directory cannot be replayed."""
    if epoch <= last_epoch:
        raise ProtocolError(f"epoch {epoch} does not follow epoch {last_epoch}")


def check_enrolled(client_ids: Collection[str], roster: Roster) -> None:
    """Only enrolled clients exchange keys."""
    strangers = [client_id for client_id in client_ids if client_id not in roster]
    if strangers:
        raise ProtocolError(f"not in the roster: {strangers[0]!r}")


def check_key_context(message: KeyMessage, context: bytes) -> None:
    """Keys are of this session, epoch, suite, roster and cohort; stale ones are refused."""
    if message.context != context:
        raise ProtocolError(f"key message of {message.client_id!r} is for another session, epoch or cohort")


def check_key_sizes(message: KeyMessage, suite: Suite) -> None:
    """A key message holds exactly the keys of its suite; nobody is downgraded quietly."""
    expected = MLKEM_PUBLIC_BYTES if suite is Suite.X25519_MLKEM768 else 0
    if len(message.mlkem) != expected:
        raise ProtocolError(
            f"key message of {message.client_id!r} does not hold the keys of suite {suite.name}"
        )


def check_own_key(directory: Mapping[str, KeyMessage], own: KeyMessage) -> None:
    """The directory shows others the key this client really sent."""
    if directory.get(own.client_id) != own:
        raise ProtocolError("the key directory does not hold this client's own key")


def check_keys_differ(messages: Sequence[KeyMessage]) -> None:
    """No client passes off a copy of another's key as its own."""
    if len({m.x25519 for m in messages}) != len(messages):
        raise ProtocolError("two clients sent the same agreement key")


def check_transcript(found: bytes, expected: bytes) -> None:
    """Both parties saw the same key directory."""
    if found != expected:
        raise ProtocolError("a peer was shown another key directory")


def check_confirmation_route(confirmation: Confirmation, destination: str, members: Collection[str]) -> None:
    """A confirmation goes from another member to its addressee."""
    is_peer = confirmation.source in members and confirmation.source != confirmation.destination
    if confirmation.destination != destination or not is_peer:
        raise ProtocolError(
            f"confirmation from {confirmation.source!r} to {confirmation.destination!r} was misdelivered"
        )


def check_confirmation_targets(destinations: Collection[str], expected: Collection[str]) -> None:
    """A client confirms the directory to every other client in it."""
    if sorted(destinations) != sorted(expected):
        raise ProtocolError("confirmations do not go to exactly the other clients of the directory")


def check_ciphertext(confirmation: Confirmation, suite: Suite) -> None:
    """The smaller id encapsulates to the larger one, in the suite that has a KEM, and only then."""
    is_due = suite is Suite.X25519_MLKEM768 and confirmation.source < confirmation.destination
    if len(confirmation.ciphertext) != (MLKEM_CIPHERTEXT_BYTES if is_due else 0):
        raise ProtocolError(f"confirmation from {confirmation.source!r} has no proper KEM ciphertext")


# --- round header, on the client ----------------------------------------------------------------------------


def check_session(header: RoundHeader, session: bytes, epoch: int, suite: Suite) -> None:
    """The round belongs to the keys this client holds."""
    if (header.session, header.epoch, header.suite) != (session, epoch, suite):
        raise ProtocolError(f"round {header.round} is of another session, epoch or suite than the keys held")


def check_round_is_new(last: tuple[int, int], header: RoundHeader) -> None:
    """Rounds only go forward; an old header cannot be replayed."""
    if (header.epoch, header.round) <= last:
        raise ProtocolError(
            f"round {header.round} of epoch {header.epoch} does not follow {last[1]} of {last[0]}"
        )


def check_keys_remain(number: int, next_round: int) -> None:
    """Keys of a round that is over no longer exist, whatever the memory says."""
    if number < next_round:
        raise ProtocolError(f"the keys of round {number} are gone; the next round is {next_round}")


def check_round_limit(header: RoundHeader) -> None:
    """Keys are renewed after at most 1000 rounds."""
    if header.round > MAX_ROUNDS_PER_EPOCH:
        raise ProtocolError(
            f"round {header.round} exceeds {MAX_ROUNDS_PER_EPOCH} rounds per epoch; begin a new epoch"
        )


def check_established(cohort: Collection[str], established: Collection[str], client_id: str) -> None:
    """Every invited client confirmed its keys to this one, and this one is invited."""
    missing = set(cohort) - set(established)
    if missing or client_id not in cohort:
        raise ProtocolError(
            f"no keys are agreed with {sorted(missing)[0]!r}" if missing else f"{client_id!r} is not invited"
        )


def check_min_cohort(size: int, policy: SecaggPolicy) -> None:
    """No sum covers so few clients that it shows one of them."""
    if size < policy.min_cohort:
        raise PolicyRefusal(
            "min_cohort", f"{size} clients take part; this client answers from {policy.min_cohort} upwards"
        )


def check_max_cohort(size: int, policy: SecaggPolicy) -> None:
    """No server makes a client work for a crowd it did not agree to."""
    if size > policy.max_cohort:
        raise PolicyRefusal("max_cohort", f"{size} clients invited; this client accepts {policy.max_cohort}")


def check_threshold(header: RoundHeader) -> None:
    """The server cannot lower the number of clients that must agree."""
    required = threshold_for(len(header.cohort))
    if header.threshold < required:
        raise PolicyRefusal(
            "threshold", f"threshold {header.threshold} for {len(header.cohort)} clients; at least {required}"
        )


def check_schema_hash(header: RoundHeader, schema: VectorSchema) -> None:
    """The header names the schema this client will encode by."""
    if header.schema_hash != schema.sha256:
        raise ProtocolError("the round header names another schema than this client's")


def check_schema_capacity(header: RoundHeader, schema: VectorSchema) -> None:
    """The schema's no-wrap proof covers as many clients as are invited."""
    if len(header.cohort) > schema.max_clients:
        raise ProtocolError(f"{len(header.cohort)} clients invited; the schema is for {schema.max_clients}")


def check_word_widths(schema: VectorSchema, policy: SecaggPolicy) -> None:
    """Only word widths this client accepts."""
    refused = {section.word_bits for section in schema.sections} - set(policy.word_bits)
    if refused:
        raise PolicyRefusal(
            "word_bits", f"words of {sorted(refused)} bits; this client accepts {policy.word_bits}"
        )


def check_length(schema: VectorSchema, policy: SecaggPolicy) -> None:
    """No vector longer than this client accepts."""
    if schema.words > policy.max_words:
        raise PolicyRefusal(
            "max_words", f"{schema.words} words asked; this client accepts {policy.max_words}"
        )


def check_single_answer(answer: Answer, retries: int) -> None:
    """One answer per (task, model): two sums over the same data isolate whoever joined or left between."""
    if answer.is_complete or answer.attempts > retries:
        raise PolicyRefusal(
            "second_answer",
            f"this task has {answer.attempts} answers for this model already; {retries} retries are allowed",
        )


# --- survivors and reveal, on the client --------------------------------------------------------------------


def check_own_upload(survivors: Sequence[Survivor], client_id: str, digest: bytes) -> None:
    """The sum holds this client's upload, unaltered; else there is nothing for it to agree to."""
    if not any(s.client_id == client_id and s.digest == digest for s in survivors):
        raise ProtocolError("this client's own upload is missing from the survivors, or was altered")


def check_enough_survivors(count: int, header: RoundHeader) -> None:
    """At least the threshold uploaded."""
    if count < header.threshold:
        raise ProtocolError(f"only {count} uploads survive; the threshold is {header.threshold}")


def check_enough_agreements(count: int, header: RoundHeader) -> None:
    """At least the threshold signed the same list, so no second list can gather as many."""
    if count < header.threshold:
        raise ProtocolError(
            f"only {count} clients agreed on the survivors; the threshold is {header.threshold}"
        )


def check_sum_difference(survivors: Collection[str], earlier: Collection[frozenset[str]]) -> None:
    """Two sums without noise never differ by exactly one client (So et al., AAAI 2023)."""
    if any(len(release ^ set(survivors)) == 1 for release in earlier):
        raise PolicyRefusal(
            "sum_difference", "these survivors differ from those of an earlier sum by exactly one client"
        )


def check_bundle_sources(sources: Sequence[str], expected: Sequence[str]) -> None:
    """One bundle from every other survivor, and none from anyone else."""
    if list(sources) != list(expected):
        raise ProtocolError("the reveal request does not hold one bundle from every other survivor")


# --- server -------------------------------------------------------------------------------------------------


def check_not_seen(client_id: str, seen: Collection[str]) -> None:
    """A client is heard once per step."""
    if client_id in seen:
        raise ProtocolError(f"second message of {client_id!r} in this step")


def check_body_length(found: int, expected: int) -> None:
    """The masked vector has the schema's size."""
    if found != expected:
        raise ProtocolError(f"masked vector of {found} bytes; the schema has {expected}")


def check_upload_counts(
    commitments: int, bundle_lengths: Sequence[int], cohort_size: int, sealed: int
) -> None:
    """One commitment per seed and one bundle of the right size per peer."""
    if commitments != cohort_size or list(bundle_lengths) != [sealed] * (cohort_size - 1):
        raise ProtocolError("upload does not hold one commitment per seed and one bundle per peer")


def check_enough_uploads(count: int, fewest: int) -> None:
    """Enough clients uploaded for a sum that protects them and can be unmasked."""
    if count < fewest:
        raise ProtocolError(f"only {count} clients uploaded; {fewest} are needed. The round is lost")


def check_share_counts(self_shares: int, pair_shares: int, survivors: int, dropped: int) -> None:
    """A reveal holds one self-mask share per survivor and one pair share per survivor and dropped client."""
    if (self_shares, pair_shares) != (survivors, survivors * dropped):
        raise ProtocolError("reveal holds the wrong number of shares")


def check_shares_in_field(shares: Sequence[bytes]) -> None:
    """Every share is the one encoding of a field element."""
    if not all(is_share(share) for share in shares):
        raise ProtocolError("reveal holds a number outside the field")


def check_enough_reveals(count: int, threshold: int) -> None:
    """Enough shares to rebuild what must be rebuilt."""
    if count < threshold:
        raise ProtocolError(f"only {count} clients revealed; {threshold} are needed. The round is lost")


def check_sum_in_range(name: str, low: int, high: int, bound: int) -> None:
    """Masks cancelled: what remains lies within the bound that every client enforced."""
    if low < -bound or high > bound:
        raise ProtocolError(
            f"section {name!r} of the sum holds {low if -low > high else high}, beyond {bound}: "
            "masks did not cancel, or a client sent values out of range"
        )


GUARDS: tuple[str, ...] = tuple(name for name in list(globals()) if name.startswith("check_"))
