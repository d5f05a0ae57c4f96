// A server of the family in Node. It differs from the Python one where real members differ: its server_id is its name (a string),
// `channels` answers under the key `users` as the assignment's text says, an existing channel is a success, `clock` answers integer
// milliseconds, and the highest rank, itself included, coordinates. It keeps its state in memory.
import readline from "node:readline";
import {
  Failed, Lamport, audit, bind, complain, connected, decode, emit, encode, flags, refuseNull, run, socket, stop, timestamp, toMs, zmq,
} from "./lib.mjs";

const REFERENCE_WAIT_MS = 2000;
const BERKELEY_EVERY = 10;

class Server {
  constructor(args) {
    this.args = args;
    this.name = this.serverId = args.name;
    this.clock = new Lamport();
    this.users = new Map();
    this.channels = new Map();
    this.publications = [];
    this.messages = [];
    this.seen = new Set();
    this.list = [];
    this.rank = 0;
    this.coordinator = "";
    this.clientMessages = 0;
    this.publishing = Promise.resolve();
  }

  async run() {
    const { args } = this;
    const rep = await connected(socket(zmq.Reply, args), args.broker);
    this.pub = await connected(socket(zmq.Publisher, args), args["proxy-pub"]);
    const sub = await connected(socket(zmq.Subscriber, args), args["proxy-sub"]);
    sub.subscribe("replication", "servers");
    const loops = [this.answer(rep), this.follow(sub), this.commands()];
    let link = "";
    if (args.link) {
      const extra = socket(zmq.Reply, args);
      link = await bind(extra, args.link);
      loops.push(this.answer(extra));
    }
    emit("ready", { name: this.name, server_id: this.serverId, link });
    if (args.reference) loops.push(this.keepRegistered());
    await Promise.all(loops);
  }

  async commands() {
    for await (const line of readline.createInterface({ input: process.stdin })) {
      const [word, rest] = line.trim().split(" ");
      if (word === "state") emit("state", this.dump());
      else if (word === "announce") this.announce(rest);
      else if (word === "berkeley") await this.berkeley();
      else if (word === "stop") stop(0);
      else if (word) emit("unknown_command", { line });
    }
    await new Promise(() => {}); // the end of stdin ends nothing
  }

  dump() {
    return {
      users: [...this.users.keys()].sort(), channels: [...this.channels.keys()].sort(), publications: this.publications,
      messages: this.messages, clock: this.clock.value, coordinator: this.coordinator, rank: this.rank,
    };
  }

  // Requests

  async answer(rep) {
    for await (const [frame] of rep) await rep.send(this.serve(frame));
  }

  serve(frame) {
    const request = decode(frame);
    refuseNull(request);
    const { service = "", data = {} } = request;
    if (this.args.strict) complain("request", audit(request, "request"), request);
    this.clock.observe(data.clock);
    const services = ["login", "users", "channel", "channels", "publish", "message", "clock", "election"];
    const body = services.includes(service)
      ? this[`serve_${service}`](data)
      : { status: "erro", description: `serviço desconhecido: ${service}` };
    emit("request", { service, data, answer: body });
    if (!["clock", "election"].includes(service) && ++this.clientMessages % BERKELEY_EVERY === 0 && this.coordinator === this.name) {
      this.berkeley();
    }
    return encode({ service, data: { ...body, timestamp: data.timestamp ?? timestamp(), clock: this.clock.tick() } });
  }

  serve_login({ user = "", timestamp: stamp = timestamp() }) {
    if (!user.trim()) return { status: "erro", description: "usuário vazio" };
    if (!this.users.has(user)) {
      this.users.set(user, stamp);
      this.replicate("user_login", { user, timestamp: stamp });
    }
    return { status: "sucesso" };
  }

  serve_users() {
    return { users: [...this.users.keys()] };
  }

  serve_channel({ channel = "", timestamp: stamp = timestamp() }) {
    if (!channel.trim()) return { status: "erro", description: "canal vazio" };
    if (this.channels.has(channel)) {
      return this.args["existing-channel"] === "erro" ? { status: "erro", description: "canal já existe" } : { status: "sucesso" };
    }
    this.channels.set(channel, stamp);
    this.replicate("channel_create", { channel, timestamp: stamp });
    return { status: "sucesso" };
  }

  serve_channels() {
    const names = [...this.channels.keys()];
    const objects = names.map((name) => ({ name, created_timestamp: this.channels.get(name) }));
    const forms = { channels: { channels: names }, users: { users: names }, both: { users: names, channels: names }, objects: { channels: objects } };
    return forms[this.args["channels-form"]];
  }

  serve_publish({ user, channel, message, timestamp: stamp = timestamp() }) {
    if (!this.users.has(user)) return { status: "erro", message: `usuário ${user} não existe` };
    if (!this.channels.has(channel)) return { status: "erro", message: `canal ${channel} não existe` };
    const publication = { user, message, timestamp: stamp, clock: this.clock.tick() };
    this.publish(channel, "publish", publication);
    const record = { channel, ...publication, type: "publish" };
    this.publications.push(record);
    this.replicate("message_publish", record);
    return { status: "OK" };
  }

  serve_message({ src, from, dst, message, timestamp: stamp = timestamp() }) {
    src ??= from;
    for (const user of [src, dst]) if (!this.users.has(user)) return { status: "erro", message: `usuário ${user} não existe` };
    const publication = { [this.args["src-key"]]: src, message, timestamp: stamp, clock: this.clock.tick() };
    this.publish(dst, "message", publication);
    const record = { src, dst, message, timestamp: stamp, clock: publication.clock, type: "message" };
    this.messages.push(record);
    this.replicate("message_send", record);
    return { status: "OK" };
  }

  serve_clock() {
    return { time: timestamp(this.args["time-form"]) };
  }

  serve_election() {
    this.elect();
    return { election: "OK" };
  }

  // Publications and replication

  /// One send at a time is all a socket of this library allows.
  send(topic, message) {
    const frames = [topic, encode(message)];
    this.publishing = this.publishing.then(() => this.pub.send(frames));
  }

  publish(topic, service, flat) {
    this.send(topic, this.args["wrap-publications"] ? { service, data: flat } : flat);
  }

  replicate(type, data) {
    const event = { type, server_id: this.serverId, clock: this.clock.tick(), data, timestamp: Date.now() };
    this.send("replication", event);
    emit("emitted", { type, server_id: this.serverId, clock: event.clock, data });
  }

  async follow(sub) {
    for await (const frames of sub) {
      if (frames.length !== 2) throw new Failed(`a publication of ${frames.length} frames on ${frames[0]}`);
      const topic = frames[0].toString();
      if (topic !== "replication" && topic !== "servers") continue; // SUB matches by prefix
      const message = decode(frames[1]);
      refuseNull(message);
      if (this.args.strict && message.server_id !== this.serverId) complain(topic, audit(message, topic), message);
      if (topic === "replication") this.apply(message);
      else {
        this.clock.observe(message.data.clock);
        emit("announcement", { data: message.data });
        this.adopt(message.data.coordinator, "servers");
      }
    }
  }

  apply({ type, server_id, clock, data }) {
    if (server_id === this.serverId) return;
    this.clock.observe(clock);
    const key = JSON.stringify([clock, server_id]);
    const told = { type, server_id, clock, data };
    if (this.seen.has(key)) return emit("dropped", told); // trap 5: not always a duplicate
    this.seen.add(key);
    if (type === "user_login" && !this.users.has(data.user)) this.users.set(data.user, data.timestamp);
    else if (type === "channel_create" && !this.channels.has(data.channel)) this.channels.set(data.channel, data.timestamp);
    else if (type === "message_publish") this.publications.push(data);
    else if (type === "message_send") this.messages.push(data);
    emit("replicated", told);
  }

  // The reference, elections, Berkeley

  /// One request; silence or an undecodable answer (trap 2) is told and survived.
  async ask(endpoint, service, fields) {
    const req = socket(zmq.Request, this.args, { receiveTimeout: REFERENCE_WAIT_MS, linger: 0 });
    req.connect(endpoint);
    try {
      await req.send(encode({ service, data: { ...fields, timestamp: timestamp(), clock: this.clock.tick() } }));
      const [frame] = await req.receive();
      let reply;
      try {
        reply = decode(frame);
      } catch {
        emit("reference_undecodable", { service, frame_hex: frame.toString("hex") });
        return {};
      }
      refuseNull(reply);
      this.clock.observe(reply.data.clock);
      return reply.data;
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
      emit("reference_silent", { service });
      return {};
    } finally {
      req.close();
    }
  }

  async keepRegistered() {
    const { args } = this;
    const { reference } = args;
    setInterval(() => this.checkCoordinator(), args["check-interval"] * 1000);
    for (let registered = false; ; ) {
      if (!registered) {
        const { rank } = await this.ask(reference, "rank", { user: this.name });
        registered = rank !== undefined;
        if (registered) emit("rank", { rank: (this.rank = rank) });
      }
      const beat = await this.ask(reference, "heartbeat", { user: this.name });
      if (beat.status === "error") registered = false;
      const { list } = await this.ask(reference, "list", {});
      if (list) emit("list", { list: (this.list = list) });
      await new Promise((resolve) => setTimeout(resolve, args["list-interval"] * 1000));
    }
  }

  checkCoordinator() {
    if (this.list.length > 0 && !this.list.some((server) => server.name === this.coordinator)) this.elect();
  }

  elect() {
    const sign = this.args["coordinator-rank"] === "lowest" ? 1 : -1;
    const [best] = [...this.list].sort((a, b) => sign * (a.rank - b.rank));
    this.adopt(best?.name ?? this.name, "election");
    this.announce(this.coordinator);
  }

  adopt(name, by) {
    if (name !== this.coordinator) emit("coordinator", { name: (this.coordinator = name), by });
  }

  announce(coordinator) {
    this.send("servers", { service: "election", data: { coordinator, timestamp: timestamp(), clock: this.clock.tick() } });
    emit("announced", { name: coordinator });
  }

  /// Asks every --peer for its time and logs the average offset; like the family's, it never moves a clock.
  async berkeley() {
    const started = Date.now();
    const samples = { [this.name]: started };
    const silent = [];
    for (const endpoint of this.args.peer) {
      const { time } = await this.ask(endpoint, "clock", {});
      if (time === undefined) silent.push(endpoint);
      else samples[endpoint] = toMs(time);
    }
    const times = Object.values(samples);
    emit("berkeley", { samples, offset_ms: times.reduce((sum, time) => sum + time - started, 0) / times.length, silent });
  }
}

const args = flags({
  name: "", broker: "tcp://127.0.0.1:5556", "proxy-pub": "tcp://127.0.0.1:5557", "proxy-sub": "tcp://127.0.0.1:5558", reference: "", link: "",
  peer: [], "list-interval": 10, "check-interval": 5, "coordinator-rank": "highest", "existing-channel": "sucesso",
  "channels-form": "users", "src-key": "src", "time-form": "ms", "wrap-publications": false, strict: false,
});
const server = new Server(args);
run(async () => {
  if (!args.name) throw new Failed("--name is required");
  await server.run();
}, args, () => emit("state", server.dump()));
