"""A server of the family: REP connected to the broker, PUB and SUB to the proxy, REQ to the reference.

Single-threaded. Quirks that are on purpose, by their number under "Traps in foreign peers" in docs/protocol.md:
1 a null anywhere or a string clock kills it (exit 70) · 4 it leaves itself out when it picks the lowest rank, and adopts what
`servers` announces until its next `list` · 5 it deduplicates by (clock, server_id); with --twin-clocks two of its events share a
clock · 6 its server_id is Python's salted hash of its name, another one after every restart.
"""

import time

import zmq

import peer
import wire
from state import State

REFERENCE_WAIT_S = 2.0
BERKELEY_EVERY = 10


class ReferenceLink:
    """A REQ that never blocks the server: requests queue, one is out at a time, silence rebuilds the socket."""

    def __init__(self, context, args, clock, poller, on_reply):
        self.context, self.args, self.clock, self.poller, self.on_reply = context, args, clock, poller, on_reply
        self.queue, self.sent_at, self.sock = [], None, None
        self.rebuild()

    def rebuild(self):
        if self.sock:
            self.poller.unregister(self.sock)
            self.sock.close(linger=0)
        self.sock = peer.socket(self.context, zmq.REQ, self.args, connect=self.args.reference)
        self.poller.register(self.sock, zmq.POLLIN)
        self.sent_at = None

    def ask(self, service):
        if service not in self.queue:  # so a dead reference cannot make it grow
            self.queue.append(service)
        self.pump()

    def pump(self):
        if self.sent_at is None and self.queue:
            data = {"user": self.args.name, "timestamp": wire.timestamp(), "clock": self.clock.tick()}
            self.sock.send(wire.encode({"service": self.queue[0], "data": data}))
            self.sent_at = time.monotonic()
        elif self.sent_at is not None and time.monotonic() - self.sent_at > REFERENCE_WAIT_S:
            peer.emit("reference_silent", service=self.queue.pop(0))
            self.rebuild()

    def read(self):
        frame, service = self.sock.recv(), self.queue.pop(0)
        self.sent_at = None
        try:
            reply = wire.decode(frame)
        except ValueError:  # trap 2: the Go reference under JSON
            peer.emit("reference_undecodable", service=service, frame_hex=frame.hex())
        else:
            wire.refuse_null(reply)
            self.clock.observe(reply["data"].get("clock", 0))
            self.on_reply(service, reply["data"])
        self.pump()


class Server:
    def __init__(self, args, context):
        self.args, self.context = args, context
        self.name = args.name
        self.server_id = abs(hash(args.name)) % 10000  # salted by Python (trap 6)
        self.state = State(args.data_dir)
        self.clock = wire.Lamport()
        self.seen = set()
        self.previous_clock, self.emitted = 0, 0
        self.rank, self.list, self.coordinator = None, [], None
        self.client_messages = 0
        self.rep = peer.connected(context, zmq.REP, args, args.broker)
        self.pub = peer.connected(context, zmq.PUB, args, args.proxy_pub)
        self.sub = peer.connected(context, zmq.SUB, args, args.proxy_sub)
        for topic in (b"replication", b"servers"):
            self.sub.subscribe(topic)
        self.link = peer.socket(context, zmq.REP, args, bind=args.link) if args.link else None
        self.poller = zmq.Poller()
        for sock in filter(None, (self.rep, self.sub, self.link)):
            self.poller.register(sock, zmq.POLLIN)
        self.stdin = peer.StdinLines(self.poller)
        self.reference = ReferenceLink(context, args, self.clock, self.poller, self.on_reference) if args.reference else None

    # The loop

    def run(self):
        peer.emit("ready", name=self.name, server_id=self.server_id, link=peer.endpoint_of(self.link) if self.link else "")
        next_list = next_check = time.monotonic()
        next_check += self.args.check_interval
        if self.reference:
            self.reference.ask("rank")  # before the first heartbeat and announcement (trap 4)
        while True:
            now = time.monotonic()
            if self.reference and now >= next_list:
                self.reference.ask("heartbeat")
                self.reference.ask("list")
                next_list = now + self.args.list_interval
            if now >= next_check:
                self.check_coordinator()
                next_check = now + self.args.check_interval
            if self.reference:
                self.reference.pump()
            for sock, _ in self.poller.poll(min(200, self.args.check_interval * 1000, self.args.list_interval * 1000)):
                if sock == 0:
                    for line in self.stdin.read():
                        self.command(line)
                elif sock is self.sub:
                    self.on_publication(self.sub.recv_multipart())
                elif sock in (self.rep, self.link):
                    sock.send(self.serve(sock.recv()))
                else:
                    self.reference.read()

    def command(self, line):
        word, _, rest = line.partition(" ")
        if word == "state":
            peer.emit("state", **self.dump())
        elif word == "announce":
            self.announce(rest)
        elif word == "berkeley":
            self.berkeley()
        elif word == "stop":
            raise peer.Stop()
        else:
            peer.emit("unknown_command", line=line)

    def dump(self):
        return {**self.state.dump(), "clock": self.clock.value, "coordinator": self.coordinator or "", "rank": self.rank or 0}

    # Requests

    def serve(self, frame):
        request = wire.decode(frame)
        wire.refuse_null(request)
        service, data = request.get("service", ""), request.get("data", {})
        self.audit(request, "request")
        self.clock.observe(data.get("clock", 0))  # a string here is the end (trap 1); a missing clock is not (trap 7)
        handler = getattr(self, f"serve_{service}", None)
        body = handler(data) if handler else {"status": "erro", "description": f"serviço desconhecido: {service}"}
        peer.emit("request", service=service, data=data, answer=body)
        if service not in ("clock", "election"):
            self.client_messages += 1
            if self.client_messages % BERKELEY_EVERY == 0 and self.coordinator == self.name:
                self.berkeley()
        echoed = data.get("timestamp", wire.timestamp())
        return wire.encode({"service": service, "data": {**body, "timestamp": echoed, "clock": self.clock.tick()}})

    def serve_login(self, data):
        user = data.get("user", "").strip()
        if not user:
            return {"status": "erro", "description": "usuário vazio"}
        if user not in self.state.users:
            stamp = data.get("timestamp", wire.timestamp())
            self.state.add_user(user, stamp)
            self.replicate("user_login", {"user": user, "timestamp": stamp})
        return {"status": "sucesso"}

    def serve_users(self, _data):
        return {"users": list(self.state.users)}

    def serve_channel(self, data):
        channel = data.get("channel", "").strip()
        if not channel:
            return {"status": "erro", "description": "canal vazio"}
        if channel in self.state.channels:
            known = self.args.existing_channel
            return {"status": "sucesso"} if known == "sucesso" else {"status": "erro", "description": "canal já existe"}
        stamp = data.get("timestamp", wire.timestamp())
        self.state.add_channel(channel, stamp)
        self.replicate("channel_create", {"channel": channel, "timestamp": stamp})
        return {"status": "sucesso"}

    def serve_channels(self, _data):
        names = list(self.state.channels)
        objects = [{"name": name, "created_timestamp": stamp} for name, stamp in self.state.channels.items()]
        return {
            "channels": {"channels": names},
            "users": {"users": names},
            "both": {"users": names, "channels": names},
            "objects": {"channels": objects},
        }[self.args.channels_form]

    def serve_publish(self, data):
        user, channel, text = data.get("user", ""), data.get("channel", ""), data.get("message", "")
        if user not in self.state.users:
            return {"status": "erro", "message": f"usuário {user} não existe"}
        if channel not in self.state.channels:
            return {"status": "erro", "message": f"canal {channel} não existe"}
        stamp = data.get("timestamp", wire.timestamp())
        publication = {"user": user, "message": text, "timestamp": stamp, "clock": self.clock.tick()}
        self.publish(channel, "publish", publication)
        record = {"channel": channel, **publication, "type": "publish"}
        self.state.add_publication(record)
        self.replicate("message_publish", record)
        return {"status": "OK"}

    def serve_message(self, data):
        src, dst, text = data.get("src", data.get("from", "")), data.get("dst", ""), data.get("message", "")
        for user in (src, dst):
            if user not in self.state.users:
                return {"status": "erro", "message": f"usuário {user} não existe"}
        stamp = data.get("timestamp", wire.timestamp())
        publication = {self.args.src_key: src, "message": text, "timestamp": stamp, "clock": self.clock.tick()}
        self.publish(dst, "message", publication)
        record = {"src": src, "dst": dst, "message": text, "timestamp": stamp, "clock": publication["clock"], "type": "message"}
        self.state.add_message(record)
        self.replicate("message_send", record)
        return {"status": "OK"}

    def serve_clock(self, _data):
        return {"time": wire.timestamp(self.args.time_form)}

    def serve_election(self, _data):
        self.elect()
        return {"election": "OK"}

    # Publications and replication

    def publish(self, topic, service, flat):
        payload = {"service": service, "data": flat} if self.args.wrap_publications else flat
        self.pub.send_multipart([topic.encode(), wire.encode(payload)])

    def replicate(self, kind, data):
        self.emitted += 1
        if not (self.args.twin_clocks and self.emitted % 2 == 0):  # trap 5: an even event repeats the clock of the odd one
            self.previous_clock = self.clock.tick()
        event = {
            "type": kind,
            "server_id": self.server_id,
            "clock": self.previous_clock,
            "data": data,
            "timestamp": time.time(),
        }
        self.pub.send_multipart([b"replication", wire.encode(event)])
        peer.emit("emitted", type=kind, server_id=self.server_id, clock=self.previous_clock, data=data)

    def on_publication(self, frames):
        if len(frames) != 2:
            raise peer.Failed(f"a publication of {len(frames)} frames on {frames[0]!r}")
        topic = frames[0].decode()
        if topic not in ("replication", "servers"):
            return  # a user or channel whose name merely starts so: SUB matches by prefix
        message = wire.decode(frames[1])
        wire.refuse_null(message)
        if topic == "replication":
            self.on_replication(message)
        else:
            self.audit(message, "servers")
            self.clock.observe(message["data"].get("clock", 0))
            peer.emit("announcement", data=message["data"])
            self.adopt(message["data"]["coordinator"], "servers")

    def on_replication(self, event):
        if event["server_id"] == self.server_id:
            return
        self.audit(event, "replication")
        self.clock.observe(event["clock"])
        key = (event["clock"], event["server_id"])
        if key in self.seen:
            peer.emit("dropped", type=event["type"], server_id=event["server_id"], clock=event["clock"], data=event["data"])
            return
        self.seen.add(key)
        self.state.apply(event["type"], event["data"])
        peer.emit("replicated", type=event["type"], server_id=event["server_id"], clock=event["clock"], data=event["data"])

    def audit(self, message, kind):
        if self.args.strict and (wrong := wire.audit(message, kind)):
            peer.emit("violation", kind=kind, wrong=wrong, message=message)
            raise peer.Failed(f"{kind}: {'; '.join(wrong)}: {message}")

    # The reference, elections, Berkeley

    def on_reference(self, service, data):
        if "rank" in data:
            self.rank = data["rank"]
            peer.emit("rank", rank=self.rank)
        elif "list" in data:
            self.list = data["list"]
            peer.emit("list", list=self.list)
            if self.coordinator in [server["name"] for server in self.list]:
                self.adopt(self.pick(), "list")  # forgets what `servers` said (trap 4); a dead one is the check's business
        elif data.get("status") != "OK":
            peer.emit("reference_error", service=service, data=data)
            self.reference.ask("rank")

    def pick(self):
        candidates = self.list
        if self.args.coordinator_rank == "lowest" and not self.args.include_self:
            candidates = [server for server in self.list if server["name"] != self.name] or self.list
        if not candidates:
            return self.name
        choose = min if self.args.coordinator_rank == "lowest" else max
        return choose(candidates, key=lambda server: server["rank"])["name"]

    def check_coordinator(self):
        if self.list and self.coordinator not in [server["name"] for server in self.list]:
            self.elect()

    def elect(self):
        self.adopt(self.pick(), "election")
        self.announce(self.coordinator)

    def adopt(self, name, by):
        if name != self.coordinator:
            self.coordinator = name
            peer.emit("coordinator", name=name, by=by)

    def announce(self, name):
        data = {"coordinator": name, "timestamp": wire.timestamp(), "clock": self.clock.tick()}
        self.pub.send_multipart([b"servers", wire.encode({"service": "election", "data": data})])
        peer.emit("announced", name=name)

    def berkeley(self):
        """Asks every --peer for its time and logs the average offset; like the family's, it never moves a clock."""
        started, samples = time.time() * 1000, {self.name: time.time() * 1000}
        for endpoint in self.args.peer:
            sock = peer.socket(self.context, zmq.REQ, self.args, connect=endpoint)
            sock.send(wire.encode({"service": "clock", "data": {"timestamp": wire.timestamp(), "clock": self.clock.tick()}}))
            if sock.poll(REFERENCE_WAIT_S * 1000):
                reply = wire.decode(sock.recv())
                wire.refuse_null(reply)
                self.clock.observe(reply["data"].get("clock", 0))
                samples[endpoint] = wire.to_ms(reply["data"]["time"])
            sock.close(linger=0)
        offset = sum(samples.values()) / len(samples) - started
        peer.emit("berkeley", samples=samples, offset_ms=offset, silent=[p for p in self.args.peer if p not in samples])


def main(args, context):
    server = Server(args, context)
    try:
        server.run()
    finally:
        peer.emit("state", **server.dump())


if __name__ == "__main__":
    parser = peer.flags(__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--broker", default="tcp://127.0.0.1:5556", help="the broker's side for servers")
    parser.add_argument("--proxy-pub", default="tcp://127.0.0.1:5557")
    parser.add_argument("--proxy-sub", default="tcp://127.0.0.1:5558")
    parser.add_argument("--reference", help="default: none, so no rank, no list, no election")
    parser.add_argument("--link", help="also answer requests on a REP bound here")
    parser.add_argument("--peer", action="append", default=[], help="ask the time here in a Berkeley round; repeatable")
    parser.add_argument("--data-dir", help="keep state in the family's files here")
    parser.add_argument("--list-interval", type=float, default=10, metavar="SECONDS", help="heartbeat and list")
    parser.add_argument("--check-interval", type=float, default=5, metavar="SECONDS", help="is the coordinator alive?")
    parser.add_argument("--coordinator-rank", choices=("lowest", "highest"), default="lowest")
    parser.add_argument("--include-self", action="store_true", help="without trap 4")
    parser.add_argument("--existing-channel", choices=("erro", "sucesso"), default="erro")
    parser.add_argument("--channels-form", choices=("channels", "users", "both", "objects"), default="channels")
    parser.add_argument("--src-key", choices=("src", "from"), default="src", help="in private publications")
    parser.add_argument("--time-form", choices=wire.TIMESTAMP_FORMS, default="float", help="how `clock` is answered")
    parser.add_argument("--wrap-publications", action="store_true", help="publish envelopes instead of flat maps")
    parser.add_argument("--twin-clocks", action="store_true", help="trap 5 on every pair of events")
    parser.add_argument("--strict", action="store_true", help="fail on whatever DS-v2 must not emit")
    peer.run(main, parser.parse_args())
