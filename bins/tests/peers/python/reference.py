"""The family's reference: rank, list and heartbeat on a REP, in the process-wide codec.

It keeps a name and a rank and nothing else: extra fields such as `address` are dropped. With --go-quirks it behaves as the
Go member: it never merges clocks (trap 3), refuses timestamps and clocks that are not integers, and under SERDE=JSON answers
Go-syntax text that no JSON parser reads (trap 2).
"""

import time

import zmq

import peer
import wire


def go_text(value):
    """What Go's %v prints: map[clock:3 status:OK]."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{go_text(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(go_text(item) for item in value) + "]"
    return str(value)


class Reference:
    def __init__(self, args):
        self.args = args
        self.clock = wire.Lamport()
        self.ranks = {}
        self.seen_at = {}

    def answer(self, request):
        service, data = request.get("service", ""), request.get("data", {})
        if self.args.go_quirks:
            for field in ("timestamp", "clock"):
                if field in data and not wire.is_int(data[field]):
                    peer.emit("rejected", field=field, value=data[field])
                    return self.envelope(service, {"status": "error", "message": f"cannot decode {field} as int64"}, data)
        else:
            self.clock.observe(data.get("clock", 0))
        handler = {"rank": self.rank, "list": self.list, "heartbeat": self.heartbeat}.get(service)
        body = handler(data) if handler else {"status": "error", "message": f"unknown service {service}"}
        peer.emit(service or "unknown", user=data.get("user", ""), answer=body)
        return self.envelope(service, body, data)

    def envelope(self, service, body, data):
        echoed = data.get("timestamp", wire.timestamp())
        return {"service": service, "data": {**body, "timestamp": echoed, "clock": self.clock.tick()}}

    def rank(self, data):
        name = data["user"].strip()
        self.ranks.setdefault(name, self.args.first_rank + len(self.ranks))
        self.seen_at[name] = time.monotonic()
        return {"rank": self.ranks[name]}

    def list(self, _data):
        floor = time.monotonic() - self.args.ttl
        alive = [{"name": name, "rank": rank} for name, rank in self.ranks.items() if self.seen_at[name] >= floor]
        return {"list": sorted(alive, key=lambda server: server["rank"])}

    def heartbeat(self, data):
        name = data["user"].strip()
        if name not in self.ranks:
            if not self.args.auto_register:
                return {"status": "error", "message": f"server {name} is not registered"}
            self.rank(data)
        self.seen_at[name] = time.monotonic()
        return {"status": "OK"}


def main(args, context):
    rep = peer.socket(context, zmq.REP, args, bind=args.bind)
    reference = Reference(args)
    peer.emit("ready", bind=peer.endpoint_of(rep))
    while True:
        request = wire.decode(rep.recv())
        wire.refuse_null(request)
        reply = reference.answer(request)
        if args.go_quirks and wire.SERDE == "JSON":
            rep.send(f"&{{{reply['service']} {go_text(reply['data'])}}}".encode())
        else:
            rep.send(wire.encode(reply))


if __name__ == "__main__":
    parser = peer.flags(__doc__)
    parser.add_argument("--bind", default="tcp://127.0.0.1:5559")
    parser.add_argument("--ttl", type=float, default=30, metavar="SECONDS")
    parser.add_argument("--first-rank", type=int, default=1, help="0 in one member of the family")
    parser.add_argument("--auto-register", action="store_true", help="a heartbeat registers an unknown server")
    parser.add_argument("--go-quirks", action="store_true")
    peer.run(main, parser.parse_args())
