//! What happens to a session, and what it wants done. Plain data, for the driver and for the simulator.

use dsv2_core::{
    ChannelName, Clock, EventId, Failure, Feed, HistoryPage, HistoryQuery, IdempotencyKey, Level, Position,
    Publication, Receipt, SessionId, StatusReport, UserName,
};

use super::resume::{Cursor, Step};

/// Something happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The program wants something. Exactly one [`Effect::Done`] follows with the same token.
    ///
    /// The driver asks [`Session::accepts`](super::Session::accepts) first; a call beyond the bound is refused.
    Call {
        /// Chosen by the driver; for a subscription also its name from then on. Not reused while in use.
        token: u64,
        /// What is wanted.
        command: Command,
        /// How.
        options: CallOptions,
    },
    /// The connection to the broker is up.
    BrokerUp,
    /// It is gone, and with it every answer that was not yet received.
    BrokerDown,
    /// An answer arrived.
    Reply {
        /// The number that [`Effect::Send`] gave.
        request: u64,
        /// The answer's bytes.
        body: Vec<u8>,
    },
    /// The connection to the proxy is up.
    ProxyUp,
    /// It is gone.
    ProxyDown,
    /// A publication arrived.
    Published {
        /// The first frame.
        topic: Vec<u8>,
        /// The second frame.
        body: Vec<u8>,
    },
    /// The consumer took deliveries, and there is room for as many more.
    Consumed {
        /// Whose.
        subscription: u64,
        /// How many [`Effect::Deliver`] it took.
        deliveries: usize,
    },
    /// The subscription is not wanted any more. Nothing of it follows; unknown ones are ignored.
    Unsubscribe {
        /// Which.
        subscription: u64,
    },
    /// The session ends: every open call is answered now, as what is known of it allows, and later calls are refused.
    Close,
    /// The time that [`dsv2_core::Machine::deadline`] named has come.
    Wake,
}

/// What a program may want.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Registers a user, or logs a known one in; from now on it is who writes. Answered by [`Answer::Written`].
    Login {
        /// Who.
        user: UserName,
    },
    /// Creates a channel; an existing one is a success. Answered by [`Answer::Written`].
    CreateChannel {
        /// Which.
        channel: ChannelName,
    },
    /// Publishes in a channel. Answered by [`Answer::Written`].
    Publish {
        /// Where.
        channel: ChannelName,
        /// The text.
        message: String,
    },
    /// Sends a private message. Answered by [`Answer::Written`].
    Message {
        /// To whom.
        dst: UserName,
        /// The text.
        message: String,
    },
    /// Lists the users. Answered by [`Answer::Names`].
    Users,
    /// Lists the channels. Answered by [`Answer::Names`].
    Channels,
    /// Reads a feed back. Answered by [`Answer::History`].
    History(HistoryQuery),
    /// Asks how the server is. Answered by [`Answer::Status`].
    Status,
    /// Follows channels and inboxes. Answered by [`Answer::Subscribed`], from when on nothing is missed.
    Subscribe {
        /// Which; conversations cannot be followed.
        feeds: Vec<Feed>,
        /// From where.
        cursor: Cursor,
        /// In which order.
        order: Order,
    },
}

/// In which order a subscription delivers. In either, each server's messages come in the order in which it wrote them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they arrive; what happened at two servers at once comes in any order.
    #[default]
    Arrival,
    /// In the total order of logical time, the same for every subscriber of a topic: a message is delivered once nothing
    /// can be inserted before it any more. That takes a moment, needs a cluster with voters, and stalls while one of them
    /// is away. Topics are ordered each by itself.
    Stable,
}

/// How a command is carried out; what is absent is as the session's configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// The program's own identity for a write, so that a retry is recognised even after a restart of the program.
    pub key: Option<IdempotencyKey>,
    /// How safe a write must be before it is acknowledged.
    pub level: Option<Level>,
    /// How long the call may take.
    pub timeout_ms: Option<u64>,
}

/// What a call brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The write is acknowledged.
    Written(Written),
    /// The names asked for. Texts, since servers of the family check no names.
    Names(Vec<String>),
    /// A part of a feed.
    History(HistoryPage),
    /// The server's account of itself.
    Status(Box<StatusReport>),
    /// The subscription is established.
    Subscribed {
        /// Whether losses are noticed and repaired; not so where the server has no `history`.
        gapless: bool,
    },
}

/// An acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Which event holds it, under which identity, and how safe it is; a server of the family does not say.
    pub receipt: Option<Receipt>,
    /// The server's logical clock when it answered.
    pub clock: Option<Clock>,
}

/// Something is to be done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send a request to the broker, `[request, "", body]`.
    Send {
        /// Comes back with the answer. Every attempt has a number of its own.
        request: u64,
        /// The request's bytes.
        body: Vec<u8>,
    },
    /// Subscribe to a topic at the proxy, now and on every later connection.
    Listen(String),
    /// No longer.
    Unlisten(String),
    /// A call is answered.
    Done {
        /// The call's.
        token: u64,
        /// The answer. A failure says whether anything may have changed; of what was only read it never did.
        result: Result<Answer, Failure>,
    },
    /// A delivery for a subscription's consumer. At most as many are on their way as the configured window allows.
    Deliver {
        /// Whose: the token of the call that made it.
        subscription: u64,
        /// What.
        delivery: Delivery,
        /// How the resume point moves with it.
        step: Option<Step>,
    },
    /// The subscription's resume point moves although nothing is delivered.
    Advance {
        /// Whose.
        subscription: u64,
        /// How.
        step: Step,
    },
    /// Give the connection up and make another, to the next endpoint where there are several. `Down` and `Up` follow as
    /// for any connection.
    Reconnect(Side),
    /// Something worth a line in the log.
    Log(Note),
}

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Requests and replies.
    Broker,
    /// Publications.
    Proxy,
}

/// What a subscription yields.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Delivery {
    /// A message. Every one is delivered once; those of one server in the order in which it wrote them.
    Message {
        /// Where it was published.
        feed: Feed,
        /// The message, with its channel or receiver filled in.
        publication: Box<Publication>,
    },
    /// Something is missing, and no server could supply it.
    Gap {
        /// Where.
        feed: Feed,
        /// The last of the missing events; `None` where servers of the family lost or could not repeat what they sent.
        missing: Option<EventId>,
    },
    /// Messages that the publish side had lost were read back, and were delivered just before.
    Recovered {
        /// Where.
        feed: Feed,
        /// How many.
        messages: u64,
    },
    /// The connection to the proxy was lost and is back. What was missed meanwhile follows.
    Reconnected,
    /// In [`Order::Stable`]: messages wait, and do not become final, because a voter is away. Told once; they follow when
    /// it is back.
    Stalled {
        /// Where.
        feed: Feed,
        /// Up to this logical time everything is final.
        stable: Clock,
    },
}

/// Something worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// The session has its identity.
    Opened(SessionId),
    /// A server forgot the session; writes go on under a new one.
    Renewed(SessionId),
    /// The server lacks the extensions, or has them again.
    Extensions(bool),
    /// No server that can be reached has all of this, which the session has seen; it goes on without.
    Behind(Position),
    /// The user could not be logged in; writes are refused until it can.
    LoginRefused(Failure),
    /// A reply cannot be read; carries why.
    UnreadableReply(String),
    /// A publication cannot be read; carries why.
    UnreadablePublication(String),
    /// A publication's clock is beyond what any honest one can be; it was not merged.
    AbsurdClock(Clock),
}
