// A client of the family in Node: the same steps as python/client.py (see README.md), without the dealer mode.
import readline from "node:readline";
import { pathToFileURL } from "node:url";
import {
  Failed, Lamport, SERDE, SUCCESS, audit, complain, decode, emit, encode, flags, flat, jsonArgument, mismatch, run, sleep, socket,
  timestamp, zmq,
} from "./lib.mjs";

const RETRY_PAUSE_MS = 50;
const SUCCEEDED = { status: { $in: SUCCESS } };

export class Client {
  constructor(args) {
    this.args = args;
    this.clock = new Lamport();
    this.user = args.user;
    this.inbox = [];
    this.waiters = new Set();
    this.rebuild();
    if (args["proxy-sub"]) {
      this.sub = socket(zmq.Subscriber, args);
      this.sub.connect(args["proxy-sub"]);
      this.listen(); // a failure in there ends the process as an unhandled rejection
    }
    if (args["proxy-pub"]) {
      this.pub = socket(zmq.Publisher, args);
      this.pub.connect(args["proxy-pub"]);
    }
  }

  requester(endpoint) {
    const req = socket(zmq.Request, this.args);
    req.connect(endpoint);
    return req;
  }

  /// Silence rebuilds the socket: a REQ that waits for a lost reply is of no more use.
  rebuild() {
    this.req?.close();
    this.req = this.args.broker ? this.requester(this.args.broker) : undefined;
  }

  // Publications

  async listen() {
    for await (const frames of this.sub) {
      const topic = frames[0].toString();
      const entry = { topic, frames_hex: frames.map((frame) => frame.toString("hex")) };
      if (!topic.startsWith("probe-")) this.examine(entry, frames);
      this.inbox.push(entry);
      for (const wake of this.waiters) wake();
      this.waiters.clear();
    }
  }

  examine(entry, frames) {
    try {
      entry.data = decode(frames[1]);
    } catch (error) {
      entry.error = error.message;
    }
    emit("pub", entry);
    if (frames.length !== 2) throw new Failed(`a publication has two frames, not ${frames.length}`);
    if (!entry.data) throw new Failed(`an undecodable publication on ${entry.topic}: ${entry.error}`);
    this.clock.observe(flat(entry.data).clock);
    if (this.args.strict) {
      const kind = ["servers", "replication"].includes(entry.topic) ? entry.topic : "publication";
      complain(kind, audit(entry.data, kind), entry.data);
    }
  }

  /// The first publication on exactly this topic that fits; removed from the inbox.
  take(topic, wanted) {
    const index = this.inbox.findIndex(
      ({ topic: on, data = {} }) => on === topic && (!wanted || !mismatch(wanted, data) || !mismatch(wanted, flat(data))),
    );
    return index < 0 ? undefined : this.inbox.splice(index, 1)[0];
  }

  async waitFor(topic, wanted, ms) {
    const deadline = Date.now() + ms;
    for (;;) {
      const entry = this.take(topic, wanted);
      const left = deadline - Date.now();
      if (entry || left <= 0) return entry;
      let wake;
      const timer = setTimeout(() => wake(), left);
      await new Promise((resolve) => this.waiters.add((wake = resolve)));
      clearTimeout(timer);
      this.waiters.delete(wake);
    }
  }

  // Requests

  envelope(service, fields, step) {
    const data = { ...fields, timestamp: timestamp(this.args.timestamps), clock: this.clock.tick(), ...(step.data ?? {}) };
    for (const key of step.omit ?? []) delete data[key];
    return { service, data };
  }

  /// One request and its reply, or undefined after the request timeout.
  async exchange(message, step) {
    const req = step.to ? this.requester(step.to) : this.req;
    if (!req) throw new Failed("no --broker and no `to`");
    req.receiveTimeout = (step.timeout_s ?? this.args["request-timeout"]) * 1000;
    await req.send(Buffer.isBuffer(message) ? message : encode(message));
    let frames;
    try {
      frames = await req.receive();
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
    if (step.to) req.close();
    else if (!frames) this.rebuild();
    return frames && this.checkReply(message, frames);
  }

  checkReply(request, frames) {
    if (frames.length !== 1) throw new Failed(`a reply of ${frames.length} frames`);
    let reply;
    try {
      reply = decode(frames[0]);
    } catch (error) {
      throw new Failed(`an undecodable reply: ${error.message}: ${frames[0].toString("hex")}`);
    }
    this.clock.observe((reply.data ?? reply).clock);
    if (this.args.strict && !Buffer.isBuffer(request)) {
      const wrong = audit(reply, "reply", request.data.timestamp);
      if (reply.service !== request.service) wrong.push(`the reply's service is ${reply.service}`);
      if (request.data.clock !== undefined && reply.data?.clock <= request.data.clock) {
        wrong.push(`the reply's clock ${reply.data.clock} is not above the request's ${request.data.clock}`);
      }
      complain("reply", wrong, reply);
    }
    return reply;
  }

  /// Repeats until the reply fits and, with `until_pub`, its publication arrived; within `within_s`, else once.
  async request(step, service, fields, wanted) {
    const deadline = Date.now() + (step.within_s ?? 0) * 1000;
    for (;;) {
      const reply = await this.exchange(Buffer.isBuffer(fields) ? fields : this.envelope(service, fields, step), step);
      let reason;
      if (!reply) reason = step.allow_timeout ? undefined : "no reply in time";
      else reason = mismatch(step.expect ?? wanted, reply.data ?? reply);
      if (!reason && step.until_pub && !(await this.waitFor(step.until_pub, { message: fields.message }, 200))) {
        reason = `the publication did not arrive on ${step.until_pub}`;
      }
      if (!reason) return reply ? { reply } : { timeout: true };
      if (Date.now() >= deadline) throw new Failed(`${reason}; reply: ${JSON.stringify(reply)}`);
      await sleep(RETRY_PAUSE_MS);
    }
  }

  // Steps: each returns what its "step" event tells

  async login(step) {
    const told = await this.request(step, "login", { user: step.user }, SUCCEEDED);
    this.user = step.user;
    return told;
  }

  users(step) {
    return this.request(step, "users", {}, { users: { $type: "list" } });
  }

  channel(step) {
    return this.request(step, "channel", { channel: step.channel }, SUCCEEDED);
  }

  async channels(step) {
    const told = await this.request(step, "channels", {}, {});
    const data = told.reply?.data ?? told.reply ?? {};
    told.channels = (data.channels ?? data.users ?? []).map((item) => item.name ?? item);
    for (const wanted of step.contains ?? []) {
      if (!told.channels.includes(wanted)) throw new Failed(`channel ${wanted} is not in ${told.channels}`);
    }
    return told;
  }

  publish(step) {
    return this.request(step, "publish", { user: step.user ?? this.user, channel: step.channel, message: step.message }, SUCCEEDED);
  }

  message(step) {
    const from = { [this.args["src-key"]]: step.src ?? this.user };
    return this.request(step, "message", { ...from, dst: step.dst, message: step.message }, SUCCEEDED);
  }

  raw(step) {
    return this.request(step, "", Buffer.from(step.hex, "hex"), {});
  }

  /// With `probe` (needs --proxy-pub): until a publication of ours comes back on a topic subscribed to after this one;
  /// subscriptions of one connection take effect in order, so this one then has.
  async subscribe(step) {
    this.sub.subscribe(step.topic);
    if (!step.probe) return {};
    const probe = `probe-${Math.random().toString(36).slice(2)}`;
    const deadline = Date.now() + (step.within_s ?? 10) * 1000;
    this.sub.subscribe(probe);
    do {
      if (Date.now() >= deadline) throw new Failed(`no probe came back through the proxy for ${step.topic}`);
      await this.pub.send([probe, encode({ probe: true })]);
    } while (!(await this.waitFor(probe, undefined, RETRY_PAUSE_MS)));
    this.sub.unsubscribe(probe);
    return {};
  }

  unsubscribe(step) {
    this.sub.unsubscribe(step.topic);
    return {};
  }

  async emit(step) {
    await this.pub.send([step.topic, encode(step.data)]);
    return {};
  }

  async expect_pub(step) {
    const pub = await this.waitFor(step.topic, step.data, (step.within_s ?? 10) * 1000);
    if (!pub) throw new Failed(`no publication on ${step.topic} that fits ${JSON.stringify(step.data)}`);
    return { pub };
  }

  async expect_no_pub(step) {
    const pub = await this.waitFor(step.topic, step.data, (step.within_s ?? 0) * 1000);
    if (pub) throw new Failed(`unwelcome on ${step.topic}: ${JSON.stringify(pub.data)}`);
    return {};
  }

  reconnect() {
    this.rebuild();
    return {};
  }

  async step(index, step) {
    const operations = {
      login: this.login, users: this.users, channel: this.channel, channels: this.channels, publish: this.publish,
      message: this.message, request: (step) => this.request(step, step.service, {}, {}), raw: this.raw, subscribe: this.subscribe,
      unsubscribe: this.unsubscribe, emit: this.emit, expect_pub: this.expect_pub, expect_no_pub: this.expect_no_pub,
      reconnect: this.reconnect,
    };
    const started = performance.now();
    try {
      const operation = operations[step.op];
      if (!operation) throw new Failed(`unknown op ${step.op}`);
      const told = await operation.call(this, step);
      emit("step", { step: index, op: step.op, elapsed_ms: Math.round((performance.now() - started) * 10) / 10, ...told });
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      emit("failed", { step: index, op: step.op, reason: error.message });
      throw new Failed(`step ${index} ${JSON.stringify(step)}: ${error.message}`);
    }
  }
}

async function main(args) {
  const client = new Client(args);
  const steps = args.script ? jsonArgument(args.script) : [];
  emit("ready", { mode: "req", serde: SERDE });
  for (const topic of args.subscribe) client.sub.subscribe(topic);
  for (const [index, step] of steps.entries()) await client.step(index, step);
  if (args.stdin) {
    let index = steps.length;
    for await (const line of readline.createInterface({ input: process.stdin })) {
      if (line.trim()) await client.step(index++, JSON.parse(line));
    }
  } else if (args.listen) {
    await new Promise(() => {}); // SIGTERM or --timeout ends it
  }
  emit("done", { steps: steps.length });
}

export const CLIENT_FLAGS = {
  broker: "", "proxy-sub": "", "proxy-pub": "", user: "", subscribe: [], script: "", stdin: false, listen: false,
  "request-timeout": 10, timestamps: "ms", "src-key": "src", strict: false,
};

if (import.meta.url === pathToFileURL(process.argv[1]).href) run(main, flags(CLIENT_FLAGS));
