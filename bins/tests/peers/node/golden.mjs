// Writes golden/node.json: the cases of golden/cases.json as bytes of JSON.stringify and @msgpack/msgpack. Deterministic.
// --check writes nothing and fails if the file would change, or if this language does not read Python's bytes as the same message.
import { isDeepStrictEqual } from "node:util";
import { readFileSync, writeFileSync } from "node:fs";
import { msgpack } from "./lib.mjs";

const at = (name) => new URL(`../golden/${name}`, import.meta.url);
const read = (name) => readFileSync(at(name), "utf8");
const cases = JSON.parse(read("cases.json"));
const encoders = { JSON: (message) => Buffer.from(JSON.stringify(message)), MSGPACK: (message) => Buffer.from(msgpack.encode(message)) };
const decoders = { JSON: (bytes) => JSON.parse(bytes.toString("utf8")), MSGPACK: (bytes) => msgpack.decode(bytes) };

function* frames() {
  for (const { name, kind, form, asked, topic, message, codec, text, raw_hex, expect } of cases) {
    const about = { name, kind, form, asked, topic, topic_hex: topic && Buffer.from(topic).toString("hex") };
    if (kind === "garbage") {
      yield { ...about, codec, hex: text === undefined ? raw_hex : Buffer.from(text).toString("hex"), expect };
      continue;
    }
    for (const [codec, encode] of Object.entries(encoders)) yield { ...about, codec, hex: encode(message).toString("hex"), expect };
  }
}

function check(wanted) {
  if (read("node.json") !== wanted) throw new Error("golden/node.json is not what golden.mjs writes: run it without --check");
  const messages = new Map(cases.map((one) => [`${one.kind} ${one.name}`, one.message]));
  for (const { kind, name, codec, hex } of JSON.parse(read("python.json"))) {
    if (kind === "garbage") continue;
    if (!isDeepStrictEqual(decoders[codec](Buffer.from(hex, "hex")), messages.get(`${kind} ${name}`))) {
      throw new Error(`Node reads Python's ${codec} ${kind} ${name} as another message`);
    }
  }
}

const text = `[\n${[...frames()].map((frame) => JSON.stringify(frame)).join(",\n")}\n]\n`; // one a line: short diffs
if (process.argv[2] === "--check") check(text);
else writeFileSync(at("node.json"), text);
console.log(`${cases.length} cases`);
