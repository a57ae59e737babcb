"""Known answers of the standards, for our wrappers and for the reference implementation alike."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import InputError, ProtocolError
from privacy.randomness import SeededRandomness, SystemRandomness
from privacy.secagg import Identity, Roster, Section, Suite, VectorSchema, masks, ring, shamir
from privacy.secagg.bundles import open_bundle, seal
from privacy.secagg.keys import EpochKey, derive_pair_key, encapsulate
from privacy.secagg.secret import Secret
from tests.privacy.secagg import reference as ref
from tests.privacy.secagg.rounds import Federation

H = bytes.fromhex


def test_hkdf_rfc_5869_test_case_1():
    salt, ikm, info = bytes(range(13)), b"\x0b" * 22, bytes(range(0xF0, 0xFA))
    prk = H("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    okm = H("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
    assert ref.hkdf_extract(salt, ikm) == prk
    assert ref.hkdf_expand(prk, info, 42) == okm
    assert masks.expand(Secret(prk), info).expose() == okm[:32]


def test_x25519_rfc_7748():
    scalar = H("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = H("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    product = H("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    assert ref.x25519(scalar, point) == product
    assert EpochKey(X25519PrivateKey.from_private_bytes(scalar), None).exchange(point) == product
    alice = H("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    bob = H("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    shared = H("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    bobs_key = EpochKey(X25519PrivateKey.from_private_bytes(bob), None)
    assert bobs_key.x25519_public == H("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    assert bobs_key.exchange(alice) == ref.x25519(bob, alice) == shared


ED25519 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]


@pytest.mark.parametrize(("private", "public", "message", "signature"), ED25519)
def test_ed25519_rfc_8032(private: str, public: str, message: str, signature: str):
    identity = Identity(Ed25519PrivateKey.from_private_bytes(H(private)))
    roster = Roster({"a": identity.public_bytes()})
    assert identity.public_bytes() == ref.ed25519_public(H(private)) == H(public)
    assert identity.sign(H(message)) == ref.ed25519_sign(H(private), H(message)) == H(signature)
    assert roster.is_signed_by("a", H(signature), H(message))
    assert not roster.is_signed_by("a", H(signature), H(message) + b"x")
    assert not roster.is_signed_by("b", H(signature), H(message))


def test_aes_256_ctr_sp_800_38a_f_5_5():
    key = H("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes(range(0xF0, 0x100))
    plain = H(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    cipher = H(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    assert masks.open_stream(Secret(key), counter).update(plain) == cipher
    stream = ref.aes256_ctr(key, 64, int.from_bytes(counter, "big"))
    assert bytes(a ^ b for a, b in zip(plain, stream, strict=True)) == cipher


def test_chacha20_poly1305_rfc_8439_and_our_seal():
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    key, nonce, aad = bytes(range(0x80, 0xA0)), H("070000004041424344454647"), H("50515253c0c1c2c3c4c5c6c7")
    sealed = ref.chacha20_poly1305_seal(key, nonce, plain, aad)
    assert sealed[:16] == H("d31a8d34648e60db7b86afbc53ef7ec2")
    assert sealed[-16:] == H("1ae10b594f09e26a7e902ecbd0600691")
    shares, label = [bytes([k]) * 32 + b"\0" for k in range(3)], b"L" * 32
    ours = seal(Secret(key), label, shares)
    assert ours == ref.chacha20_poly1305_seal(key, bytes(12), b"".join(shares), label)
    assert open_bundle(Secret(key), label, ours, 3) == shares


@pytest.mark.parametrize("change", ["label", "key", "bytes", "count", "field"])
def test_bundles_open_only_as_sealed(change: str):
    key, label = Secret(b"k" * 32), b"L" * 32
    shares = [b"\xff" * 33 if change == "field" else bytes(33)] * 3
    sealed = seal(key, label, shares)
    with pytest.raises(ProtocolError):
        open_bundle(
            Secret(b"K" * 32) if change == "key" else key,
            b"M" * 32 if change == "label" else label,
            sealed[:-1] + bytes([sealed[-1] ^ 1]) if change == "bytes" else sealed,
            4 if change == "count" else 3,
        )


def test_ml_kem_both_ends_agree_and_a_foreign_ciphertext_does_not():
    randomness = SeededRandomness(1)
    alice, bob = (EpochKey.generate(Suite.X25519_MLKEM768, randomness) for _ in range(2))
    secret, ciphertext = encapsulate(bob.mlkem_public)
    assert bob.decapsulate(ciphertext) == secret
    assert alice.decapsulate(ciphertext) != secret
    with pytest.raises(ProtocolError, match="invalid ML-KEM"):
        encapsulate(b"\xff" * 1184)


def test_the_ml_kem_secret_changes_the_pair_key():
    arguments = {"transcript": bytes(32), "public_parts": (b"a", b"b")}
    plain = derive_pair_key(b"x" * 32, b"", **arguments)
    hybrid = derive_pair_key(b"x" * 32, b"m" * 32, **arguments)
    assert plain.expose() != hybrid.expose()


# --- Shamir -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_threshold_of_shares_rebuilds(data: st.DataObject):
    n = data.draw(st.integers(1, 60))
    t = data.draw(st.integers(1, n))
    secrets = data.draw(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4))
    shares = shamir.split(secrets, n, t, SeededRandomness(data.draw(st.integers(0, 2**32))))
    assert all(shamir.is_share(share) for holder in shares for share in holder)
    chosen = data.draw(st.permutations(range(n)))[:t]
    weights = shamir.lagrange_at_zero([k + 1 for k in chosen])
    for position, secret in enumerate(secrets):
        assert shamir.combine([shares[k][position] for k in chosen], weights) == secret


def test_largest_secret_holders_and_threshold_do_not_carry_between_lanes():
    secrets = [b"\xff" * 32] * 3
    shares = shamir.split(secrets, 200, 200, SystemRandomness())
    weights = shamir.lagrange_at_zero(range(1, 201))
    for position in range(3):
        assert shamir.combine([holder[position] for holder in shares], weights) == secrets[position]


def test_one_share_less_looks_the_same_for_every_secret():
    """The first bit of what t - 1 shares interpolate to is a fair coin whatever the secret."""
    draws, weights = 600, shamir.lagrange_at_zero([1, 2])
    randomness = SeededRandomness(7)
    for secret in (bytes(32), b"\xff" * 32):
        holders = shamir.split([secret] * draws, 5, 3, randomness)
        pairs = zip(holders[0], holders[1], strict=True)
        values = [
            sum(int.from_bytes(share, "little") * weight for share, weight in zip(pair, weights, strict=True))
            for pair in pairs
        ]
        ones = sum((value % shamir.PRIME) >> 255 & 1 for value in values)
        assert abs(ones - draws / 2) < 5 * (draws / 4) ** 0.5  # five standard errors


@pytest.mark.parametrize(
    ("holders", "threshold", "size"), [(3, 0, 32), (3, 4, 32), (1025, 3, 32), (3, 2, 31)]
)
def test_bad_sharing_parameters_are_refused(holders: int, threshold: int, size: int):
    with pytest.raises(InputError):
        shamir.split([bytes(size)], holders, threshold, SeededRandomness(0))


def test_bad_points_are_refused():
    for points in ([1, 1], [0, 1], [-1]):
        with pytest.raises(InputError):
            shamir.lagrange_at_zero(points)


# --- words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_encode_decode_of_every_extreme(bits: int):
    bound = (1 << (bits - 1)) - 1
    schema = VectorSchema([Section("x", 5, bits, bound)], 1)
    values = {"x": np.array([-bound, -1, 0, 1, bound], dtype=np.int64)}
    assert np.array_equal(ring.decode(schema, ring.encode(schema, values))["x"], values["x"])


@pytest.mark.parametrize(
    "values",
    [
        {"x": np.array([0, 11])}, {"x": np.array([-11, 0])}, {"x": np.array([0, np.iinfo(np.int64).min])},
        {"x": np.array([0.0, 1.0])}, {"x": np.array([0, 1], dtype=np.int32)},
        {"x": np.zeros((2, 1), np.int64)},
        {"x": np.zeros(3, np.int64)}, {}, {"x": np.zeros(2, np.int64), "y": np.zeros(2, np.int64)},
        {"x": np.array([np.nan, 0])},
    ],
)  # fmt: skip
def test_what_the_schema_does_not_allow_is_refused(values: dict[str, np.ndarray]):
    with pytest.raises(InputError):
        ring.encode(VectorSchema([Section("x", 2, 32, 10)], 3), values)


@pytest.mark.parametrize(
    ("bits", "bound", "clients"),
    [(16, 32767, 1), (16, 655, 50), (32, 42949672, 50), (64, (2**63 - 1) // 7, 7)],
)
def test_the_no_wrap_bound_is_tight(bits: int, bound: int, clients: int):
    VectorSchema([Section("x", 1, bits, bound)], clients)
    if bound < 2**63 - 1:
        with pytest.raises(InputError, match="exceeds the signed"):
            VectorSchema([Section("x", 1, bits, bound + 1)], clients)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Section("", 1, 32, 1), lambda: Section("x" * 65, 1, 32, 1), lambda: Section("x", 0, 32, 1),
        lambda: Section("x", 1, 24, 1), lambda: Section("x", 1, 32, 0), lambda: Section("x", 1, 64, 2**63),
        lambda: VectorSchema([], 3), lambda: VectorSchema([Section("x", 1, 32, 1)] * 2, 3),
        lambda: VectorSchema([Section("x", 1, 32, 1)], 0),
        lambda: VectorSchema([Section("x", 1, 32, 1)], 1025),
    ],
)  # fmt: skip
def test_impossible_schemas_are_refused(build):
    with pytest.raises(InputError):
        build()


def test_schema_bytes_round_trip_and_hash():
    schema = VectorSchema([Section("a", 3, 16, 5), Section("b", 2, 64, 9)], 7)
    assert VectorSchema.decode(schema.encode()) == schema
    assert schema.encode() == ref.schema_bytes([("a", 3, 16, 5), ("b", 2, 64, 9)], 7)
    assert schema.sha256 != VectorSchema(schema.sections, 8).sha256
    for damaged in (schema.encode()[:-1], schema.encode() + b"\0", b"\x02" + schema.encode()[1:]):
        with pytest.raises(ProtocolError):
            VectorSchema.decode(damaged)
    with pytest.raises(ProtocolError, match="impossible schema"):
        VectorSchema.decode(schema.encode().replace(b"\x10\x05", b"\x11\x05"))


# --- secrets and identities ---------------------------------------------------------------------------------


def test_secrets_do_not_show_pickle_or_survive_wiping():
    secret = Secret(b"\xaa" * 32)
    assert repr(secret) == str(secret) == "Secret(32 bytes)"
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(secret)
    buffer = secret._buffer
    secret.wipe()
    assert secret.is_wiped
    assert buffer == bytes(32)
    with pytest.raises(ValueError, match="wiped"):
        secret.expose()
    secret.wipe()


def test_no_repr_of_a_session_shows_key_material():
    federation = Federation(3)
    client = federation.clients["silo-00"]
    client.upload(federation.header(), federation.schema, federation.values()["silo-00"])
    shown = repr((client.__dict__, client._epoch.__dict__, client._round.__dict__, client._round._keys))
    pair_key = client._epoch._pair_keys["silo-01"].expose()
    assert pair_key.hex() not in shown
    assert repr(pair_key)[2:-1] not in shown
    assert "Secret(32 bytes)" in shown


def test_identity_files_are_private_and_never_overwritten(tmp_path: Path):
    identity, path = Identity.generate(SystemRandomness()), tmp_path / "identity.pem"
    identity.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Identity.load(path).public_bytes() == identity.public_bytes()
    assert identity.public_bytes().hex()[:16] in repr(identity)
    with pytest.raises(InputError, match="never overwritten"):
        identity.save(path)
    path.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        Identity.load(path)
    with pytest.raises(InputError, match="cannot read"):
        Identity.load(tmp_path / "absent")
    for content in (b"", b"not a key"):
        other = tmp_path / "other.pem"
        other.write_bytes(content)
        other.chmod(0o600)
        with pytest.raises(InputError, match="no unencrypted PEM"):
            Identity.load(other)


def test_rosters_refuse_shared_and_malformed_keys():
    key = Identity.generate(SystemRandomness()).public_bytes()
    for keys in ({"a": key, "b": key}, {"a": key[:31]}, {"": key}, {}):
        with pytest.raises(InputError):
            Roster(keys)
    assert Roster({"a": key}).sha256 == ref.roster_hash({"a": key})
