"""The server's whole side of secure aggregation, without I/O (protocol §7 and §8).

The server is trusted with nothing here; its checks exist so that an honest server notices a cheating
client, names it, and publishes an exact sum or none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privacy.errors import InputError, ProtocolError
from privacy.secagg.epoch import ServerEpoch
from privacy.secagg.keys import Roster
from privacy.secagg.labels import RoundHeader, Suite
from privacy.secagg.policy import SMALLEST_COHORT, threshold_for
from privacy.secagg.schema import VectorSchema
from privacy.secagg.server_round import ServerRound


class SecaggServer:
    """Relays keys once per epoch, then turns uploads into one exact sum per round.

    Args:
        roster: everyone's pinned public keys.
        suite: algorithms, as in the clients' policies.
        min_cohort: fewest clients a sum may cover; clients have their own limit besides.

    Attributes:
        suspects: clients whose shares did not fit in the last ``result``. Either they lie or those whose
            secrets they hold; the sum is right all the same.

    Raises:
        ProtocolError: a client broke the protocol (``Misbehaviour`` with evidence where there is any), or too
            few answered. A bad *message* leaves the round as it was, so the caller may count its sender as
            dropped and go on.
    """

    def __init__(
        self,
        roster: Roster,
        *,
        suite: Suite = Suite.X25519_MLKEM768,
        min_cohort: int = SMALLEST_COHORT,
    ) -> None:
        self._roster, self._suite, self._min_cohort = roster, suite, min_cohort
        self._epoch: ServerEpoch | None = None
        self._round: ServerRound | None = None
        self.suspects: frozenset[str] = frozenset()

    # --- epoch ----------------------------------------------------------------------------------------------

    def begin_epoch(self, session: bytes, epoch: int, cohort: Sequence[str]) -> None:
        """Expect key messages for this epoch; any earlier epoch and round are over."""
        self._round = None
        self._epoch = ServerEpoch(
            roster=self._roster, suite=self._suite, session=session, epoch=epoch, cohort=cohort
        )

    def add_key(self, client_id: str, message: bytes) -> None:
        """Take what ``SecaggClient.advertise`` returned."""
        self._open_epoch().add_key(client_id, message)

    def key_directory(self) -> bytes:
        """Close the collection; these bytes go to ``accept_keys`` of every client that sent keys."""
        return self._open_epoch().key_directory()

    def add_confirmations(self, client_id: str, message: bytes) -> None:
        """Take what ``SecaggClient.accept_keys`` returned."""
        self._open_epoch().add_confirmations(client_id, message)

    def confirmations(self) -> dict[str, bytes]:
        """Close the exchange; what goes to ``accept_confirmations`` of every member."""
        return self._open_epoch().confirmations()

    @property
    def members(self) -> tuple[str, ...]:
        """Who finished the key exchange and can be invited to rounds."""
        return self._open_epoch().members

    # --- round ----------------------------------------------------------------------------------------------

    def make_header(
        self,
        round: int,
        task: str,
        schema: VectorSchema,
        *,
        task_hash: bytes,
        model_hash: bytes,
        catalogue_hash: bytes,
        cohort: Sequence[str] | None = None,
    ) -> RoundHeader:
        """A header for the open epoch with the standard threshold; ``cohort`` defaults to all members."""
        epoch = self._open_epoch()
        invited = epoch.members if cohort is None else tuple(cohort)
        return RoundHeader(
            *(epoch.session, epoch.epoch, round, task),
            *(task_hash, model_hash, catalogue_hash, schema.sha256),
            *(invited, threshold_for(len(invited)), self._suite),
        )

    def open_round(self, header: RoundHeader, schema: VectorSchema) -> bytes:
        """Begin a round, forgetting any unfinished one; returns the header's bytes for the cohort."""
        epoch = self._open_epoch()
        if (header.session, header.epoch, header.suite) != (epoch.session, epoch.epoch, self._suite):
            raise InputError("the header is of another session, epoch or suite than the open epoch")
        if not set(header.cohort) <= set(epoch.members):
            raise InputError(f"cohort {header.cohort} goes beyond the epoch's members {epoch.members}")
        self._round = ServerRound(self._roster, header, schema, self._min_cohort)
        return header.encode()

    def add_upload(self, client_id: str, message: bytes) -> None:
        """Take what ``SecaggClient.upload`` returned and add its words to the running total."""
        self._open_round().add_upload(client_id, message)

    def survivors(self) -> dict[str, bytes]:
        """Close the uploads; what goes to ``sign_survivors`` of every survivor."""
        return self._open_round().close_uploads()

    def add_signature(self, client_id: str, message: bytes) -> None:
        """Take what ``SecaggClient.sign_survivors`` returned."""
        self._open_round().add_agreement(client_id, message)

    def reveal_requests(self) -> dict[str, bytes]:
        """Close the agreement; what goes to ``reveal`` of every client that agreed."""
        return self._open_round().close_agreement()

    def add_reveal(self, client_id: str, message: bytes) -> None:
        """Take what ``SecaggClient.reveal`` returned."""
        self._open_round().add_reveal(client_id, message)

    def result(self) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
        """Unmask; the exact sums by section name, and the sorted ids of the clients they cover."""
        current = self._open_round()
        self._round = None
        try:
            return current.result()
        finally:
            self.suspects = frozenset(current.suspects)

    def abort(self) -> None:
        """Forget the open round."""
        self._round = None

    def _open_epoch(self) -> ServerEpoch:
        if self._epoch is None:
            raise ProtocolError("no epoch is open; call begin_epoch first")
        return self._epoch

    def _open_round(self) -> ServerRound:
        if self._round is None:
            raise ProtocolError("no round is open on the server")
        return self._round
