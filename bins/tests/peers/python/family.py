"""Self test: whole clusters of the family, made only of these peers, in both codecs and with Python and Node in every role.

So the peers are proven before DS-v2 meets them. Ephemeral ports, bounded waits, no sleeps: every wait is for an event or a condition.
Usage: family.py [--only NAME]. Needs setup.sh to have run, and runs with its venv's Python.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
NODE = os.path.join(os.path.dirname(HERE), "node")
WAIT_S = 20
FAST = ["--list-interval", "0.3", "--check-interval", "0.2"]
NULL_LOGIN = {
    "JSON": b'{"service":"login","data":{"user":null,"timestamp":1,"clock":1}}'.hex(),
    "MSGPACK": "82a773657276696365a56c6f67696ea46461746183a475736572c0a974696d657374616d7001a5636c6f636b01",
}


class Peer:
    """A running peer and the events it has printed."""

    def __init__(self, serde, program, *flags):
        runner, folder = ([sys.executable], HERE) if program.endswith(".py") else (["node"], NODE)
        self.program = program
        self.process = subprocess.Popen(
            [*runner, os.path.join(folder, program), "--timeout", "90", *map(str, flags)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "SERDE": serde},
        )
        self.events, self.news, self.complaint = [], threading.Condition(), ""
        self.readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_errors)]
        for reader in self.readers:
            reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.news:
                self.events.append(json.loads(line))
                self.news.notify_all()

    def _read_errors(self):
        for line in self.process.stderr:
            self.complaint += line

    def find(self, event, **fields):
        return [one for one in list(self.events) if one["event"] == event and fields.items() <= one.items()]

    def wait(self, event, after=0, **fields):
        """The first event that fits, beyond the first `after` such events."""
        with self.news:
            if not self.news.wait_for(lambda: len(self.find(event, **fields)) > after, WAIT_S):
                raise AssertionError(f"{self.program}: no {event} {fields} in {self.events[-8:]} {self.complaint}")
        return self.find(event, **fields)[after]

    def tell(self, line):
        self.process.stdin.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
        self.process.stdin.flush()

    def state(self):
        """A fresh state of a server."""
        known = len(self.find("state"))
        self.tell("state")
        return self.wait("state", after=known)

    def ends(self, code=0):
        try:
            got = self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.program}: still runs: {self.events[-8:]} {self.complaint}") from None
        for reader in self.readers:
            reader.join(WAIT_S)
        assert got == code, f"{self.program}: exit code {got}, wanted {code}: {self.complaint} {self.events[-5:]}"
        return self

    def stop(self):
        self.process.terminate()
        return self.ends()


def until(condition, what):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


class Cluster:
    """Broker, proxy and reference in one language, and servers added as wanted."""

    def __init__(self, serde, language="py", *reference_flags):
        self.serde, self.peers, self.servers = serde, [], {}
        any_port = "tcp://127.0.0.1:0"
        self.reference = self.start(f"reference.{language}", "--bind", any_port, *reference_flags)
        self.broker = self.start(f"broker.{language}", "--frontend", any_port, "--backend", any_port)
        self.proxy = self.start(f"proxy.{language}", "--publishers", any_port, "--subscribers", any_port)
        reference, broker, proxy = (peer.wait("ready") for peer in (self.reference, self.broker, self.proxy))
        self.reference_at, self.front, self.back = reference["bind"], broker["frontend"], broker["backend"]
        self.pub, self.sub = proxy["publishers"], proxy["subscribers"]

    def start(self, program, *flags):
        peer = Peer(self.serde, program, *flags)
        self.peers.append(peer)
        return peer

    def server(self, program, name, *flags):
        at = ["--broker", self.back, "--proxy-pub", self.pub, "--proxy-sub", self.sub, "--reference", self.reference_at]
        server = self.start(program, "--name", name, *at, *FAST, *flags)
        server.wait("ready")
        self.servers[name] = server
        return server

    def client(self, program, *flags):
        at = ["--broker", self.front, "--proxy-sub", self.sub, "--proxy-pub", self.pub]
        return self.start(program, *at, *flags)

    def script(self, program, steps, *flags, code=0):
        return self.client(program, "--script", json.dumps(steps), *flags).ends(code)

    def warm_up(self):
        """New users until every server has heard every other one: the family neither replays nor repairs what a late SUB missed."""
        pairs = [(one, other) for one in self.servers.values() for other in self.servers.values() if one is not other]
        client, step = self.client("client.py", "--stdin"), 0

        def all_heard():
            nonlocal step
            client.tell({"op": "login", "user": f"warm{step:03}"})
            client.wait("step", step=step)
            step += 1
            return all(one.find("replicated", server_id=other.events[0]["server_id"]) for one, other in pairs)

        until(all_heard, "every server hears every other one")
        client.process.stdin.close()
        client.ends()

    def close(self):
        """Everybody who still runs must end cleanly on SIGTERM."""
        failures = []
        for peer in reversed(self.peers):
            if peer.process.poll() is None:
                try:
                    peer.stop()
                except AssertionError as failure:
                    peer.process.kill()
                    failures.append(str(failure))
        assert not failures, failures

    def __enter__(self):
        return self

    def __exit__(self, kind, _error, _trace):
        if kind is None:
            return self.close()
        for peer in self.peers:
            peer.process.kill()
            peer.process.wait()


def content(server):
    """What must converge: names, and messages without the order of their arrival."""
    state = server.state()
    texts = {key: sorted(record["message"] for record in state[key]) for key in ("publications", "messages")}
    warm = [user for user in state["users"] if not user.startswith("warm")]
    return json.dumps({"users": warm, "channels": state["channels"], **texts}, sort_keys=True)


def whole_cluster(serde, language):
    with tempfile.TemporaryDirectory() as directory, Cluster(serde, language) as cluster:
        gamma = cluster.server("server.mjs", "gamma", "--link", "tcp://127.0.0.1:0")
        gamma.wait("rank", rank=1)
        alpha = cluster.server("server.py", "alpha", "--peer", gamma.events[0]["link"])
        alpha.wait("rank", rank=2)
        beta = cluster.server("server.py", "beta", "--data-dir", directory)
        beta.wait("rank", rank=3)
        servers = [gamma, alpha, beta]
        cluster.warm_up()

        # Elections: everybody gets a coordinator, and an announcement is adopted.
        for server in servers:
            server.wait("coordinator")
        gamma.tell("announce alpha")
        beta.wait("coordinator", name="alpha", by="servers")
        beta.wait("coordinator", name="gamma", by="list")  # until its next list (trap 4)

        # Clients in both languages, to each other and on a channel. Servers are taken in turn, so what one knows may take a moment.
        soon = {"within_s": 10}
        ana = cluster.client("client.py", "--stdin", "--strict")
        bia = cluster.client("client.mjs", "--stdin", "--strict")
        steps = [
            {"op": "login", "user": "{me}"},
            {"op": "login", "user": "{me}", "expect": {"status": "sucesso", "clock": {"$gte": 1}}},
            {"op": "subscribe", "topic": "{me}", "probe": True},
            {"op": "channel", "channel": "{me}-canal", "expect": {}},
            {"op": "publish", "channel": "{me}-canal", "message": "ninguém", "user": "nobody", "expect": {"status": "erro", "message": {"$prefix": "us"}}},
            {"op": "request", "service": "clock", "expect": {"time": {"$any": 1}}},
            {"op": "request", "service": "election", "expect": {"election": "OK"}},
            {"op": "request", "service": "dance", "expect": {"status": "erro", "description": {"$type": "string"}}},
        ]
        for client, me in ((ana, "ana"), (bia, "bia")):
            for step in steps:
                client.tell(json.dumps(step).replace("{me}", me))
            client.wait("step", step=len(steps) - 1)
        for client, dst in ((ana, "bia"), (bia, "ana")):
            client.tell({"op": "users", "expect": {"users": {"$contains": ["ana", "bia"]}}, **soon})
            client.tell({"op": "channels", "contains": []})
            client.tell({"op": "subscribe", "topic": "ana-canal", "probe": True})
            client.wait("step", after=len(steps) + 2)
        until(lambda: len({content(server) for server in servers}) == 1, "users and channels replicated")
        ana.tell({"op": "publish", "channel": "ana-canal", "message": "olá", "until_pub": "ana-canal", **soon})
        for client, src, dst in ((ana, "ana", "bia"), (bia, "bia", "ana")):
            client.tell({"op": "message", "dst": dst, "message": f"psiu, {dst}", **soon})
        bia.tell({"op": "expect_pub", "topic": "ana-canal", "data": {"user": "ana", "message": "olá", "clock": {"$type": "int"}}})
        bia.tell({"op": "expect_pub", "topic": "bia", "data": {"src": "ana", "message": "psiu, bia", "dst": {"$absent": True}}})
        ana.tell({"op": "expect_pub", "topic": "ana", "data": {"src": "bia", "message": "psiu, ana"}})
        bia.tell({"op": "expect_no_pub", "topic": "ana"})
        for client in (ana, bia):
            client.process.stdin.close()
            client.ends()

        # Bots; they may be refused until their user is known everywhere, and servers in turn may swap neighbours.
        lax = ["--messages", 20, "--rate", 50, "--warm-up", 6, "--allow-refusals", "--allow-disorder"]
        bots = [cluster.client(bot, "--strict", *lax) for bot in ("bot.py", "bot.mjs")]
        for bot in bots:
            told = bot.ends().wait("summary")
            assert told["acknowledged"] >= 5 and not told["missing"] and not told["duplicates"], told

        # Pipelining through ROUTER/DEALER to plain REPs.
        pipeline = {"op": "pipeline", "service": "users", "count": 200, "window": 50, "expect": {"users": {"$contains": "ana"}}}
        cluster.script("client.py", [pipeline], "--mode", "dealer")

        until(lambda: len({content(server) for server in servers}) == 1, "the servers converge")
        alpha.tell("berkeley")
        round_ = alpha.wait("berkeley", silent=[])
        assert len(round_["samples"]) == 2 and abs(round_["offset_ms"]) < 5000, round_

        # A restarted server has its files; a stopped reference harms nothing.
        before = content(beta)
        beta.stop()
        beta = cluster.server("server.py", "beta", "--data-dir", directory)
        beta.wait("rank", rank=3)
        assert content(beta) == before
        cluster.reference.stop()
        beta.wait("reference_silent")
        cluster.script("client.py", [{"op": "login", "user": "depois"}] * 3)

        # Trap 1.
        killer = [{"op": "raw", "hex": NULL_LOGIN[serde], "timeout_s": 1, "allow_timeout": True}]
        cluster.script("client.py", killer)
        until(lambda: [server.process.poll() for server in (gamma, alpha, beta)].count(70) == 1, "a null kills one server")


def twin_clocks(serde):
    with Cluster(serde) as cluster:
        twin = cluster.server("server.py", "twin", "--twin-clocks")
        other = cluster.server("server.py", "other")
        cluster.warm_up()
        cluster.script("client.py", [{"op": "login", "user": f"u{number}"} for number in range(8)])  # four to each server
        until(lambda: len(other.find("dropped")) >= 2, "the second event of each pair is dropped (trap 5)")
        assert len(twin.state()["users"]) > len(other.state()["users"])


def strictness(serde):
    """--strict lets the good pass and reports the bad, in both languages."""
    with Cluster(serde) as cluster:
        cluster.server("server.py", "loose")
        talk = [
            {"op": "login", "user": "ana"},
            {"op": "channel", "channel": "c", "expect": {}},
            {"op": "subscribe", "topic": "c", "probe": True},
            {"op": "publish", "channel": "c", "message": "m", "until_pub": "c", "within_s": 5},
        ]
        for client in ("client.py", "client.mjs"):
            cluster.script(client, talk, "--strict")
            broken = cluster.script(client, talk, "--strict", "--timestamps", "float", code=1)
            assert "not integer milliseconds" in broken.wait("violation")["wrong"][0]
            wrong = cluster.script(client, [{"op": "users", "expect": {"users": {"$contains": "nobody"}}}], code=1)
            assert "nobody" in wrong.wait("failed")["reason"]
            silent = [{"op": "users", "to": "tcp://127.0.0.1:9", "timeout_s": 0.2}]
            assert "no reply" in cluster.script(client, silent, code=1).wait("failed")["reason"]
            unseen = [{"op": "subscribe", "topic": "c"}, {"op": "expect_pub", "topic": "c", "within_s": 0.2}]
            cluster.script(client, unseen, code=1).wait("failed", step=1)
        # SUB matches by prefix: who listens to `an` hears what is meant for `ana`.
        nosy = [
            {"op": "login", "user": "ana"}, {"op": "subscribe", "topic": "an", "probe": True},
            {"op": "message", "dst": "ana", "message": "para ana", "until_pub": "ana", "within_s": 5},
        ]
        cluster.script("client.py", nosy, "--src-key", "from")
        both = ["--timestamps", "rfc3339", "--src-key", "from"]
        cluster.script("client.mjs", nosy, *both)
        # A bot with one server: nothing refused, nothing out of order.
        for bot in ("bot.py", "bot.mjs"):
            cluster.client(bot, "--strict", "--rate", "50").ends().wait("summary", acknowledged=10, in_order=True)


def variants(serde):
    """Servers that answer and publish in the family's odder forms are understood by both clients."""
    odd = ["--wrap-publications", "--src-key", "from", "--existing-channel", "sucesso"]
    for server, more in (("server.py", ["--channels-form", "objects"]), ("server.mjs", ["--channels-form", "both"])):
        with Cluster(serde) as cluster:
            cluster.server(server, "odd", *odd, *more, "--time-form", "rfc3339", "--coordinator-rank", "lowest")
            for client in ("client.py", "client.mjs"):
                steps = [
                    {"op": "login", "user": "ana"}, {"op": "channel", "channel": "c"}, {"op": "channel", "channel": "c"},
                    {"op": "channels", "contains": ["c"]}, {"op": "subscribe", "topic": "ana", "probe": True},
                    {"op": "message", "dst": "ana", "message": f"oi {client}", "until_pub": "ana", "within_s": 5},
                    {"op": "request", "service": "clock", "expect": {"time": {"$prefix": "20"}}},
                ]
                sent = cluster.script(client, steps).wait("pub")
                assert sent["data"]["service"] == "message" and sent["data"]["data"]["from"] == "ana", sent


def traps(serde):
    """What kills a server and what does not (traps 1 and 7), with ZMTP heartbeats on."""
    login = {"type": "user_login", "server_id": "x", "clock": 5, "data": {"user": "vivo", "timestamp": 1}, "timestamp": 1.5}
    quick = {"timeout_s": 0.3, "allow_timeout": True}
    deadly = [
        {"op": "request", "service": "login", "data": {"user": None}, **quick},
        {"op": "request", "service": "users", "data": {"clock": None}, **quick},
        {"op": "request", "service": "users", "data": {"clock": "7"}, **quick},
        {"op": "emit", "topic": "replication", "data": {**login, "clock": None}},
        {"op": "emit", "topic": "replication", "data": {**login, "data": {"user": None, "timestamp": 1}}},
        {"op": "emit", "topic": "servers", "data": {"service": "election", "data": {"coordinator": "x", "clock": None}}},
    ]
    harmless = [
        {"op": "subscribe", "topic": "x", "probe": True},  # so our PUB is known to the proxy
        {"op": "emit", "topic": "replication", "data": {**login, "extra": [1]}},
        {"op": "emit", "topic": "replications", "data": {"clock": None}},  # matches by prefix, and is not for us
        {"op": "users", "omit": ["clock", "timestamp"], "data": {"extra": {"a": 1}}},
        {"op": "users", "expect": {"users": ["vivo"]}, "within_s": 10},
    ]
    with Cluster(serde) as cluster:
        for program in ("server.py", "server.mjs"):
            for number, step in enumerate(deadly):
                victim = cluster.server(program, f"{program}-{number}", "--heartbeat-ivl", 100)
                client = "client.mjs" if number % 2 else "client.py"
                cluster.script(client, [*harmless, step], "--heartbeat-ivl", 100)
                assert "crash" in [event["event"] for event in victim.ends(70).events]


def go_reference(serde):
    """Traps 2 and 3: text under JSON; under MSGPACK floats are refused and clocks are not merged."""
    with Cluster(serde, "py", "--go-quirks", "--first-rank", "0") as cluster:
        servers = [cluster.server(program, program) for program in ("server.py", "server.mjs")]
        for server in servers:
            if serde == "JSON":
                text = bytes.fromhex(server.wait("reference_undecodable")["frame_hex"]).decode()
                assert text.startswith("&{rank map[clock:"), text
            else:
                assert server.wait("rank")["rank"] in (0, 1)
        if serde == "MSGPACK":
            rank = {"op": "request", "service": "rank", "to": cluster.reference_at, "data": {"user": "x", "clock": 10**9}}
            step = cluster.script("client.py", [rank]).wait("step")
            assert step["reply"]["data"]["clock"] < 10**9, step
            cluster.script("client.py", [{**rank, "expect": {"status": "error"}}], "--timestamps", "float")
        cluster.script("client.mjs", [{"op": "login", "user": "ana"}])


def golden(_serde):
    here = [[sys.executable, os.path.join(HERE, "golden.py")], ["node", os.path.join(NODE, "golden.mjs")]]
    for command in here:
        subprocess.run([*command, "--check"], check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="checks whose name contains this")
    only = parser.parse_args().only
    checks = {"golden files": (golden, "")}
    for serde in ("JSON", "MSGPACK"):
        for language in ("py", "mjs"):
            checks[f"whole cluster, {serde}, forwarders in {language}"] = (whole_cluster, serde, language)
        for check in (twin_clocks, traps, strictness, variants, go_reference):
            checks[f"{check.__name__}, {serde}"] = (check, serde)
    failed = 0
    chosen = {name: check for name, check in checks.items() if only in name}
    for name, (check, *arguments) in chosen.items():
        started = time.monotonic()
        try:
            check(*arguments)
            print(f"ok      {name} ({time.monotonic() - started:.1f} s)", flush=True)
        except Exception as error:  # the next check is independent of this one
            failed += 1
            print(f"FAILED  {name}: {type(error).__name__}: {error}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not chosen else 0)


if __name__ == "__main__":
    main()
