"""Runs one random script against two XSUB/XPUB proxies, libzmq's own and another, and compares every reception.

    differential.py --publishers tcp://... --subscribers tcp://... [--seed 1] [--rounds 12]

The other proxy must match by prefix. Subscribers are half of libzmq (which filters what it receives) and half made of
raw bytes (which take all that comes, so that a delivery too many is seen). Prints one line of JSON and exits with 0 if
both proxies delivered the same, and exactly what the subscriptions ask for.
"""

import argparse
import json
import random
import signal
import socket
import struct
import sys
import threading
import time

import zmq

DEADLINE_S = 30
TOTAL_DEADLINE_S = 120
SYNC = b"\x00sync/"
HEARTBEAT_MS = 200


class Fault(Exception):
    """A difference, or something that did not happen in time."""


def wait_until(what, condition):
    until = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > until:
            raise Fault(f"not in time: {what}")
        time.sleep(0.001)


class LibzmqSubscriber:
    """A SUB socket."""

    def __init__(self, context, endpoint):
        self.socket = context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(endpoint)

    def subscribe(self, topic):
        self.socket.subscribe(topic)

    def unsubscribe(self, topic):
        self.socket.unsubscribe(topic)

    def receive(self):
        messages = []
        try:
            while True:
                messages.append(self.socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return messages

    def close(self):
        self.socket.close()


class RawSubscriber:
    """A ZMTP 3.0 SUB of nothing but a TCP stream. Like a SUB of libzmq it counts, and cancels at the last."""

    def __init__(self, _context, endpoint):
        host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
        self.stream = socket.create_connection((host, int(port)), timeout=DEADLINE_S)
        self.stream.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 3) + b"SUB"
        self.stream.sendall(bytes([4, len(ready)]) + ready)
        self.buffer = b""
        while len(self.buffer) < 64:
            self._fill()
        self.buffer = self.buffer[64:]
        self.stream.setblocking(False)
        self.frames = []
        self.counts = {}

    def _fill(self):
        data = self.stream.recv(1 << 16)
        if not data:
            raise Fault("the proxy hung up on a subscriber")
        self.buffer += data

    def _say(self, first, topic):
        body = first + topic
        self.stream.sendall(bytes([0, len(body)]) + body)

    def subscribe(self, topic):
        self.counts[topic] = self.counts.get(topic, 0) + 1
        self._say(b"\x01", topic)

    def unsubscribe(self, topic):
        self.counts[topic] -= 1
        if not self.counts[topic]:
            del self.counts[topic]
            self._say(b"\x00", topic)

    def receive(self):
        try:
            while True:
                self._fill()
        except BlockingIOError:
            pass
        messages = []
        while (frame := self._next_frame()) is not None:
            flags, body = frame
            if flags & 4:
                continue  # READY
            self.frames.append(body)
            if not flags & 1:
                messages.append(self.frames)
                self.frames = []
        return messages

    def _next_frame(self):
        long = bool(self.buffer) and self.buffer[0] & 2
        header = 9 if long else 2
        if len(self.buffer) < header:
            return None
        length = struct.unpack(">Q", self.buffer[1:9])[0] if long else self.buffer[1]
        if len(self.buffer) < header + length:
            return None
        flags, body = self.buffer[0], self.buffer[header : header + length]
        self.buffer = self.buffer[header + length :]
        return flags, body

    def close(self):
        self.stream.close()


class World:
    """Publishers and subscribers around one proxy."""

    def __init__(self, context, publishers, subscribers, publisher_count):
        self.context = context
        self.subscribers_endpoint = subscribers
        self.subscribers = {}
        self.publishers = []
        self.publishers_endpoint = publishers
        for _ in range(publisher_count):
            self.add_publisher()

    def add_publisher(self):
        publisher = self.context.socket(zmq.PUB)
        publisher.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        publisher.setsockopt(zmq.SNDHWM, 0)
        publisher.setsockopt(zmq.LINGER, 0)
        publisher.connect(self.publishers_endpoint)
        self.publishers.append(publisher)

    def replace_publisher(self, index):
        self.publishers[index].close()
        self.add_publisher()
        self.publishers[index] = self.publishers.pop()

    def join(self, name, raw):
        kind = RawSubscriber if raw else LibzmqSubscriber
        self.subscribers[name] = kind(self.context, self.subscribers_endpoint)

    def leave(self, name):
        self.subscribers.pop(name).close()

    def run_round(self, number, changes, publications):
        """Applies changes, waits until they are in force, publishes, and returns what came to whom from whom."""
        for name, action, topic in changes:
            getattr(self.subscribers[name], action)(topic)
        # Subscriptions of one peer are handled in order: when its mark is in force everywhere, all before it are.
        marks = {name: SYNC + b"%d/%d" % (number, index) for index, name in enumerate(sorted(self.subscribers))}
        for name, mark in marks.items():
            self.subscribers[name].subscribe(mark)
        self.settle(marks, b"begin")
        for publisher, topic, body in publications:
            self.publishers[publisher].send_multipart([topic, body])
        log = self.settle(marks, b"end")
        for name, mark in marks.items():
            self.subscribers[name].unsubscribe(mark)
        return log

    def settle(self, marks, word):
        """Publishes marks until every subscriber has its own from every publisher; returns the other messages."""
        log = {name: {} for name in marks}
        missing = {(name, index) for name in marks for index in range(len(self.publishers))}

        def step():
            for name, index in missing:
                self.publishers[index].send_multipart([marks[name], word + b"/%d" % index])
            for name in marks:
                for message in self.subscribers[name].receive():
                    topic, body = message
                    if not topic.startswith(SYNC):
                        publisher = body.split(b"/")[0].decode()
                        log[name].setdefault(publisher, []).append((topic.decode(), body.decode()))
                    elif topic == marks[name] and body.startswith(word):
                        missing.discard((name, int(body.split(b"/")[1])))
            return not missing

        wait_until(f"marks {sorted(missing)[:4]}", step)
        return log

    def close(self):
        for end in [*self.subscribers.values(), *self.publishers]:
            end.close()


def libzmq_proxy(context):
    """libzmq's own proxy in a thread; returns both endpoints and a function that ends it."""
    sockets = [context.socket(kind) for kind in (zmq.XSUB, zmq.XPUB)]
    for end in sockets:
        end.setsockopt(zmq.SNDHWM, 0)
        end.setsockopt(zmq.RCVHWM, 0)
        end.setsockopt(zmq.LINGER, 0)
        end.bind("tcp://127.0.0.1:*")
    endpoints = [end.getsockopt(zmq.LAST_ENDPOINT).decode() for end in sockets]
    control = context.socket(zmq.PAIR)
    control.bind("inproc://control")
    ending = context.socket(zmq.PAIR)
    ending.connect("inproc://control")
    thread = threading.Thread(target=zmq.proxy_steerable, args=(*sockets, None, control))
    thread.start()

    def end():
        ending.send(b"TERMINATE")
        thread.join()
        for end_socket in [*sockets, control, ending]:
            end_socket.close()

    return endpoints, end


def random_topic(chance):
    # Few letters, so that prefixes, equal topics and the empty one are common.
    return bytes(chance.choices(b"ab", k=chance.choice([0, 1, 1, 2, 2, 3, 4])))


def random_changes(chance, held):
    changes = []
    for _ in range(chance.randint(0, 8)):
        name = chance.choice(sorted(held))
        if held[name] and chance.random() < 0.45:
            topic = chance.choice(sorted(held[name]))
            held[name].remove(topic)
            changes.append((name, "unsubscribe", topic))
        else:
            topic = random_topic(chance)
            held[name].append(topic)
            changes.append((name, "subscribe", topic))
    return changes


def expected(held, publications):
    """What exact prefix matching delivers: each message once to everybody who holds a prefix of its topic."""
    log = {name: {} for name in held}
    for name, topics in held.items():
        for publisher, topic, body in publications:
            if any(topic.startswith(prefix) for prefix in topics):
                log[name].setdefault(str(publisher), []).append((topic.decode(), body.decode()))
    return log


def compare(round_number, logs, wanted):
    for which, log in logs.items():
        for name in wanted:
            if log[name] != wanted[name]:
                raise Fault(f"round {round_number}, {which} proxy, subscriber {name}: {log[name]} instead of {wanted[name]}")


def run(arguments):
    chance = random.Random(arguments.seed)
    context = zmq.Context()
    libzmq_endpoints, end_libzmq = libzmq_proxy(context)
    worlds = {
        "libzmq": World(context, *libzmq_endpoints, 2),
        "other": World(context, arguments.publishers, arguments.subscribers, 2),
    }
    held, joined, deliveries = {}, 0, 0
    try:
        for number in range(arguments.rounds):
            while len(held) < 4:
                held[f"s{joined}"] = []
                for world in worlds.values():
                    world.join(f"s{joined}", raw=joined % 2 == 1)
                joined += 1
            changes = random_changes(chance, held)
            publications = [
                (publisher := chance.randrange(2), random_topic(chance), b"%d/%d/%d" % (publisher, number, n))
                for n in range(chance.randint(1, 60))
            ]
            logs = {which: world.run_round(number, changes, publications) for which, world in worlds.items()}
            wanted = expected(held, publications)
            compare(number, logs, wanted)
            deliveries += sum(len(m) for log in wanted.values() for m in log.values())
            if chance.random() < 0.4:
                leaver = chance.choice(sorted(held))
                del held[leaver]
                for world in worlds.values():
                    world.leave(leaver)
            if chance.random() < 0.2:
                index = chance.randrange(2)
                for world in worlds.values():
                    world.replace_publisher(index)
        return {"seed": arguments.seed, "rounds": arguments.rounds, "deliveries": deliveries, "subscribers": joined}
    finally:
        for world in worlds.values():
            world.close()
        end_libzmq()
        context.destroy(linger=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publishers", required=True)
    parser.add_argument("--subscribers", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    signal.alarm(TOTAL_DEADLINE_S)
    try:
        print(json.dumps(run(arguments)))
    except Fault as fault:
        print(f"seed {arguments.seed}: {fault}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
