"""Writes golden/cases.json and golden/python.json: the cases as bytes of Python's json and msgpack. Deterministic.

--check writes nothing and fails if a file would change, or if this language does not read the other one's bytes as the same message.
"""

import json
import os
import sys

import msgpack

from golden_cases import CASES

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")
ENCODERS = {"JSON": lambda message: json.dumps(message).encode(), "MSGPACK": msgpack.packb}
DECODERS = {"JSON": json.loads, "MSGPACK": msgpack.unpackb}


def frames():
    for case in CASES:
        about = {key: case[key] for key in ("name", "kind", "form", "asked", "topic") if key in case}
        if "topic" in case:
            about["topic_hex"] = case["topic"].encode().hex()
        if case["kind"] == "garbage":
            raw = case["text"].encode() if "text" in case else bytes.fromhex(case["raw_hex"])
            yield {**about, "codec": case["codec"], "hex": raw.hex(), "expect": case["expect"]}
            continue
        for codec, encode in ENCODERS.items():
            yield {**about, "codec": codec, "hex": encode(case["message"]).hex(), "expect": case["expect"]}


def lines(items):
    """One a line, so that a change is a short diff."""
    return "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False, separators=(",", ":")) for item in items) + "\n]\n"


def check(files):
    for name, text in files.items():
        with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
            if file.read() != text:
                sys.exit(f"golden/{name} is not what golden.py writes: run it without --check")
    messages = {(case["kind"], case["name"]): case["message"] for case in CASES if "message" in case}
    with open(os.path.join(FOLDER, "node.json"), encoding="utf-8") as file:
        others = [frame for frame in json.load(file) if frame["kind"] != "garbage"]
    if len(others) != 2 * len(messages):
        sys.exit("golden/node.json has other cases: run golden.mjs")
    for frame in others:
        if DECODERS[frame["codec"]](bytes.fromhex(frame["hex"])) != messages[frame["kind"], frame["name"]]:
            sys.exit(f"Python reads Node's {frame['codec']} {frame['kind']} {frame['name']!r} as another message")


def main():
    if len({(case["kind"], case["name"]) for case in CASES}) != len(CASES):
        sys.exit("two cases have one name")
    files = {"cases.json": lines(CASES), "python.json": lines(frames())}
    if sys.argv[1:] == ["--check"]:
        check(files)
    else:
        for name, text in files.items():
            with open(os.path.join(FOLDER, name), "w", encoding="utf-8") as file:
                file.write(text)
    print(f"{len(CASES)} cases")


if __name__ == "__main__":
    main()
