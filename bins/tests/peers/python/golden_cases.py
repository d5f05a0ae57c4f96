"""The messages of the golden files and what a lenient reader must see in each; golden.py and golden.mjs turn them into bytes.

Form `canonical` is what most of the family sends, `variant` what some member does. An expectation that is not given is not to be
checked; `missing` lists fields that must be found to be missing; `tolerance_ms` applies to `timestamp_ms`.
"""

T = 1795407353924  # milliseconds: 2026-11-23T04:15:53.924Z
S = T // 1000
TEXT = "2026-11-23T04:15:53"
STAMPED = {"timestamp": T, "clock": 7}
EXPECTED = {"timestamp_ms": T, "clock": 7}
CASES = []


def case(kind, name, message, expect, variant, **more):
    expect = {key: value for key, value in {**EXPECTED, **expect}.items() if value is not None}
    CASES.append({"name": name, "kind": kind, "form": "variant" if variant else "canonical", **more, "message": message, "expect": expect})


def request(name, service, fields, *, data=None, whole=None, variant=None, **expect):
    """fields: what is expected in `data` without timestamp and clock. data, whole: what is sent, if it is not the plain form."""
    variant = variant if variant is not None else bool(whole or data is not None)
    data = {**fields, **STAMPED} if data is None else data
    expect = {"service": service, "data": fields, "timestamp_raw": data.get("timestamp"), **expect}
    case("request", name, whole or {"service": service, "data": data}, expect, variant)


def reply(name, asked, fields, *, data=None, whole=None, variant=False, **expect):
    data = {**fields, **STAMPED} if data is None else data
    case("reply", name, whole or {"service": asked, "data": data}, expect, variant or whole is not None, asked=asked)


def publication(name, topic, whole, expect, variant=False):
    case("publication", name, whole, expect, variant, topic=topic)


def event(name, kind, sent, *, server_id=3677, stamp=S + 0.93, clock=7, extra=None, variant=True, **expect):
    whole = {"type": kind, "server_id": server_id, "clock": clock, "data": sent, "timestamp": stamp, **(extra or {})}
    near = {"timestamp_ms": S * 1000 + 930, "tolerance_ms": 1}
    publication(name, "replication", whole, {"type": "replication", "event": kind, "server_id": server_id, "data": sent, **near, **expect}, variant)


def garbage(name, codec, asked=None, **bytes_):
    """bytes_: `text` or `raw_hex`."""
    more = {"asked": asked} if asked else {}
    CASES.append({"name": name, "kind": "garbage", "form": "variant", "codec": codec, **more, **bytes_, "expect": {"undecodable": True}})


def requests():
    for service, fields in {
        "login": {"user": "ana"},
        "users": {},
        "channel": {"channel": "dev"},
        "channels": {},
        "publish": {"user": "ana", "channel": "dev", "message": "oi"},
        "message": {"src": "ana", "dst": "bia", "message": "psiu"},
        "rank": {"user": "server1"},
        "list": {},
        "heartbeat": {"user": "server1"},
        "clock": {},
        "election": {},
    }.items():
        request(service, service, fields)
    ana = {"user": "ana"}
    # In MessagePack by Node this one is, byte for byte, the login that docs/protocol.md shows as seen on the wire.
    request("login, as seen on the wire", "login", ana, data={**ana, "timestamp": T, "clock": 1}, variant=False, clock=1)
    request("an unknown service", "dance", {"steps": 3})
    odd = 'olá ✓ 🙂 "aspas" \\ \n fim'
    request("publish beyond ASCII", "publish", {"user": "joão", "channel": "ação", "message": odd})
    request("publish of a long text", "publish", {"user": "ana", "channel": "dev", "message": "texto " * 60})
    request("publish of an empty text", "publish", {"user": "ana", "channel": "dev", "message": ""})
    for name, clock in (("the greatest clock", 2**53 - 1), ("clock zero", 0)):
        request(name, "login", ana, data={**ana, "timestamp": T, "clock": clock}, variant=False, clock=clock)

    for name, stamp, expect in (
        ("in integer seconds", S, {"timestamp_ms": S * 1000}),
        ("in float seconds", S + 0.5, {"timestamp_ms": S * 1000 + 500}),
        ("in float seconds, not exact in binary", S + 0.93, {"timestamp_ms": S * 1000 + 930, "tolerance_ms": 1}),
        ("in float milliseconds", T + 0.5, {"tolerance_ms": 1}),
        ("in microseconds", T * 1000, {}),
        ("in RFC 3339, Z", f"{TEXT}.924Z", {}),
        ("in RFC 3339, +00:00 and microseconds", f"{TEXT}.924000+00:00", {}),
        ("in RFC 3339, -03:00", "2026-11-23T01:15:53.924-03:00", {}),
        ("in RFC 3339, no fraction", f"{TEXT}Z", {"timestamp_ms": S * 1000}),
        ("in ISO 8601 without a zone: no known time, still a login", f"{TEXT}.924000", {"timestamp_ms": None}),
    ):
        request(f"timestamp {name}", "login", ana, data={**ana, "timestamp": stamp, "clock": 7}, **expect)
    request("clock as an integral float", "login", ana, data={**ana, "timestamp": T, "clock": 7.0})
    no_clock, no_stamp = {"clock": None, "missing": ["clock"]}, {"timestamp_ms": None, "missing": ["timestamp"]}
    neither = {"clock": None, "timestamp_ms": None, "missing": ["clock", "timestamp"]}
    request("clock missing, as bots do", "channel", {"channel": "dev"}, data={"channel": "dev", "timestamp": T}, **no_clock)
    request("timestamp missing", "login", ana, data={**ana, "clock": 7}, **no_stamp)
    request("clock and timestamp missing", "login", ana, data=ana, **neither)
    request("no data at all", "users", {}, data={}, whole={"service": "users"}, **neither)
    bare = {**ana, "timestamp": T}
    request("clock at the root", "login", ana, data=bare, whole={"service": "login", "data": bare, "clock": 7})
    request("lamport_clock at the root", "login", ana, data=bare, whole={"service": "login", "data": bare, "lamport_clock": 7})
    request("lamport_clock at the root, first", "login", ana, data=bare, whole={"lamport_clock": 7, "service": "login", "data": bare})
    request("data before service", "login", ana, whole={"data": {**ana, **STAMPED}, "service": "login"})
    private = {"src": "ana", "dst": "bia", "message": "psiu"}
    request("from instead of src", "message", private, data={"from": "ana", "dst": "bia", "message": "psiu", **STAMPED})
    crowded = {**ana, **STAMPED, "mood": "good", "nested": {"a": [1, 2.5, True]}}
    request("unknown fields everywhere", "login", ana, whole={"service": "login", "version": 2, "data": crowded, "x": "y"})


def replies():
    ok, refused = {"ok": True}, {"ok": False, "reason": "não"}
    done, fine = {"status": "sucesso"}, {"status": "OK"}
    ranked = [{"name": "server1", "rank": 1}, {"name": "server2", "rank": 2}]
    for service in ("login", "channel"):
        reply(f"{service} done", service, done, **ok)
        reply(f"{service} refused", service, {"status": "erro", "description": "não"}, **refused)
    for service in ("publish", "message"):
        reply(f"{service} done", service, fine, **ok)
        reply(f"{service} refused", service, {"status": "erro", "message": "não"}, **refused)
    reply("users", "users", {"users": ["ana", "bia"]}, users=["ana", "bia"])
    reply("no users", "users", {"users": []}, users=[])
    reply("channels", "channels", {"channels": ["dev", "ops"]}, channels=["dev", "ops"])
    reply("no channels", "channels", {"channels": []}, channels=[])
    reply("an unknown service", "dance", {"status": "erro", "description": "não"}, **refused)
    reply("rank", "rank", {"rank": 1}, rank=1)
    reply("list", "list", {"list": ranked}, list=ranked)
    reply("an empty list", "list", {"list": []}, list=[])
    reply("heartbeat done", "heartbeat", fine, **ok)
    reply("heartbeat of an unknown server", "heartbeat", {"status": "error", "message": "não"}, **refused)
    reply("clock", "clock", {"time": S + 0.5}, time_ms=S * 1000 + 500)
    reply("election", "election", {"election": "OK"}, election="OK")

    reply("login without the envelope", "login", {}, whole={**done, **STAMPED}, **ok)
    reply("publish refused without the envelope", "publish", {}, whole={"status": "erro", "message": "não", **STAMPED}, **refused)
    reply("users without the envelope", "users", {}, whole={"users": ["ana"], **STAMPED}, users=["ana"])
    reply("channels without the envelope", "channels", {}, whole={"channels": ["dev"], **STAMPED}, channels=["dev"])
    reply("success without the envelope", "login", {}, whole={"success": True, **STAMPED}, **ok)
    for name, service, fields, expect in (
        ("status in small letters", "publish", {"status": "ok"}, ok),
        ("status OK for a login", "login", fine, ok),
        ("status sucesso for a publish", "publish", done, ok),
        ("status error", "login", {"status": "error", "description": "não"}, refused),
        ("success: true", "login", {"success": True}, ok),
        ("success: false", "login", {"success": False, "description": "não"}, refused),
        ("a login's reason in message", "login", {"status": "erro", "message": "não"}, refused),
        ("a publish's reason in description", "publish", {"status": "erro", "description": "não"}, refused),
        ("an error without a reason", "login", {"status": "erro"}, {"ok": False}),
        ("channels under users", "channels", {"users": ["dev", "ops"]}, {"channels": ["dev", "ops"]}),
        ("channels under both keys", "channels", {"users": ["dev"], "channels": ["dev"]}, {"channels": ["dev"]}),
        ("channels as objects", "channels", {"channels": [{"name": "dev", "created_timestamp": T}, {"name": "ops"}]}, {"channels": ["dev", "ops"]}),
        ("channels as objects under users", "channels", {"users": [{"name": "dev"}]}, {"channels": ["dev"]}),
        ("users as objects", "users", {"users": [{"name": "ana", "login_timestamp": T}]}, {"users": ["ana"]}),
        ("rank zero", "rank", {"rank": 0}, {"rank": 0}),
        ("rank as an integral float", "rank", {"rank": 2.0}, {"rank": 2}),
        ("list from rank zero, with extra fields", "list", {"list": [{"name": "server1", "rank": 0, "last_seen": S + 0.5}, {"name": "server2", "rank": 1}]},
         {"list": [{"name": "server1", "rank": 0}, {"name": "server2", "rank": 1}]}),
        ("heartbeat with extra fields", "heartbeat", {"status": "OK", "known": 3}, ok),
        ("time in integer seconds", "clock", {"time": S}, {"time_ms": S * 1000}),
        ("time in integer milliseconds", "clock", {"time": T}, {"time_ms": T}),
        ("time in RFC 3339", "clock", {"time": f"{TEXT}.924Z"}, {"time_ms": T}),
    ):
        reply(name, service, fields, variant=True, **expect)
    bare = {**done, "timestamp": T}
    reply("clock at the root", "login", {}, whole={"service": "login", "data": bare, "clock": 7}, **ok)
    reply("lamport_clock at the root", "login", {}, whole={"service": "login", "data": bare, "lamport_clock": 7}, **ok)
    reply("clock as an integral float", "login", {}, data={**bare, "clock": 7.0}, variant=True, **ok)
    reply("clock missing", "login", {}, data=bare, variant=True, **ok, clock=None, missing=["clock"])
    reply("timestamp in float seconds", "login", {}, data={**done, "timestamp": S + 0.5, "clock": 7}, variant=True, **ok, timestamp_ms=S * 1000 + 500)
    reply("timestamp in RFC 3339", "login", {}, data={**done, "timestamp": f"{TEXT}.924Z", "clock": 7}, variant=True, **ok)


def publications():
    public, private = {"user": "ana", "message": "oi"}, {"src": "ana", "message": "psiu"}
    said, whispered = {"type": "channel", **public}, {"type": "private", **private}
    elected = {"type": "election", "coordinator": "server2"}
    odd = {"user": "joão", "message": "olá ✓ 🙂"}
    publication("channel", "dev", {**public, **STAMPED}, said)
    publication("channel beyond ASCII", "ação", {**odd, **STAMPED}, {"type": "channel", **odd})
    publication("private", "bia", {**private, **STAMPED}, whispered)
    publication("servers", "servers", {"service": "election", "data": {"coordinator": "server2", **STAMPED}}, elected)

    for service in ("publish", "publication", "message"):
        publication(f"channel in an envelope: {service}", "dev", {"service": service, "data": {**public, **STAMPED}}, said, True)
    for service in ("message", "private_message"):
        publication(f"private in an envelope: {service}", "bia", {"service": service, "data": {**private, **STAMPED}}, whispered, True)
    by_from = {"from": "ana", "message": "psiu", **STAMPED}
    publication("private with from", "bia", by_from, whispered, True)
    publication("private with from, in an envelope", "bia", {"service": "message", "data": {"dst": "bia", **by_from}}, whispered, True)
    publication("channel that names its channel", "dev", {"channel": "dev", **public, **STAMPED}, said, True)
    publication("clock missing", "dev", {**public, "timestamp": T}, {**said, "clock": None, "missing": ["clock"]}, True)
    publication("lamport_clock", "dev", {**public, "timestamp": T, "lamport_clock": 7}, said, True)
    publication("clock as an integral float", "dev", {**public, "timestamp": T, "clock": 7.0}, said, True)
    publication("timestamp in float seconds", "dev", {**public, "timestamp": S + 0.5, "clock": 7}, {**said, "timestamp_ms": S * 1000 + 500}, True)
    publication("timestamp in microseconds", "dev", {**public, "timestamp": T * 1000, "clock": 7}, said, True)
    publication("timestamp in RFC 3339", "dev", {**public, "timestamp": f"{TEXT}.924Z", "clock": 7}, said, True)
    late = {"coordinator": "server2", "timestamp": S + 0.5, "clock": 7}
    publication("servers in float seconds", "servers", {"service": "election", "data": late}, {**elected, "timestamp_ms": S * 1000 + 500}, True)
    publication("servers with extra fields", "servers", {"service": "election", "data": {"coordinator": "server2", "rank": 2, **STAMPED}}, elected, True)


def events():
    login = {"user": "ana", "timestamp": T}
    sent = {"src": "ana", "dst": "bia", "message": "psiu", "timestamp": T, "clock": 6}
    publish = {"user": "ana", "channel": "dev", "message": "oi", "timestamp": T, "clock": 6, "type": "publish"}
    event("user_login", "user_login", login, variant=False)
    event("channel_create", "channel_create", {"channel": "dev", "timestamp": T}, variant=False)
    event("message_publish", "message_publish", publish, variant=False)
    event("message_send", "message_send", {**sent, "type": "message"}, variant=False)

    event("server_id as a string", "user_login", login, server_id="server2")
    event("event with extra fields", "user_login", login, extra={"version": 1, "shard": "a"})
    event("event in milliseconds", "user_login", login, stamp=T, timestamp_ms=T)
    event("event whose data has float seconds", "user_login", {"user": "ana", "timestamp": S + 0.5})
    event("event with an integral float clock", "user_login", login, clock=7.0)
    event("private event with from", "message_send", {"from" if key == "src" else key: value for key, value in sent.items()}, data=sent)
    event("event of an unknown type", "user_logout", login)


def undecodable():
    """What must not decode into anything, and must do no harm."""
    go = "map[clock:3 {} timestamp:1795407353]"
    garbage("the Go reference's rank under JSON", "JSON", "rank", text="&{rank " + go.format("rank:1") + "}")
    garbage("the Go reference's list under JSON", "JSON", "list", text="&{list " + go.format("list:[map[name:server1 rank:1]]") + "}")
    garbage("the Go reference's heartbeat under JSON", "JSON", "heartbeat", text="{heartbeat " + go.format("status:OK") + "}")
    garbage("an empty frame", "JSON", raw_hex="")
    garbage("plain text", "JSON", text="login ana")
    garbage("JSON cut short", "JSON", text='{"service":"login","data":{"user":"an')
    garbage("a JSON list", "JSON", text='["login",{"user":"ana"}]')
    garbage("MessagePack cut short", "MSGPACK", raw_hex="82a773657276696365a56c6f67696ea464617461")
    garbage("a MessagePack list", "MSGPACK", raw_hex="92a56c6f67696e81a475736572a3616e61")


for part in (requests, replies, publications, events, undecodable):
    part()
