"""Events mean the same for ever, and unknown ones are refused."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.events import ReleaseEvent, canonical_bytes
from privacy.errors import InputError

EVENTS = st.builds(
    ReleaseEvent,
    name=st.text(min_size=1, max_size=20),
    noise_multiplier=st.floats(0, 1e300),
    sampling_probability=st.floats(0, 1, exclude_min=True),
    count=st.integers(1, 10**12),
    left_the_client=st.booleans(),
    detail=st.dictionaries(
        st.text(max_size=8),
        st.text(max_size=8) | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    ),
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(EVENTS)
def test_json_round_trip(event: ReleaseEvent) -> None:
    assert ReleaseEvent.from_json(json.loads(canonical_bytes(event.to_json()))) == event


def test_a_stored_event_keeps_its_meaning() -> None:
    """Written by the first version. If this fails, old ledgers no longer mean what they said."""
    stored = (
        b'{"count":3,"detail":{"l2_bound":1000,"unit":0.001},"left_the_client":true,"mechanism":"gaussian",'
        b'"name":"statistics","noise_multiplier":2.5,"sampling_probability":1.0}'
    )
    event = ReleaseEvent("statistics", 2.5, count=3, detail={"l2_bound": 1000, "unit": 0.001})
    assert ReleaseEvent.from_json(json.loads(stored)) == event
    assert canonical_bytes(event.to_json()) == stored


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name"),
        ({"mechanism": "laplace"}, "'laplace'.*unknown to this version"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1.0"),
        ({"noise_multiplier": math.nan}, "nan"),
        ({"noise_multiplier": math.inf}, "inf"),
        ({"noise_multiplier": 1}, "expected float"),
        ({"sampling_probability": 0.0}, "not in \\(0, 1\\]"),
        ({"sampling_probability": 1.5}, "not in \\(0, 1\\]"),
        ({"sampling_probability": math.nan}, "not in \\(0, 1\\]"),
        ({"count": 0}, "count=0"),
        ({"count": True}, "expected int"),
        ({"left_the_client": 1}, "expected bool"),
        ({"detail": {"x": math.nan}}, "detail"),
        ({"detail": {"x": [1]}}, "detail"),
        ({"invented": 1}, "differ from the known"),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    document = {**ReleaseEvent("x", 1.0).to_json(), **change}
    with pytest.raises(InputError, match=message):
        ReleaseEvent.from_json(document)


@pytest.mark.parametrize("document", [None, [], "event", {"name": "x"}])
def test_refuses_what_is_no_event(document: object) -> None:
    with pytest.raises(InputError):
        ReleaseEvent.from_json(document)


def test_canonical_bytes_refuse_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_bytes({"x": math.nan})
