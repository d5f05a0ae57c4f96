"""The family's broker: libzmq's own ROUTER/DEALER proxy, which shares requests among servers in turn."""

import zmq

import peer


def main(args, context):
    front = peer.socket(context, zmq.ROUTER, args, bind=args.frontend)
    back = peer.socket(context, zmq.DEALER, args, bind=args.backend)
    peer.forward(context, front, back, ("frontend", "backend"))


if __name__ == "__main__":
    parser = peer.flags(__doc__)
    parser.add_argument("--frontend", default="tcp://127.0.0.1:5555", help="where clients connect")
    parser.add_argument("--backend", default="tcp://127.0.0.1:5556", help="where servers connect")
    peer.run(main, parser.parse_args())
