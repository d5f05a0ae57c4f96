"""A server as the seed describes it, with the durability of ours: what is acknowledged was synced.

    seed_server.py BASE_PORT DIR

Three processes: a broker (ROUTER and DEALER), a proxy (XSUB and XPUB), and the server: one REP, one request at a time, an
event appended to messages/publishes.jsonl and synced, published in its channel, replicated, and only then answered.
MessagePack throughout, as with SERDE=MSGPACK. Prints `ready` when it serves.
"""

import json
import multiprocessing
import os
import sys
import time

import msgpack
import zmq


def forward(front, front_port, back, back_port):
    context = zmq.Context()
    sockets = []
    for kind, port in ((front, front_port), (back, back_port)):
        socket = context.socket(kind)
        socket.set_hwm(1_000_000)
        socket.bind(f"tcp://127.0.0.1:{port}")
        sockets.append(socket)
    zmq.proxy(*sockets)


class Server:
    def __init__(self, base_port, folder):
        context = zmq.Context()
        self.rep = context.socket(zmq.REP)
        self.rep.connect(f"tcp://127.0.0.1:{base_port + 1}")
        self.pub = context.socket(zmq.PUB)
        self.pub.connect(f"tcp://127.0.0.1:{base_port + 2}")
        os.makedirs(os.path.join(folder, "messages"), exist_ok=True)
        self.log = open(os.path.join(folder, "messages", "publishes.jsonl"), "ab", buffering=0)
        self.clock = 0

    def serve(self):
        print("ready", flush=True)
        while True:
            request = msgpack.unpackb(self.rep.recv())
            service, data = request["service"], request["data"]
            self.clock = max(self.clock, data.get("clock", 0)) + 1
            answer = self.publish(data) if service == "publish" else {"status": "erro", "description": service}
            self.clock += 1
            answer |= {"timestamp": time.time(), "clock": self.clock}
            self.rep.send(msgpack.packb({"service": service, "data": answer}))

    def publish(self, data):
        self.clock += 1
        event = {"user": data["user"], "channel": data["channel"], "message": data["message"],
                 "timestamp": time.time(), "clock": self.clock}
        self.log.write(json.dumps(event).encode() + b"\n")
        os.fdatasync(self.log.fileno())
        self.pub.send_multipart([data["channel"].encode(), msgpack.packb(event)])
        replicated = {"type": "message_publish", "server_id": 1, "clock": self.clock, "data": event, "timestamp": time.time()}
        self.pub.send_multipart([b"replication", msgpack.packb(replicated)])
        return {"status": "OK"}


def main():
    base_port, folder = int(sys.argv[1]), sys.argv[2]
    middles = [
        (zmq.ROUTER, base_port, zmq.DEALER, base_port + 1),
        (zmq.XSUB, base_port + 2, zmq.XPUB, base_port + 3),
    ]
    for ports in middles:
        multiprocessing.Process(target=forward, args=ports, daemon=True).start()
    Server(base_port, folder).serve()


if __name__ == "__main__":
    main()
