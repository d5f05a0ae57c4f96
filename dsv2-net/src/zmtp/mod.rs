//! ZMTP 3.1 without any I/O: bytes in, batches of messages out, and back.
//!
//! ```text
//!   socket ──read──► Decoder ──► Batch ─┬─► message(i)  one message, borrowed by reference count
//!                      ▲                └─► wire(a..b)  a whole run, forwarded without re-encoding
//!                   Greeting, READY
//!   frames ──► Message (encoded once) ──► any number of sockets
//! ```
//!
//! Sources: RFC 37 (ZMTP 3.1), RFC 23 (ZMTP 3.0), RFC 28 and 29 (socket patterns). Only the NULL mechanism is
//! spoken. Peers that greet with an older protocol are refused with a typed error.
//!
//! A received message keeps the form in which it travels: frame headers and payloads side by side in the read
//! buffer. Forwarding is therefore a matter of reference counts, and several neighbouring messages leave as one slice.

mod batch;
mod command;
mod decoder;
mod error;
mod frame;
mod greeting;
mod message;
#[cfg(any(feature = "client", feature = "cluster"))]
mod press;
mod socket_type;

pub use batch::{Batch, Item};
pub use command::{Command, METADATA_CAP, Metadata, PING_CONTEXT_CAP_BYTES};
pub use decoder::{Decoder, DecoderLimits, HARD_MESSAGE_CAP_BYTES};
pub use error::ZmtpError;
pub use frame::{FrameHeader, MAX_HEADER_BYTES};
pub use greeting::{GREETING_BYTES, Greeting};
pub use message::{Frames, Message, MessageBuilder};
#[cfg(any(feature = "client", feature = "cluster"))]
pub(crate) use press::Press;
pub use socket_type::SocketType;
