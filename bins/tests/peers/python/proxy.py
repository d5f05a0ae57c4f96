"""The family's proxy: libzmq's own XSUB/XPUB proxy, which matches topics by prefix."""

import zmq

import peer


def main(args, context):
    publishers = peer.socket(context, zmq.XSUB, args, bind=args.publishers)
    subscribers = peer.socket(context, zmq.XPUB, args, bind=args.subscribers)
    peer.forward(context, publishers, subscribers, ("publishers", "subscribers"))


if __name__ == "__main__":
    parser = peer.flags(__doc__)
    parser.add_argument("--publishers", default="tcp://127.0.0.1:5557", help="where publishers connect")
    parser.add_argument("--subscribers", default="tcp://127.0.0.1:5558", help="where subscribers connect")
    peer.run(main, parser.parse_args())
