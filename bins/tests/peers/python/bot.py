"""A bot of the family: logs in as a random user, creates a channel without a clock (trap 7), publishes at a rate, and checks that
everything that was acknowledged comes back on the channel, once and in order."""

import random

import peer
import wire
from client import Client, flat


WARM_UP = "aquecimento"


def mine(data, user):
    return data.get("user") == user and not data["message"].startswith(WARM_UP)


def summary(acknowledged, received):
    counts = {text: received.count(text) for text in received}
    position = {text: number for number, text in enumerate(acknowledged)}
    order = [position[text] for text in received if text in position]
    return {
        "acknowledged": len(acknowledged),
        "received": len(received),
        "missing": [text for text in acknowledged if text not in counts],
        "duplicates": [text for text, count in counts.items() if count > 1],
        "in_order": order == sorted(order),
    }


def warm_up(bot, args, channel):
    """Publishes until `--warm-up` messages in a row were acknowledged and came back: a probe proves the subscription at the proxy
    only, not at the servers' PUBs behind it, and a server that just joined may not know the user yet."""
    deadline, streak, number = peer.Deadline(args.settle), 0, 0
    while streak < args.warm_up:
        if deadline.passed():
            raise peer.Failed(f"no {args.warm_up} warm-up messages in a row came back within {args.settle} s")
        text = f"{WARM_UP} {number}"
        reply = bot.exchange(bot.envelope("publish", {"user": args.user, "channel": channel, "message": text}, {}), {})
        came = reply is not None and bot.wait_for(channel, {"user": args.user, "message": text}, peer.Deadline(0.2))
        streak, number = streak + 1 if came else 0, number + 1
    peer.emit("warm", messages=number)


def main(args, context):
    args.mode, args.subscribe = "req", []
    bot = Client(args, context)
    args.user = args.user or f"bot{random.randrange(10**6):06}"
    channel = args.channel or f"canal{random.randrange(10**6):06}"
    once = {"within_s": args.request_timeout}
    bot.op_login({"user": args.user, **once})
    # Another bot may have created the channel, which most servers of the family call an error: so no expectation here.
    bot.op_channel({"channel": channel, "omit": ["clock"], "expect": {}, **once})
    bot.op_subscribe({"topic": channel, "probe": bool(args.proxy_pub)})
    peer.emit("ready", user=args.user, channel=channel)
    warm_up(bot, args, channel)
    acknowledged = []
    for number in range(args.messages):
        text = f"{args.user} {number:06}"
        reply = bot.exchange(bot.envelope("publish", {"user": args.user, "channel": channel, "message": text}, {}), {})
        data = reply and reply.get("data", reply)
        if data is None:
            peer.emit("unanswered", message=text)
        elif data.get("status") in wire.SUCCESS:
            acknowledged.append(text)
            peer.emit("acknowledged", message=text, clock=data.get("clock", 0))
        else:
            peer.emit("refused", message=text, data=data)
        bot.pause(1 / args.rate)
    deadline = peer.Deadline(args.settle)
    while True:
        came = [flat(entry) for entry in bot.inbox if entry["topic"] == channel]
        told = summary(acknowledged, [data["message"] for data in came if mine(data, args.user)])
        if not told["missing"] or deadline.passed():
            break
        bot.wait(None, peer.Deadline(min(0.1, args.settle)))
    peer.emit("summary", user=args.user, channel=channel, sent=args.messages, **told)
    if len(acknowledged) < args.messages and not args.allow_refusals:
        raise peer.Failed(f"{args.messages - len(acknowledged)} of {args.messages} messages were not acknowledged")
    if told["missing"] and not args.allow_loss:
        raise peer.Failed(f"{len(told['missing'])} acknowledged messages never came")
    if told["duplicates"] and not args.allow_duplicates:
        raise peer.Failed(f"{len(told['duplicates'])} messages came twice")
    if not told["in_order"] and not args.allow_disorder:
        raise peer.Failed("messages came out of order")


if __name__ == "__main__":
    parser = peer.flags(__doc__)
    parser.add_argument("--broker", default="tcp://127.0.0.1:5555")
    parser.add_argument("--proxy-sub", default="tcp://127.0.0.1:5558")
    parser.add_argument("--proxy-pub", help="probe the subscription through the proxy before the first message")
    parser.add_argument("--user", default="", help="default: random")
    parser.add_argument("--channel", default="", help="default: random")
    parser.add_argument("--warm-up", type=int, default=1, metavar="N", help="uncounted messages in a row that must come back first")
    parser.add_argument("--messages", type=int, default=10)
    parser.add_argument("--rate", type=float, default=20, metavar="PER_SECOND")
    parser.add_argument("--request-timeout", type=float, default=10, metavar="SECONDS")
    parser.add_argument("--settle", type=float, default=10, metavar="SECONDS", help="longest wait for the last publications")
    parser.add_argument("--timestamps", choices=wire.TIMESTAMP_FORMS, default="ms")
    parser.add_argument("--src-key", choices=("src", "from"), default="src")
    for what in ("loss", "duplicates", "disorder", "refusals"):
        parser.add_argument(f"--allow-{what}", action="store_true")
    parser.add_argument("--strict", action="store_true")
    peer.run(main, parser.parse_args())
