// The family's reference: rank, list and heartbeat on a REP. It keeps a name and a rank; `address` and the like are dropped.
// This member auto-registers on a heartbeat and keeps seconds as its own timestamps.
import { Lamport, bind, decode, emit, encode, flags, refuseNull, run, socket, timestamp, zmq } from "./lib.mjs";

const clock = new Lamport();
const servers = new Map(); // name -> { rank, seen }

function register(name, first) {
  if (!servers.has(name)) servers.set(name, { rank: first + servers.size });
  servers.get(name).seen = Date.now();
  return servers.get(name).rank;
}

function answer({ service, data = {} }, args) {
  switch (service) {
    case "rank":
      return { rank: register(data.user.trim(), args["first-rank"]) };
    case "heartbeat":
      register(data.user.trim(), args["first-rank"]);
      return { status: "OK" };
    case "list": {
      const floor = Date.now() - args.ttl * 1000;
      const alive = [...servers].filter(([, server]) => server.seen >= floor).map(([name, { rank }]) => ({ name, rank }));
      return { list: alive.sort((a, b) => a.rank - b.rank) };
    }
    default:
      return { status: "error", message: `unknown service ${service}` };
  }
}

run(async (args) => {
  const rep = socket(zmq.Reply, args);
  emit("ready", { bind: await bind(rep, args.bind) });
  for await (const [frame] of rep) {
    const request = decode(frame);
    refuseNull(request);
    clock.observe(request.data?.clock);
    const body = answer(request, args);
    emit(request.service ?? "unknown", { user: request.data?.user ?? "", answer: body });
    await rep.send(encode({ service: request.service, data: { ...body, timestamp: timestamp("int"), clock: clock.tick() } }));
  }
}, flags({ bind: "tcp://127.0.0.1:5559", ttl: 30, "first-rank": 1 }));
