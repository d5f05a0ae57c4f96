"""A client of the family, driven by a list of steps (--script) and then by steps on stdin, one JSON object a line (--stdin).

The steps are described in README.md. REQ sockets as the family's clients have; with --mode dealer it sends [id, "", body] and
can have many requests in flight. A failed expectation ends it with exit code 1.
"""

import json
import random
import time
from collections import deque

import zmq

import peer
import wire

RETRY_PAUSE_S = 0.05


def flat(entry):
    """What a publication says, without the envelope that some servers put around it."""
    data = entry["data"] or {}
    return data["data"] if "service" in data and isinstance(data.get("data"), dict) else data


class Requester:
    """One socket to the broker. Silence rebuilds it, since a REQ that waits for a lost reply is of no more use."""

    def __init__(self, context, args, endpoint):
        self.context, self.args, self.endpoint = context, args, endpoint
        self.dealer = args.mode == "dealer"
        self.sock, self.count, self.salt = None, 0, random.randbytes(4)
        self.rebuild()

    def rebuild(self):
        if self.sock:
            self.sock.close(linger=0)
        self.sock = peer.socket(self.context, zmq.DEALER if self.dealer else zmq.REQ, self.args, connect=self.endpoint)

    def send(self, body):
        """Returns the request id, which only a dealer puts on the wire."""
        self.count += 1
        request_id = self.salt + self.count.to_bytes(4, "big")
        self.sock.send_multipart([request_id, b"", body] if self.dealer else [body])
        return request_id

    def receive(self):
        frames = self.sock.recv_multipart()
        if self.dealer:
            if len(frames) != 3 or frames[1] != b"":
                raise peer.Failed(f"a reply to a dealer is [id, empty, body], not {[frame.hex() for frame in frames]}")
            return frames[0], frames[2]
        if len(frames) != 1:
            raise peer.Failed(f"a reply of {len(frames)} frames")
        return None, frames[0]


class Client:
    def __init__(self, args, context):
        self.args, self.context = args, context
        self.clock = wire.Lamport()
        self.user, self.inbox = args.user, deque()
        self.requester = Requester(context, args, args.broker) if args.broker else None
        self.sub = peer.socket(context, zmq.SUB, args, connect=args.proxy_sub) if args.proxy_sub else None
        self.pub = peer.socket(context, zmq.PUB, args, connect=args.proxy_pub) if args.proxy_pub else None

    # Sockets

    def wait(self, sock, deadline):
        """Waits for `sock` (or for any publication, if None) while publications keep flowing into the inbox."""
        poller = zmq.Poller()
        for one in filter(None, (sock, self.sub)):
            poller.register(one, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(deadline.left_ms()))
            if self.sub in ready:
                self.on_publication(self.sub.recv_multipart())
            if sock in ready or (sock is None and self.sub in ready):
                return True
            if deadline.passed():
                return False

    def pause(self, seconds):
        deadline = peer.Deadline(seconds)
        while self.sub and self.wait(None, deadline):
            pass
        time.sleep(deadline.left_ms() / 1000)

    def on_publication(self, frames):
        topic = frames[0].decode(errors="replace")
        entry = {"topic": topic, "frames_hex": [frame.hex() for frame in frames], "data": None}
        if topic.startswith("probe-"):
            self.inbox.append(entry)
            return
        try:
            entry["data"] = wire.decode(frames[1]) if len(frames) == 2 else None
        except ValueError as error:
            entry["error"] = str(error)
        peer.emit("pub", **entry)
        if len(frames) != 2:
            raise peer.Failed(f"a publication has two frames, not {len(frames)}")
        if entry["data"] is None:
            raise peer.Failed(f"an undecodable publication on {topic}: {entry['error']}")
        self.clock.observe(flat(entry).get("clock", 0))
        if self.args.strict and (wrong := wire.audit_topic(topic, entry["data"])):
            peer.emit("violation", kind="publication", wrong=wrong, message=entry["data"])
            raise peer.Failed(f"publication on {topic}: {'; '.join(wrong)}")
        self.inbox.append(entry)

    def take(self, topic, wanted):
        """The first publication in the inbox on exactly this topic that fits; it is removed."""
        for entry in self.inbox:
            bodies = (entry["data"], flat(entry))
            if entry["topic"] == topic and (wanted is None or any(peer.mismatch(wanted, body) is None for body in bodies)):
                self.inbox.remove(entry)
                return entry
        return None

    def wait_for(self, topic, wanted, deadline):
        while (entry := self.take(topic, wanted)) is None:
            if not self.wait(None, deadline):
                return self.take(topic, wanted)
        return entry

    # Requests

    def envelope(self, service, fields, step):
        data = {**fields, "timestamp": wire.timestamp(self.args.timestamps), "clock": self.clock.tick()}
        data.update(step.get("data", {}))
        for key in step.get("omit", []):
            data.pop(key, None)
        return {"service": service, "data": data}

    def check_reply(self, request, frame):
        try:
            reply = wire.decode(frame)
        except ValueError as error:
            raise peer.Failed(f"an undecodable reply: {error}: {frame.hex()}") from error
        data = reply.get("data", reply)
        self.clock.observe(data.get("clock", 0))
        if self.args.strict and request:
            wrong = wire.audit(reply, "reply", request["data"].get("timestamp"))
            if reply.get("service") != request["service"]:
                wrong.append(f"the reply's service is {reply.get('service')!r}")
            if wire.is_int(request["data"].get("clock")) and wire.is_int(data.get("clock")) and data["clock"] <= request["data"]["clock"]:
                wrong.append(f"the reply's clock {data['clock']} is not above the request's {request['data']['clock']}")
            if wrong:
                peer.emit("violation", kind="reply", wrong=wrong, message=reply)
                raise peer.Failed(f"reply to {request['service']}: {'; '.join(wrong)}")
        return reply

    def exchange(self, message, step):
        """One request and its reply, or None after --request-timeout. `message`: an envelope, or bytes."""
        target = Requester(self.context, self.args, step["to"]) if "to" in step else self.requester
        if target is None:
            raise peer.Failed("no --broker and no `to`")
        raw = isinstance(message, bytes)
        request_id = target.send(message if raw else wire.encode(message))
        answered = self.wait(target.sock, peer.Deadline(step.get("timeout_s", self.args.request_timeout)))
        reply = None
        if answered:
            got_id, frame = target.receive()
            if target.dealer and got_id != request_id:
                raise peer.Failed(f"the reply's request id is {got_id.hex()}, sent {request_id.hex()}")
            reply = self.check_reply(None if raw else message, frame)
        else:
            target.rebuild()
        if target is not self.requester:
            target.sock.close(linger=0)
        return reply

    def request(self, step, service, fields, wanted):
        """Repeats the request until the reply fits and, with `until_pub`, its publication arrived; within `within_s`, else once."""
        deadline = peer.Deadline(step.get("within_s", 0))
        while True:
            message = fields if isinstance(fields, bytes) else self.envelope(service, fields, step)
            reply = self.exchange(message, step)
            if reply is None:
                reason = None if step.get("allow_timeout") else f"no reply within {step.get('timeout_s', self.args.request_timeout)} s"
            else:
                reason = peer.mismatch(step.get("expect", wanted), reply.get("data", reply))
            if reason is None and "until_pub" in step:
                if not self.wait_for(step["until_pub"], {"message": fields["message"]}, peer.Deadline(0.2)):
                    reason = f"the publication did not arrive on {step['until_pub']}"
            if reason is None:
                return {"reply": reply} if reply is not None else {"timeout": True}
            if deadline.passed():
                raise peer.Failed(f"{reason}; reply: {json.dumps(reply, default=str)}")
            self.pause(RETRY_PAUSE_S)

    # Steps: each returns what its "step" event tells

    SUCCESS = {"status": {"$in": list(wire.SUCCESS)}}

    def op_login(self, step):
        told = self.request(step, "login", {"user": step["user"]}, self.SUCCESS)
        self.user = step["user"]
        return told

    def op_users(self, step):
        return self.request(step, "users", {}, {"users": {"$type": "list"}})

    def op_channel(self, step):
        return self.request(step, "channel", {"channel": step["channel"]}, self.SUCCESS)

    def op_channels(self, step):
        told = self.request(step, "channels", {}, {})
        data = told["reply"].get("data", told["reply"]) if "reply" in told else {}
        listed = data.get("channels", data.get("users", []))
        told["channels"] = [item["name"] if isinstance(item, dict) else item for item in listed]
        for wanted in step.get("contains", []):
            if wanted not in told["channels"]:
                raise peer.Failed(f"channel {wanted} is not in {told['channels']}")
        return told

    def op_publish(self, step):
        fields = {"user": step.get("user", self.user), "channel": step["channel"], "message": step["message"]}
        return self.request(step, "publish", fields, self.SUCCESS)

    def op_message(self, step):
        fields = {self.args.src_key: step.get("src", self.user), "dst": step["dst"], "message": step["message"]}
        return self.request(step, "message", fields, self.SUCCESS)

    def op_request(self, step):
        return self.request(step, step["service"], {}, {})

    def op_raw(self, step):
        return self.request(step, "", bytes.fromhex(step["hex"]), {})

    def op_subscribe(self, step):
        """With `probe` (needs --proxy-pub): waits until a publication of ours comes back on a topic that was subscribed to after
        this one; subscriptions of one connection take effect in order, so this one then has."""
        self.sub.subscribe(step["topic"].encode())
        if step.get("probe"):
            probe, deadline = f"probe-{random.randbytes(8).hex()}", peer.Deadline(step.get("within_s", 10))
            self.sub.subscribe(probe.encode())
            while self.take(probe, None) is None:
                if deadline.passed():
                    raise peer.Failed(f"no probe came back through the proxy for {step['topic']}")
                self.pub.send_multipart([probe.encode(), wire.encode({"probe": True})])
                self.wait(None, peer.Deadline(RETRY_PAUSE_S))
            self.sub.unsubscribe(probe.encode())
        return {}

    def op_unsubscribe(self, step):
        self.sub.unsubscribe(step["topic"].encode())
        return {}

    def op_emit(self, step):
        """Publishes as a server of the family would: `data` as it is, on `topic`, through --proxy-pub."""
        self.pub.send_multipart([step["topic"].encode(), wire.encode(step["data"])])
        return {}

    def op_expect_pub(self, step):
        deadline = peer.Deadline(step.get("within_s", 10))
        entry = self.wait_for(step["topic"], step.get("data"), deadline)
        if entry is None:
            raise peer.Failed(f"no publication on {step['topic']} that fits {step.get('data')}")
        return {"pub": entry}

    def op_expect_no_pub(self, step):
        """Nothing that fits in the inbox, nor coming within `within_s` (default 0: so put a fence before it)."""
        entry = self.wait_for(step["topic"], step.get("data"), peer.Deadline(step.get("within_s", 0)))
        if entry is not None:
            raise peer.Failed(f"unwelcome on {step['topic']}: {entry['data']}")
        return {}

    def op_reconnect(self, _step):
        self.requester.rebuild()
        return {}

    def op_pipeline(self, step):
        """`count` requests with `window` in flight; every id must come back once. "{i}" in `data` becomes the number."""
        if not self.requester.dealer:
            raise peer.Failed("pipeline needs --mode dealer")
        count, window = step["count"], step.get("window", 100)
        deadline = peer.Deadline(step.get("within_s", 30))
        waiting, arrived, sent, successes, template = {}, [], 0, 0, json.dumps(step.get("data", {}))
        while len(arrived) < count:
            while sent < count and len(waiting) < window:
                fields = json.loads(template.replace("{i}", str(sent)))
                message = self.envelope(step["service"], fields, {})
                waiting[self.requester.send(wire.encode(message))] = (sent, message)
                sent += 1
            if not self.wait(self.requester.sock, deadline):
                raise peer.Failed(f"{len(arrived)} of {count} replies came in time")
            request_id, frame = self.requester.receive()
            if request_id not in waiting:
                raise peer.Failed(f"a reply to no request of ours, or a second one: {request_id.hex()}")
            number, message = waiting.pop(request_id)
            reply = self.check_reply(message, frame)
            if (reason := peer.mismatch(step.get("expect", self.SUCCESS), reply.get("data", reply))) is not None:
                raise peer.Failed(f"request {number}: {reason}")
            arrived.append(number)
        return {"replies": count, "in_order": arrived == sorted(arrived)}

    def step(self, index, step):
        operation = getattr(self, f"op_{step.get('op')}", None)
        started = time.monotonic()
        try:
            if operation is None:
                raise peer.Failed(f"unknown op {step.get('op')!r}")
            told = operation(step)
        except peer.Failed as failure:
            peer.emit("failed", step=index, op=step.get("op"), reason=str(failure))
            raise peer.Failed(f"step {index} {step}: {failure}") from failure
        peer.emit("step", step=index, op=step["op"], elapsed_ms=round((time.monotonic() - started) * 1000, 1), **told)


def main(args, context):
    client = Client(args, context)
    steps = peer.json_argument(args.script) if args.script else []
    peer.emit("ready", mode=args.mode, serde=wire.SERDE)
    for topic in args.subscribe:
        client.op_subscribe({"topic": topic})
    for index, step in enumerate(steps):
        client.step(index, step)
    if args.stdin:
        poller = zmq.Poller()
        stdin, index = peer.StdinLines(poller), len(steps)
        if client.sub:
            poller.register(client.sub, zmq.POLLIN)
        while stdin.open:
            ready = dict(poller.poll())
            if client.sub in ready:  # before the steps, which read it too
                client.on_publication(client.sub.recv_multipart())
            for line in stdin.read() if 0 in ready else ():
                client.step(index, json.loads(line))
                index += 1
    elif args.listen:
        while True:
            client.wait(None, peer.Deadline(1))
    peer.emit("done", steps=len(steps))


if __name__ == "__main__":
    parser = peer.flags(__doc__)
    parser.add_argument("--broker", help="the broker's side for clients, for instance tcp://127.0.0.1:5555")
    parser.add_argument("--proxy-sub", help="where to subscribe, for instance tcp://127.0.0.1:5558")
    parser.add_argument("--proxy-pub", help="where to publish probes and `emit`, for instance tcp://127.0.0.1:5557")
    parser.add_argument("--mode", choices=("req", "dealer"), default="req")
    parser.add_argument("--user", default="", help="sender before the first login step")
    parser.add_argument("--subscribe", action="append", default=[], metavar="TOPIC")
    parser.add_argument("--script", help="a JSON list of steps, or @FILE")
    parser.add_argument("--stdin", action="store_true", help="then take steps from stdin until its end")
    parser.add_argument("--listen", action="store_true", help="then print publications until SIGTERM")
    parser.add_argument("--request-timeout", type=float, default=10, metavar="SECONDS")
    parser.add_argument("--timestamps", choices=wire.TIMESTAMP_FORMS, default="ms", help="the form we send")
    parser.add_argument("--src-key", choices=("src", "from"), default="src", help="in private messages")
    parser.add_argument("--strict", action="store_true", help="fail on whatever DS-v2 must not emit")
    peer.run(main, parser.parse_args())
