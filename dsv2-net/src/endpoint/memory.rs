//! The registry of `memory://` names.

use std::collections::HashMap;
use std::io;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// Connections that wait to be accepted; further ones are refused.
const BACKLOG: usize = 128;

/// Bytes in flight in each direction of a connection, as a socket buffer would hold.
const PIPE_BYTES: usize = 256 << 10;

/// The live listeners of this process. A `memory://` name is an address, so its scope is the process, as for a port.
static LISTENERS: LazyLock<Mutex<HashMap<String, mpsc::Sender<DuplexStream>>>> = LazyLock::new(Mutex::default);

fn listeners() -> MutexGuard<'static, HashMap<String, mpsc::Sender<DuplexStream>>> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bound name, released on drop.
#[derive(Debug)]
pub(super) struct MemoryListener {
    name: String,
    incoming: mpsc::Receiver<DuplexStream>,
}

impl MemoryListener {
    /// `AddrInUse` if the name has a listener.
    pub(super) fn bind(name: &str) -> io::Result<Self> {
        let mut listeners = listeners();
        if listeners.contains_key(name) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, incoming) = mpsc::channel(BACKLOG);
        listeners.insert(name.to_owned(), sender);
        Ok(Self { name: name.to_owned(), incoming })
    }

    pub(super) async fn accept(&mut self) -> io::Result<DuplexStream> {
        self.incoming.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        listeners().remove(&self.name);
    }
}

/// `ConnectionRefused` if nobody listens or the backlog is full.
pub(super) fn connect(name: &str) -> io::Result<DuplexStream> {
    let sender = listeners().get(name).cloned().ok_or(io::ErrorKind::ConnectionRefused)?;
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    sender.try_send(theirs).map_err(|_| io::ErrorKind::ConnectionRefused)?;
    Ok(ours)
}
