// The family's proxy: libzmq's own XSUB/XPUB proxy, which matches topics by prefix.
import { flags, forward, socket, zmq } from "./lib.mjs";

const args = flags({ publishers: "tcp://127.0.0.1:5557", subscribers: "tcp://127.0.0.1:5558" });
forward(socket(zmq.XSubscriber, args), socket(zmq.XPublisher, args), ["publishers", "subscribers"], args);
