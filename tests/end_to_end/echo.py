"""A client and a federation that only send bytes to and fro, in place of the real ones."""

from __future__ import annotations

import hashlib
import json
import os
import time
import tomllib
from pathlib import Path

from server.transport import Transport


class Echo:
    """Answers with the digest of what came and how many messages came before."""

    def __init__(self, client_id: str, secret_text: str) -> None:
        self.client_id = client_id
        self._secret_text = secret_text
        self._seen = 0

    def answer(self, kind: str, payload: bytes) -> bytes:
        self._seen += 1
        if kind == "query.agree":
            raise RuntimeError(self._secret_text)
        if kind == "query.publish":
            return payload[::-1]
        if kind == "train.fit":
            time.sleep(float(payload))
        return json.dumps(
            {"sha256": hashlib.sha256(payload).hexdigest(), "seen": self._seen, "pid": os.getpid()}
        ).encode()


def open_client(config_path: Path) -> Echo:
    config = tomllib.loads(config_path.read_text())
    return Echo(config["client_id"], config.get("secret_text", ""))


def run_federation(*, scenario_path: Path, out: Path, transport: Transport) -> None:
    """Exchange small and large payloads, then one during which a client is killed; record it all."""
    plan = tomllib.loads(scenario_path.read_text())
    record: dict[str, object] = {"clients": transport.clients(), "exchanges": []}
    large = bytes(range(256)) * (plan["large_bytes"] // 256)
    steps = [("query.enrol", b"0123456789", 30.0)] * plan["small_exchanges"]
    steps += [("query.publish", large, 60.0), ("query.agree", b"", 30.0), ("query.survivors", b"", 30.0)]
    for kind, payload, deadline_s in steps:
        _record(record, transport, kind, payload, deadline_s)
    (out / "ready-to-kill").write_text("")
    _record(record, transport, "train.fit", str(plan["busy_s"]).encode(), plan["deadline_s"])
    _record(record, transport, "query.enrol", b"0123456789", plan["deadline_s"])
    (out / "record.json").write_text(json.dumps(record))


def _record(
    record: dict[str, object], transport: Transport, kind: str, payload: bytes, deadline_s: float
) -> None:
    start = time.monotonic()
    answers = transport.exchange(kind, dict.fromkeys(transport.clients(), payload), deadline_s=deadline_s)
    exchanges = record["exchanges"]
    assert isinstance(exchanges, list)
    exchanges.append(
        {
            "kind": kind,
            "seconds": round(time.monotonic() - start, 3),
            "sent_sha256": hashlib.sha256(payload).hexdigest(),
            "answers": {
                client: json.loads(answer) if len(answer) < 1000 else {"reversed": answer == payload[::-1]}
                for client, answer in answers.items()
            },
            "missing": getattr(transport, "missing", {}),
        }
    )
