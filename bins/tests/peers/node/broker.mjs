// The family's broker: libzmq's own ROUTER/DEALER proxy, which shares requests among servers in turn.
import { flags, forward, socket, zmq } from "./lib.mjs";

const args = flags({ frontend: "tcp://127.0.0.1:5555", backend: "tcp://127.0.0.1:5556" });
forward(socket(zmq.Router, args), socket(zmq.Dealer, args), ["frontend", "backend"], args);
