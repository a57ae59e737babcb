"""Flower 1.41's SecAgg+, timed: its own client functions, and its workflow's server workflow.

Only for comparison. ``flwr`` is imported inside the functions, so nothing else depends on it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

CLIENT = "flwr.client.mod.secure_aggregation"
SERVER = "flwr.server.workflow.secure_aggregation"
CLIPPING, TARGET_RANGE, MODULUS, MAX_WEIGHT = 8.0, 1 << 22, 1 << 32, 1000.0


def measure(n: int, words: int, dropped: int, seed: int) -> dict[str, Any]:
    """One round on the complete graph; the last ``dropped`` clients share keys and never upload.

    Returns:
        ``client_ms`` (median over clients that finish, all four stages), ``server_ms`` (sum of vectors and
        unmasking), ``upload_bytes``, ``max_error`` of the mean (quantisation).
    """
    from flwr.common import ndarrays_to_parameters

    mod = import_module(f"{CLIENT}.secaggplus_mod")  # the package hides the module behind a function

    generator = np.random.default_rng(seed)
    values = {nid: generator.uniform(-1, 1, words) for nid in range(1, n + 1)}
    states = {nid: _state(mod, nid) for nid in values}
    spent = dict.fromkeys(values, 0.0)

    def client(nid: int, step: Any, *arguments: Any) -> Any:
        start = time.process_time()
        answer = step(states[nid], *arguments)
        spent[nid] += 1e3 * (time.process_time() - start)
        return answer

    settings = {
        mod.Key.SAMPLE_NUMBER: n,
        mod.Key.SHARE_NUMBER: n,
        mod.Key.THRESHOLD: 2 * n // 3 + 1,
        mod.Key.CLIPPING_RANGE: CLIPPING,
        mod.Key.TARGET_RANGE: TARGET_RANGE,
        mod.Key.MOD_RANGE: MODULUS,
        mod.Key.MAX_WEIGHT: MAX_WEIGHT,
    }
    keys = {nid: client(nid, mod._setup, settings) for nid in values}
    pairs = {str(nid): (k[mod.Key.PUBLIC_KEY_1], k[mod.Key.PUBLIC_KEY_2]) for nid, k in keys.items()}
    inbox: dict[int, list[tuple[int, bytes]]] = {nid: [] for nid in values}
    for nid in values:
        shares = client(nid, mod._share_keys, pairs)
        sealed = zip(shares[mod.Key.DESTINATION_LIST], shares[mod.Key.CIPHERTEXT_LIST], strict=True)
        for destination, ciphertext in sealed:
            inbox[destination].append((nid, ciphertext))
    active = list(values)[: n - dropped]
    uploads: dict[int, list[bytes]] = {}
    for nid in active:
        bundle = {
            mod.Key.SOURCE_LIST: [source for source, _ in inbox[nid]],
            mod.Key.CIPHERTEXT_LIST: [ciphertext for _, ciphertext in inbox[nid]],
        }
        weighted = ndarrays_to_parameters([values[nid]])
        answer = client(nid, mod._collect_masked_vectors, bundle, int(MAX_WEIGHT), weighted)
        uploads[nid] = answer[mod.Key.MASKED_PARAMETERS]
    dead = [nid for nid in values if nid not in active]
    question = {mod.Key.ACTIVE_NODE_ID_LIST: active, mod.Key.DEAD_NODE_ID_LIST: dead}
    reveals = [client(nid, mod._unmask, question) for nid in active]
    start = time.process_time()
    mean = _server(mod, uploads, reveals, active, pairs)
    server_ms = 1e3 * (time.process_time() - start)
    plain = np.mean([values[nid] for nid in active], axis=0)
    return {
        "client_ms": float(np.median([spent[nid] for nid in active])),
        "server_ms": server_ms,
        "upload_bytes": sum(map(len, uploads[active[0]])),
        "max_error": float(np.abs(mean - plain).max()),
    }


def _state(mod: Any, nid: int) -> Any:
    state = mod.SecAggPlusState()
    state.nid = nid
    return state


def _server(
    mod: Any,
    uploads: dict[int, list[bytes]],
    reveals: list[dict[str, Any]],
    active: Sequence[int],
    pairs: dict[str, tuple[bytes, bytes]],
) -> Any:
    """The arithmetic of ``SecAggPlusWorkflow.collect_masked_vectors_stage`` and ``unmask_stage``."""
    workflow: Any = import_module(f"{SERVER}.secaggplus_workflow")
    total: Any = None
    for parts in uploads.values():
        vector = [workflow.bytes_to_ndarray(part) for part in parts]
        total = vector if total is None else workflow.parameters_addition(total, vector)
    shares: dict[int, list[bytes]] = {}
    for reveal in reveals:
        for owner, share in zip(reveal[mod.Key.NODE_ID_LIST], reveal[mod.Key.SHARE_LIST], strict=True):
            shares.setdefault(owner, []).append(share)
    shapes = workflow.get_parameters_shape(total)
    for owner, owned in shares.items():
        secret = workflow.combine_shares(owned)
        if owner in active:
            mask = workflow.pseudo_rand_gen(secret, MODULUS, shapes)
            total = workflow.parameters_subtraction(total, mask)
            continue
        for neighbour in (int(nid) for nid in pairs if int(nid) != owner):
            key = workflow.generate_shared_key(
                workflow.bytes_to_private_key(secret),
                workflow.bytes_to_public_key(pairs[str(neighbour)][0]),
            )
            mask = workflow.pseudo_rand_gen(key, MODULUS, shapes)
            combine = workflow.parameters_addition if owner > neighbour else workflow.parameters_subtraction
            total = combine(total, mask)
    total = workflow.parameters_mod(total, MODULUS)
    ratio, vectors = workflow.factor_extract(total)
    summed = workflow.dequantize(vectors, CLIPPING, TARGET_RANGE)[0] - (len(active) - 1) * CLIPPING
    return summed * TARGET_RANGE / ratio
