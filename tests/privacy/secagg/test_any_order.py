"""A server that says anything in any order, all other clients on its side, against one honest client."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from privacy.errors import PolicyRefusal, ProtocolError
from privacy.secagg import ClientMemory, RoundHeader
from privacy.secagg.messages import Agreement, RevealRequest, Survivor, SurvivorList, Upload
from tests.privacy.secagg.rounds import Federation, client_names

VICTIM, *COLLUDERS = client_names(5)
MODELS = [bytes([k]) * 32 for k in range(4)]


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes, the victim signs and reveals at most once per label, and answers a model once."""

    def __init__(self) -> None:
        super().__init__()
        self.federation = Federation(5)
        self.client = self.federation.clients[VICTIM]
        self.header: RoundHeader | None = None
        self.uploads: dict[str, Upload] = {}
        self.signatures: dict[bytes, bytes] = {}
        self.signed: Counter[bytes] = Counter()
        self.revealed: Counter[bytes] = Counter()
        self.completed: Counter[bytes] = Counter()
        self.attempts: Counter[bytes] = Counter()

    @rule(
        step=st.integers(-1, 2), model=st.sampled_from(MODELS), may_retry=st.booleans(), noised=st.booleans()
    )
    def open(self, step: int, model: bytes, may_retry: bool, noised: bool) -> None:
        number = max(1, (self.header.round if self.header else 0) + step)
        header = self.federation.header(number, model_hash=model)
        values, schema = self.federation.values(), self.federation.schema
        try:
            message = self.client.upload(
                header, schema, values[VICTIM], may_retry=may_retry, is_noised=noised
            )
        except (ProtocolError, PolicyRefusal):
            return
        self.header, self.uploads = header, {VICTIM: Upload.decode(message)}
        self.attempts[model] += 1
        for name in COLLUDERS:
            colluder = self.federation.clients[name]
            colluder.memory = ClientMemory()
            self.uploads[name] = Upload.decode(colluder.upload(header, schema, values[name]))

    def survivors(self, dropped: str | None) -> SurvivorList:
        lines = [
            Survivor(name, upload.digest(), upload.signature)
            for name, upload in sorted(self.uploads.items())
            if name != dropped
        ]
        return SurvivorList(self.uploads[VICTIM].label, tuple(lines))

    @precondition(lambda self: self.header)
    @rule(dropped=st.sampled_from([None, COLLUDERS[0], VICTIM]))
    def show(self, dropped: str | None) -> None:
        claimed = self.survivors(dropped)
        try:
            answer = Agreement.decode(self.client.sign_survivors(claimed.encode()))
        except (ProtocolError, PolicyRefusal):
            return
        self.signed[claimed.label] += 1
        self.signatures[claimed.to_sign()] = answer.signature

    @precondition(lambda self: self.header)
    @rule(dropped=st.sampled_from([None, COLLUDERS[0]]), honest=st.booleans())
    def request(self, dropped: str | None, honest: bool) -> None:
        claimed = self.survivors(dropped)
        names = [survivor.client_id for survivor in claimed.survivors]
        statement = claimed.to_sign()
        signatures = {
            name: self.federation.identities[name].sign(statement) for name in names if name != VICTIM
        }
        if honest and statement in self.signatures:
            signatures[VICTIM] = self.signatures[statement]
        bundles = tuple(
            (name, self.uploads[name].bundles[[n for n in self.header.cohort if n != name].index(VICTIM)])
            for name in names
            if name != VICTIM
        )
        message = RevealRequest(claimed.label, tuple(sorted(signatures.items())), bundles)
        try:
            self.client.reveal(message.encode())
        except ProtocolError:
            return
        assert statement in self.signatures, "revealed for a list it never signed"
        self.revealed[claimed.label] += 1
        self.completed[self.header.model_hash] += 1

    @rule(aborts=st.booleans())
    def restore_memory(self, aborts: bool) -> None:
        if aborts:
            self.client.abort()
        self.client.memory = ClientMemory.from_json(self.client.memory.to_json())

    @invariant()
    def nothing_happens_twice(self) -> None:
        assert all(count == 1 for count in self.signed.values())
        assert all(count == 1 for count in self.revealed.values())
        assert all(count == 1 for count in self.completed.values())
        assert all(count <= 2 for count in self.attempts.values()), "one answer and one retry"


AnyOrder.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyOrder = AnyOrder.TestCase
