"""The family's wire as a Python member speaks it: one codec per process, a Lamport clock, tolerant times.

`audit` is ours, not the family's: with --strict a peer reports what DS-v2 emits beside the letter of docs/protocol.md.
"""

import json
import os
import time
from datetime import datetime, timezone

import msgpack

SERDE = os.environ.get("SERDE", "JSON").upper()
if SERDE not in ("JSON", "MSGPACK"):
    raise SystemExit(f"SERDE must be JSON or MSGPACK, not {SERDE!r}")

MAX_CLOCK = 2**53 - 1
SUCCESS = ("OK", "ok", "sucesso")


def encode(message):
    return json.dumps(message).encode() if SERDE == "JSON" else msgpack.packb(message)


def decode(frame):
    """Raises ValueError. Never looks which codec it is: the family has no marker, so a reply in the other one is an error."""
    message = json.loads(frame.decode()) if SERDE == "JSON" else msgpack.unpackb(frame)
    if not isinstance(message, dict):
        raise ValueError(f"not a map: {message!r}")
    return message


class Lamport:
    """No checks, on purpose: a null or string clock raises TypeError here and so kills a Python peer (trap 1)."""

    def __init__(self):
        self.value = 0

    def tick(self):
        self.value += 1
        return self.value

    def observe(self, received):
        self.value = max(self.value, received) + 1


def refuse_null(value, path="$"):
    """Trap 1: a null kills a Python server. TypeError, with the path of the culprit."""
    if value is None:
        raise TypeError(f"null at {path}")
    if isinstance(value, dict):
        for key, inner in value.items():
            refuse_null(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            refuse_null(inner, f"{path}[{index}]")


def timestamp(form="ms"):
    """Now, in one of the forms seen in the family."""
    now = time.time()
    return {
        "ms": lambda: int(now * 1000),
        "us": lambda: int(now * 1_000_000),
        "int": lambda: int(now),
        "float": lambda: now,
        "rfc3339": lambda: datetime.fromtimestamp(now, timezone.utc).isoformat(),
    }[form]()


TIMESTAMP_FORMS = ("ms", "us", "int", "float", "rfc3339")


def to_ms(value):
    """Any form of `timestamp` as milliseconds: below 1e11 seconds, below 1e14 ms, above µs."""
    if isinstance(value, str):
        return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp() * 1000
    return value * 1000 if value < 1e11 else value if value < 1e14 else value / 1000


def is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def audit(message, kind, echoed=None):
    """What is wrong with a message of DS-v2, as a list of sentences. kind: request | reply | publication | servers | replication.
    echoed: the timestamp of the request, which a reply must carry back verbatim."""
    wrong = []
    try:
        refuse_null(message)
    except TypeError as error:
        wrong.append(str(error))
    enveloped = kind in ("request", "reply", "servers")
    if enveloped and set(message) != {"service", "data"}:
        wrong.append(f"the envelope has the keys {sorted(message)}")
    if kind == "publication" and ("service" in message or "data" in message):
        wrong.append("a publication is not flat")
    if kind == "publication" and not ({"user", "message"} <= set(message) or {"src", "message"} <= set(message)):
        wrong.append(f"a publication lacks user or src, or message: {sorted(message)}")
    if kind == "servers" and (message.get("service") != "election" or "coordinator" not in message.get("data", {})):
        wrong.append("an announcement is an election with a coordinator")
    if kind == "replication" and not {"type", "server_id", "clock", "data", "timestamp"} <= set(message):
        wrong.append(f"a replication event lacks a field: {sorted(message)}")
    stamped = message.get("data") if enveloped else message
    stamped = stamped if isinstance(stamped, dict) else {}
    clock, stamp = stamped.get("clock"), stamped.get("timestamp")
    if not is_int(clock) or not 0 <= clock <= MAX_CLOCK:
        wrong.append(f"clock is {clock!r}")
    if echoed is not None:
        if type(stamp) is not type(echoed) or stamp != echoed:
            wrong.append(f"timestamp {stamp!r} is not the request's {echoed!r}")
    elif not is_int(stamp) or not 1e11 <= stamp < 1e14:
        wrong.append(f"timestamp is not integer milliseconds: {stamp!r}")
    return wrong


def audit_topic(topic, message):
    return audit(message, topic if topic in ("servers", "replication") else "publication")
