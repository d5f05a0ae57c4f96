"""A foreign subscriber at a proxy's published port: the next publication in a channel must be MessagePack, not JSON."""

import sys

import msgpack
import zmq

sub = zmq.Context().socket(zmq.SUB)
sub.setsockopt(zmq.RCVTIMEO, 50_000)
for channel in sys.argv[1:]:
    sub.subscribe(channel.encode())
sub.connect("tcp://127.0.0.1:5558")
body = sub.recv_multipart()[1]
publication = msgpack.unpackb(body, raw=False)
assert isinstance(publication, dict) and publication, body
print(publication)
