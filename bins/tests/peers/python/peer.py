"""What every Python peer shares: flags, JSON lines on stdout, bounded life, clean exit, sockets, expectations.

Exit codes: 0 done or SIGTERM, 1 an expectation failed, 2 --timeout passed, 70 died as a family member dies (trap 1).
"""

import argparse
import json
import os
import signal
import sys
import threading
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

LINGER_MS = 500


class Failed(Exception):
    """An expectation did not hold."""


class Stop(Exception):
    """SIGTERM or SIGINT."""


class TimedOut(Exception):
    """--timeout has passed."""


def emit(event, **fields):
    line = json.dumps({"event": event, **fields}, default=lambda odd: odd.hex() if isinstance(odd, bytes) else str(odd))
    sys.stdout.write(line + "\n")  # one call, so that a signal cannot part the line from its end
    sys.stdout.flush()


def flags(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="longest life of this process")
    parser.add_argument("--heartbeat-ivl", type=int, default=0, metavar="MS", help="ZMQ_HEARTBEAT_IVL of every socket")
    return parser


def run(main, args):
    """Runs main(args, context) to its exit code; on_stop(), if main returns normally or not, is main's own business."""

    def stop(signum, _frame):
        raise TimedOut() if signum == signal.SIGALRM else Stop()

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(signum, stop)
    signal.setitimer(signal.ITIMER_REAL, args.timeout)
    context = zmq.Context()
    code = 0
    try:
        main(args, context)
    except Stop:
        pass
    except Failed as failure:
        code = 1
        print(f"failed: {failure}", file=sys.stderr)
    except TimedOut:
        code = 2
        emit("timeout", seconds=args.timeout)
        print(f"--timeout: not done after {args.timeout} s", file=sys.stderr)
    except zmq.ZMQError as error:
        code = 1
        emit("failed", reason=f"zmq: {error}")
        print(f"failed: {error}", file=sys.stderr)
    except BrokenPipeError:
        os._exit(1)
    except Exception as error:  # a family member has no better idea than to die here
        code = 70
        emit("crash", reason=f"{type(error).__name__}: {error}")
        print(f"crash: {type(error).__name__}: {error}", file=sys.stderr)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    emit("stopped", code=code)
    context.destroy(linger=LINGER_MS)
    sys.exit(code)


def socket(context, kind, args, connect=None, bind=None):
    sock = context.socket(kind)
    sock.linger = LINGER_MS
    if args.heartbeat_ivl:
        sock.heartbeat_ivl = args.heartbeat_ivl
    if connect:
        sock.connect(connect)
    if bind:
        sock.bind(bind.replace(":0", ":*") if bind.endswith(":0") else bind)
    return sock


def connected(context, kind, args, endpoint):
    """A socket whose first handshake with `endpoint` is done: so that "ready" means ready and nobody sleeps for luck.
    Waits as long as it takes; --timeout ends it."""
    sock = socket(context, kind, args)
    monitor = sock.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    sock.connect(endpoint)
    recv_monitor_message(monitor)
    sock.disable_monitor()
    return sock


def endpoint_of(sock):
    return sock.getsockopt_string(zmq.LAST_ENDPOINT)


def forward(context, front, back, names):
    """libzmq's own proxy between two bound sockets, until a signal comes. It runs in a thread that sees no signals, since one
    in the middle of its poll ends it with EINTR and one between two polls is lost; its control socket ends it."""
    control, handle = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    control.bind("inproc://control")
    handle.connect("inproc://control")
    ended = []

    def pump():
        try:
            zmq.proxy_steerable(front, back, None, control)
        finally:
            ended.append(True)

    thread = threading.Thread(target=pump, daemon=True)
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    ends = {names[0]: endpoint_of(front), names[1]: endpoint_of(back)}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # the thread inherits the mask
    thread.start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        emit("ready", **ends)
        while not ended:
            handle.poll(1000)  # not thread.join(): interrupted by an exception, it takes the thread for finished
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        handle.send(b"TERMINATE")
        thread.join()
    raise Failed("the proxy ended by itself")


def json_argument(text):
    """A flag's JSON: inline, or @FILE."""
    if text.startswith("@"):
        with open(text[1:], encoding="utf-8") as file:
            return json.load(file)
    return json.loads(text)


class StdinLines:
    """Lines of stdin beside zmq sockets in one poller; unregisters itself at end of file."""

    def __init__(self, poller):
        self.poller, self.rest, self.open = poller, b"", True
        poller.register(0, zmq.POLLIN)

    def read(self):
        chunk = os.read(0, 65536)
        if not chunk:
            self.poller.unregister(0)
            self.open = False
            return []
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        return [line.decode().strip() for line in lines if line.strip()]


class Deadline:
    def __init__(self, seconds):
        self.at = time.monotonic() + seconds

    def left_ms(self):
        return max(0, int((self.at - time.monotonic()) * 1000))

    def passed(self):
        return time.monotonic() >= self.at


OPERATORS = {
    "$any": lambda _wanted, _got: True,
    "$in": lambda wanted, got: got in wanted,
    "$gte": lambda wanted, got: got >= wanted,
    "$len": lambda wanted, got: len(got) == wanted,
    "$prefix": lambda wanted, got: got.startswith(wanted),
    "$contains": lambda wanted, got: all(item in got for item in (wanted if isinstance(wanted, list) else [wanted])),
    "$excludes": lambda wanted, got: all(item not in got for item in (wanted if isinstance(wanted, list) else [wanted])),
    "$type": lambda wanted, got: wanted == {bool: "bool", int: "int", float: "float", str: "string", list: "list", dict: "object"}.get(type(got)),
}


def mismatch(wanted, got, path="$"):
    """None if `got` fits: objects by subset, {"$op": …} by operator ({"$absent": true} too), all else by equality."""
    if isinstance(wanted, dict) and len(wanted) == 1 and next(iter(wanted)) in OPERATORS:
        name, operand = next(iter(wanted.items()))
        try:
            fits = OPERATORS[name](operand, got)
        except (TypeError, AttributeError):
            fits = False
        return None if fits else f"{path}: {got!r} is not {name} {operand!r}"
    if isinstance(wanted, dict):
        if not isinstance(got, dict):
            return f"{path}: {got!r} is not an object"
        for key, inner in wanted.items():
            if inner == {"$absent": True}:
                if key in got:
                    return f"{path}.{key}: present: {got[key]!r}"
            elif key not in got:
                return f"{path}.{key}: absent"
            elif (reason := mismatch(inner, got[key], f"{path}.{key}")) is not None:
                return reason
        return None
    if isinstance(wanted, bool) != isinstance(got, bool) or wanted != got:
        return f"{path}: {got!r} is not {wanted!r}"
    return None
