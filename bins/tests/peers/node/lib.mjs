// What every Node peer shares: flags, JSON lines on stdout, bounded life, clean exit, sockets, codec, clock, expectations.
// Exit codes: 0 done or SIGTERM, 1 an expectation failed, 2 --timeout passed, 70 died as a family member dies (trap 1).
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const installed = process.env.DSV2_PEERS_DIR ?? fileURLToPath(new URL("../../../../target/peers", import.meta.url));
const require = createRequire(path.join(path.resolve(installed), "node", "from-here.js"));
export const zmq = require("zeromq");
export const msgpack = require("@msgpack/msgpack");

export const SERDE = (process.env.SERDE ?? "JSON").toUpperCase();
export const SUCCESS = ["OK", "ok", "sucesso"];
const LINGER_MS = 500;

// Life

export class Failed extends Error {}

export function emit(event, fields = {}) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + "\n");
}

let onStop = () => {};
let stopping = false;

export async function stop(code) {
  if (stopping) return;
  stopping = true;
  await onStop();
  emit("stopped", { code });
  process.exit(code);
}

function die(error) {
  if (stopping) return;
  console.error(`${error instanceof Failed ? "failed" : "crash"}: ${error.message}`);
  if (!(error instanceof Failed)) emit("crash", { reason: `${error.name}: ${error.message}` });
  stop(error instanceof Failed ? 1 : 70);
}

/// Runs main(args) to the end of the process; before that, atStop().
export function run(main, args, atStop = () => {}) {
  onStop = atStop;
  if (SERDE !== "JSON" && SERDE !== "MSGPACK") die(new Failed(`SERDE must be JSON or MSGPACK, not ${SERDE}`));
  process.on("SIGTERM", () => stop(0));
  process.on("SIGINT", () => stop(0));
  process.on("uncaughtException", die);
  process.on("unhandledRejection", die);
  setTimeout(() => {
    emit("timeout", { seconds: args.timeout });
    console.error(`--timeout: not done after ${args.timeout} s`);
    stop(2);
  }, args.timeout * 1000);
  main(args).then(() => stop(0), die);
}

/// Flags from {name: default}: a number, a string, false for a switch, [] for a repeatable one.
export function flags(defaults) {
  const all = { timeout: 120, "heartbeat-ivl": 0, ...defaults };
  const options = {};
  for (const [name, value] of Object.entries(all)) {
    options[name] = { type: value === false ? "boolean" : "string", multiple: Array.isArray(value) };
  }
  const { values } = parseArgs({ options, strict: true });
  for (const [name, value] of Object.entries(all)) {
    values[name] ??= value;
    if (typeof value === "number") values[name] = Number(values[name]);
  }
  return values;
}

export function jsonArgument(text) {
  return JSON.parse(text.startsWith("@") ? readFileSync(text.slice(1), "utf8") : text);
}

// Sockets

export function socket(Kind, args, options = {}) {
  const heartbeat = args["heartbeat-ivl"] ? { heartbeatInterval: args["heartbeat-ivl"] } : {};
  return new Kind({ linger: LINGER_MS, ...heartbeat, ...options });
}

export async function bind(sock, endpoint) {
  await sock.bind(endpoint.replace(/:0$/, ":*"));
  return sock.lastEndpoint;
}

/// libzmq's own proxy between two bound sockets, until the process is told to stop. The native proxy blocks the exit of the
/// process until it is terminated.
export function forward(front, back, names, args) {
  const proxy = new zmq.Proxy(front, back);
  let running;
  run(async () => {
    const ends = { [names[0]]: await bind(front, args[names[0]]), [names[1]]: await bind(back, args[names[1]]) };
    running = proxy.run();
    emit("ready", ends);
    await running;
    if (!stopping) throw new Failed("the proxy ended by itself");
  }, args, async () => {
    if (running) proxy.terminate();
    await running;
  });
}

/// Connects and waits for the first handshake, so that "ready" means ready; --timeout bounds it.
export async function connected(sock, endpoint) {
  const handshake = new Promise((resolve) => sock.events.on("handshake", resolve));
  sock.connect(endpoint);
  await handshake;
  return sock;
}

// Wire

/// Never looks which codec it is: the family has no marker, so a message in the other one is an error.
export function encode(message) {
  return SERDE === "JSON" ? Buffer.from(JSON.stringify(message)) : Buffer.from(msgpack.encode(message));
}

export function decode(frame) {
  const message = SERDE === "JSON" ? JSON.parse(frame.toString("utf8")) : msgpack.decode(frame);
  if (typeof message !== "object" || message === null || Array.isArray(message)) throw new Error("not a map");
  return message;
}

export class Lamport {
  value = 0;

  tick() {
    return ++this.value;
  }

  /// JavaScript would turn a string clock into NaN, and NaN into null on the wire, which kills the Python members (trap 1):
  /// so this one dies first, and the fault shows where it is.
  observe(received = 0) {
    if (typeof received !== "number" || Number.isNaN(received)) throw new TypeError(`clock is ${JSON.stringify(received)}`);
    this.value = Math.max(this.value, received) + 1;
  }
}

/// Trap 1: a null kills. A TypeError with the path of the culprit.
export function refuseNull(value, at = "$") {
  if (value === null) throw new TypeError(`null at ${at}`);
  if (typeof value === "object") for (const [key, inner] of Object.entries(value)) refuseNull(inner, `${at}.${key}`);
}

export function timestamp(form = "ms") {
  const now = Date.now();
  const forms = { ms: now, us: now * 1000, int: Math.floor(now / 1000), float: now / 1000, rfc3339: new Date(now).toISOString() };
  if (!(form in forms)) throw new Failed(`timestamps are one of ${Object.keys(forms)}`);
  return forms[form];
}

/// Any form of `timestamp` as milliseconds: below 1e11 seconds, below 1e14 ms, above µs.
export function toMs(value) {
  if (typeof value === "string") return Date.parse(value);
  return value < 1e11 ? value * 1000 : value < 1e14 ? value : value / 1000;
}

/// What a publication says, without the envelope that some servers put around it.
export function flat(data) {
  return "service" in data && typeof data.data === "object" ? data.data : data;
}

/// What DS-v2 must not emit (--strict); the rules of `audit` in python/wire.py.
export function audit(message, kind, echoed) {
  const wrong = [];
  try {
    refuseNull(message);
  } catch (error) {
    wrong.push(error.message);
  }
  const keys = Object.keys(message).sort();
  const enveloped = ["request", "reply", "servers"].includes(kind);
  if (enveloped && keys.join() !== "data,service") wrong.push(`the envelope has the keys ${keys}`);
  if (kind === "publication" && ("service" in message || "data" in message)) wrong.push("a publication is not flat");
  if (kind === "publication" && !("message" in message && ("user" in message || "src" in message))) {
    wrong.push(`a publication lacks user or src, or message: ${keys}`);
  }
  if (kind === "servers" && (message.service !== "election" || !message.data?.coordinator)) {
    wrong.push("an announcement is an election with a coordinator");
  }
  if (kind === "replication" && !["type", "server_id", "clock", "data", "timestamp"].every((key) => key in message)) {
    wrong.push(`a replication event lacks a field: ${keys}`);
  }
  const { clock, timestamp: stamp } = (enveloped ? message.data : message) ?? {};
  if (!Number.isSafeInteger(clock) || clock < 0) wrong.push(`clock is ${clock}`);
  if (echoed !== undefined) {
    if (stamp !== echoed) wrong.push(`timestamp ${stamp} is not the request's ${echoed}`);
  } else if (!Number.isInteger(stamp) || stamp < 1e11 || stamp >= 1e14) {
    wrong.push(`timestamp is not integer milliseconds: ${stamp}`);
  }
  return wrong;
}

export function complain(kind, wrong, message) {
  if (wrong.length === 0) return;
  emit("violation", { kind, wrong, message });
  throw new Failed(`${kind}: ${wrong.join("; ")}: ${JSON.stringify(message)}`);
}

// Expectations, as `mismatch` in python/peer.py

const typeName = (value) =>
  Array.isArray(value) ? "list" : typeof value === "boolean" ? "bool" : Number.isInteger(value) ? "int" : typeof value === "number" ? "float" : typeof value;
const listed = (value) => (Array.isArray(value) ? value : [value]);
const OPERATORS = {
  $any: () => true,
  $in: (wanted, got) => wanted.includes(got),
  $gte: (wanted, got) => got >= wanted,
  $len: (wanted, got) => got.length === wanted,
  $prefix: (wanted, got) => typeof got === "string" && got.startsWith(wanted),
  $contains: (wanted, got) => listed(wanted).every((item) => Array.isArray(got) && got.includes(item)),
  $excludes: (wanted, got) => listed(wanted).every((item) => Array.isArray(got) && !got.includes(item)),
  $type: (wanted, got) => wanted === typeName(got),
};

/// undefined if `got` fits: objects by subset, {"$op": …} by operator ({"$absent": true} too), all else by equality.
export function mismatch(wanted, got, at = "$") {
  if (typeName(wanted) === "object" && wanted !== null) {
    const keys = Object.keys(wanted);
    if (keys.length === 1 && keys[0] in OPERATORS) {
      return OPERATORS[keys[0]](wanted[keys[0]], got) ? undefined : `${at}: ${JSON.stringify(got)} is not ${JSON.stringify(wanted)}`;
    }
    if (typeName(got) !== "object" || got === null) return `${at}: ${JSON.stringify(got)} is not an object`;
    for (const key of keys) {
      if (wanted[key]?.$absent) {
        if (key in got) return `${at}.${key}: present`;
      } else if (!(key in got)) {
        return `${at}.${key}: absent`;
      } else {
        const reason = mismatch(wanted[key], got[key], `${at}.${key}`);
        if (reason) return reason;
      }
    }
    return undefined;
  }
  return JSON.stringify(wanted) === JSON.stringify(got) ? undefined : `${at}: ${JSON.stringify(got)} is not ${JSON.stringify(wanted)}`;
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
