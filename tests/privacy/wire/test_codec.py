from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privacy.errors import InputError, ProtocolError
from privacy.wire.codec import (
    Reader,
    Writer,
    canonical_json,
    named_arrays_decode,
    named_arrays_encode,
    parse_json,
)

DTYPES = ["uint8", "uint16", "uint32", "uint64", "int64", "float32", "float64"]


def test_bytes_of_a_message_field_by_field():
    message = (
        Writer().u8(7).u16(258).u32(1).u64(2**40).f64(1.5).bytes(b"ab").str("é")
        .array(np.array([[1, 2]], dtype=np.uint16)).finish()
    )  # fmt: skip
    assert message.hex() == "".join(
        [
            "07",  # u8
            "0201",  # u16
            "01000000",  # u32
            "0000000000010000",  # u64
            "000000000000f83f",  # f64
            "02000000" "6162",  # bytes
            "02000000" "c3a9",  # text
            "01" "02" "0100000000000000" "0200000000000000" "0100" "0200",  # uint16, 2 dims, 1 x 2, data
        ]
    )  # fmt: skip


def test_named_arrays_are_sorted_and_versioned():
    encoded = named_arrays_encode({"b": np.zeros(0, np.uint8), "a": np.array(5, np.int64)})
    assert encoded.hex() == "".join(
        [
            "01",  # version
            "02000000",  # two arrays
            "01000000" "61" "04" "00" "0500000000000000",  # "a": int64, no dimensions
            "01000000" "62" "00" "01" "0000000000000000",  # "b": uint8, one dimension of size 0
        ]
    )  # fmt: skip


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.sampled_from(DTYPES).flatmap(
            lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
        ),
        max_size=4,
    )
)
def test_named_arrays_round_trip(arrays: dict[str, np.ndarray]):
    encoded = named_arrays_encode(arrays)
    decoded = named_arrays_decode(encoded)
    assert set(decoded) == set(arrays)
    for name, array in arrays.items():
        assert decoded[name].dtype == array.dtype
        assert decoded[name].shape == array.shape
        assert decoded[name].tobytes() == array.tobytes()
    assert named_arrays_encode(decoded) == encoded


def test_arrays_of_any_layout_are_written_in_c_order():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for view in (array.T, array[::2], array[:, ::-1], np.asfortranarray(array), array.astype(">f4")):
        assert np.array_equal(Reader(Writer().array(view).finish()).array(), view)


def test_decoded_arrays_are_writable_and_own_their_memory():
    message = bytearray(Writer().array(np.ones(3)).finish())
    array = Reader(message).array()
    message[-1] ^= 0xFF
    array += 1
    assert array.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.u8(256), lambda w: w.u8(-1), lambda w: w.u64(2**64), lambda w: w.f64(float("nan")),
        lambda w: w.f64(float("inf")), lambda w: w.str("\ud800"), lambda w: w.array(np.array(["x"])),
        lambda w: w.array(np.array([object()])), lambda w: w.array(np.zeros(2, np.int32)),
        lambda w: w.array(np.zeros((1,) * 9)), lambda w: w.array(np.zeros(1, np.complex128)),
    ],
)  # fmt: skip
def test_what_has_no_encoding_is_refused(write):
    with pytest.raises(InputError):
        write(Writer())


@pytest.mark.parametrize(
    ("hexadecimal", "reason"),
    [
        ("", "ends early"),
        ("02" "00000000", "version 2"),
        ("01" "01000000", "ends early"),
        ("01" "00000000" "00", "left over"),
        ("01" "ffffffff", "limit"),
        ("01" "01000000" "ffffffff", "limit"),
        ("01" "01000000" "01000000" "ff" "00" "00", "UTF-8"),
        ("01" "01000000" "01000000" "61" "07" "00", "dtype code 7"),
        ("01" "01000000" "01000000" "61" "00" "09", "9 dimensions"),
        ("01" "01000000" "01000000" "61" "00" "01" "ffffffffffffffff", "limit"),
        ("01" "01000000" "01000000" "61" "00" "02" "0000000000000000" "ffffffffffffff7f", "limit"),
        ("01" "01000000" "01000000" "61" "03" "01" "0200000000000000" "00", "ends early"),
        ("01" "02000000" "01000000" "61" "00" "00" "00" "01000000" "61" "00" "00" "00", "duplicate or out"),
        ("01" "02000000" "01000000" "62" "00" "00" "00" "01000000" "61" "00" "00" "00", "duplicate or out"),
    ],
)  # fmt: skip
def test_bad_encodings_say_what_is_wrong(hexadecimal: str, reason: str):
    with pytest.raises(ProtocolError, match=reason):
        named_arrays_decode(bytes.fromhex(hexadecimal))


def test_expected_dtype_and_size_are_enforced():
    message = Writer().array(np.zeros(4, np.uint32)).finish()
    assert Reader(message).array(dtype=np.uint32, max_elements=4).size == 4
    with pytest.raises(ProtocolError, match="uint32 where uint16"):
        Reader(message).array(dtype=np.uint16)
    with pytest.raises(ProtocolError, match="limit is 3"):
        Reader(message).array(max_elements=3)


def test_numbers_that_are_not_finite_are_refused_when_read():
    with pytest.raises(ProtocolError, match="nan"):
        Reader(np.array(np.nan).tobytes()).f64()


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_raise_protocol_error(data: bytes):
    for decode in (named_arrays_decode, parse_json):
        try:
            decode(data)
        except ProtocolError:
            continue
    try:
        decoded = named_arrays_decode(b"\x01" + data)
    except ProtocolError:
        return
    assert named_arrays_encode(decoded) == b"\x01" + data


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=8,
)  # fmt: skip


@given(json_values)
def test_json_round_trip(value):
    assert parse_json(canonical_json(value)) == value


def test_json_is_one_text_per_value():
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'.encode()


@pytest.mark.parametrize(
    "text",
    ['{"b":1,"a":2}', '{"a":1,"a":2}', '{"a": 1}', "NaN", "Infinity", "1e999", "1.50", "-0", '"\\ud800"', "",
     "[" * 10**5],
)  # fmt: skip
def test_other_json_texts_are_refused(text: str):
    with pytest.raises(ProtocolError):
        parse_json(text.encode())


@pytest.mark.parametrize("value", [float("nan"), {1: 2}, [{None: 1}], {"a": b"x"}, "\ud800"])
def test_values_without_canonical_json_are_refused(value):
    with pytest.raises(InputError):
        canonical_json(value)
