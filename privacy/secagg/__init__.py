"""Secure aggregation for 3 to 50 authenticated clients: one large upload, two small messages.

Pure state machines, no I/O. The protocol is written down in ``docs/protocol.md``.
"""

from privacy.secagg.client_session import SecaggClient
from privacy.secagg.evidence import Evidence, Misbehaviour
from privacy.secagg.keys import Identity, Roster
from privacy.secagg.labels import RoundHeader, Suite
from privacy.secagg.memory import ClientMemory
from privacy.secagg.policy import SecaggPolicy, threshold_for
from privacy.secagg.schema import Section, VectorSchema
from privacy.secagg.server_session import SecaggServer

__all__ = [
    "ClientMemory",
    "Evidence",
    "Identity",
    "Misbehaviour",
    "Roster",
    "RoundHeader",
    "SecaggClient",
    "SecaggPolicy",
    "SecaggServer",
    "Section",
    "Suite",
    "VectorSchema",
    "threshold_for",
]
