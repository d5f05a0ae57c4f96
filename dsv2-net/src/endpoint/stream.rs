use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream, tcp};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream, unix};

use super::Endpoint;
use super::memory::{self, MemoryListener};

/// TCP keepalive: how a vanished machine is noticed when the peer answers no PINGs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle time before the first probe.
    pub idle: Duration,
    /// Time between probes (where the system lets one choose).
    pub interval: Duration,
}

impl Default for Keepalive {
    /// 15 s, 5 s.
    fn default() -> Self {
        Self { idle: Duration::from_secs(15), interval: Duration::from_secs(5) }
    }
}

/// Why binding failed. Nothing is bound then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another socket listens there.
    #[error("{endpoint} is taken: another process or socket listens there")]
    Taken {
        /// What was to be bound.
        endpoint: Endpoint,
    },
    /// The system forbids it (ports below 1024, directory permissions).
    #[error("no permission to bind {endpoint}")]
    Forbidden {
        /// What was to be bound.
        endpoint: Endpoint,
    },
    /// The host is not an address of this machine, or its name does not resolve.
    #[error("{endpoint} is not an address of this machine: {source}")]
    NotLocal {
        /// What was to be bound.
        endpoint: Endpoint,
        /// The system's answer.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot bind {endpoint}: {source}")]
    Io {
        /// What was to be bound.
        endpoint: Endpoint,
        /// The system's answer.
        source: io::Error,
    },
}

impl BindError {
    fn new(endpoint: &Endpoint, source: io::Error) -> Self {
        let endpoint = endpoint.clone();
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::Taken { endpoint },
            io::ErrorKind::PermissionDenied => Self::Forbidden { endpoint },
            io::ErrorKind::AddrNotAvailable => Self::NotLocal { endpoint, source },
            _ => Self::Io { endpoint, source },
        }
    }
}

/// A bound endpoint. Closed, and its socket file or name released, on drop.
#[derive(Debug)]
pub struct BoundListener {
    kind: Kind,
    endpoint: Endpoint,
    keepalive: Keepalive,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix {
        listener: UnixListener,
        _file: SocketFile,
    },
    Memory(MemoryListener),
}

impl BoundListener {
    /// Binds and listens.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind(endpoint: &Endpoint, keepalive: Keepalive) -> Result<Self, BindError> {
        let kind = Self::bind_kind(endpoint).await.map_err(|e| BindError::new(endpoint, e))?;
        let endpoint = match (&kind, endpoint) {
            (Kind::Tcp(listener), Endpoint::Tcp { host, .. }) => {
                let port = listener.local_addr().map_err(|e| BindError::new(endpoint, e))?.port();
                Endpoint::Tcp { host: host.clone(), port }
            }
            _ => endpoint.clone(),
        };
        Ok(Self { kind, endpoint, keepalive })
    }

    async fn bind_kind(endpoint: &Endpoint) -> io::Result<Kind> {
        match endpoint {
            Endpoint::Tcp { host, port } => {
                let host = if host == "*" { "0.0.0.0" } else { host };
                TcpListener::bind((host, *port)).await.map(Kind::Tcp)
            }
            #[cfg(unix)]
            Endpoint::Ipc { path } => bind_unix(path).await,
            #[cfg(not(unix))]
            Endpoint::Ipc { .. } => Err(io::ErrorKind::Unsupported.into()),
            Endpoint::Memory { name } => MemoryListener::bind(name).map(Kind::Memory),
        }
    }

    /// What is bound, with the actual port.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The next connection. Cancel-safe.
    pub(crate) async fn accept(&mut self) -> io::Result<(Stream, String)> {
        match &mut self.kind {
            Kind::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                tune(&stream, self.keepalive)?;
                Ok((Stream::Tcp(stream), address.to_string()))
            }
            #[cfg(unix)]
            Kind::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), self.endpoint.to_string()))
            }
            Kind::Memory(listener) => Ok((Stream::Memory(listener.accept().await?), self.endpoint.to_string())),
        }
    }
}

/// Removes the socket file when the listener goes.
#[cfg(unix)]
#[derive(Debug)]
struct SocketFile(String);

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        // Best effort: a file that is gone already is what is wanted.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(unix)]
async fn bind_unix(path: &str) -> io::Result<Kind> {
    let bound = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            // A file left by a process that died is removed; one that answers is in use.
            match UnixStream::connect(path).await {
                Err(dead) if dead.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)?;
                    UnixListener::bind(path)
                }
                _ => Err(e),
            }
        }
        other => other,
    };
    bound.map(|listener| Kind::Unix { listener, _file: SocketFile(path.to_owned()) })
}

/// Opens a connection. No deadline of its own; cancel-safe.
///
/// # Errors
/// The system's, `ConnectionRefused` for an unknown `memory://` name.
pub async fn connect(endpoint: &Endpoint, keepalive: Keepalive) -> io::Result<Stream> {
    match endpoint {
        Endpoint::Tcp { host, port } => {
            let host = if host == "*" { "127.0.0.1" } else { host };
            let stream = TcpStream::connect((host, *port)).await?;
            tune(&stream, keepalive)?;
            Ok(Stream::Tcp(stream))
        }
        #[cfg(unix)]
        Endpoint::Ipc { path } => UnixStream::connect(path).await.map(Stream::Unix),
        #[cfg(not(unix))]
        Endpoint::Ipc { .. } => Err(io::ErrorKind::Unsupported.into()),
        Endpoint::Memory { name } => memory::connect(name).map(Stream::Memory),
    }
}

fn tune(stream: &TcpStream, keepalive: Keepalive) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.interval);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// A connection of any transport.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix domain socket.
    #[cfg(unix)]
    Unix(UnixStream),
    /// In-process.
    Memory(DuplexStream),
}

impl Stream {
    /// Halves that two tasks may own.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(Arc::new(write)))
            }
            #[cfg(unix)]
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(Arc::new(write)))
            }
            Self::Memory(stream) => {
                let (read, write) = tokio::io::split(stream);
                (ReadHalf::Memory(read), WriteHalf::Memory(write))
            }
        }
    }
}

/// The reading half of a [`Stream`].
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadHalf {
    /// TCP.
    Tcp(tcp::OwnedReadHalf),
    /// A Unix domain socket.
    #[cfg(unix)]
    Unix(unix::OwnedReadHalf),
    /// In-process.
    Memory(tokio::io::ReadHalf<DuplexStream>),
}

/// The writing half of a [`Stream`]; shuts the direction down on drop.
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteHalf {
    /// TCP.
    Tcp(Arc<tcp::OwnedWriteHalf>),
    /// A Unix domain socket.
    #[cfg(unix)]
    Unix(Arc<unix::OwnedWriteHalf>),
    /// In-process.
    Memory(tokio::io::WriteHalf<DuplexStream>),
}

/// A second handle to a [`WriteHalf`], for writes that do not wait. Who holds both sees to it that they take turns.
#[derive(Debug, Clone)]
pub(crate) enum DirectWrite {
    Tcp(Arc<tcp::OwnedWriteHalf>),
    #[cfg(unix)]
    Unix(Arc<unix::OwnedWriteHalf>),
}

impl WriteHalf {
    /// `None` where a write is no system call.
    pub(crate) fn direct(&self) -> Option<DirectWrite> {
        match self {
            Self::Tcp(half) => Some(DirectWrite::Tcp(Arc::clone(half))),
            #[cfg(unix)]
            Self::Unix(half) => Some(DirectWrite::Unix(Arc::clone(half))),
            Self::Memory(_) => None,
        }
    }
}

impl DirectWrite {
    /// Writes what the system takes now; `WouldBlock` if that is nothing.
    pub(crate) fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write_vectored(bufs),
            #[cfg(unix)]
            Self::Unix(half) => half.try_write_vectored(bufs),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            #[cfg(unix)]
            Self::Unix(half) => Pin::new(half).poll_read(cx, buf),
            Self::Memory(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let written = match self.as_mut().get_mut() {
                Self::Tcp(half) => {
                    let stream: &TcpStream = (**half).as_ref();
                    ready!(stream.poll_write_ready(cx))?;
                    half.try_write_vectored(bufs)
                }
                #[cfg(unix)]
                Self::Unix(half) => {
                    let stream: &UnixStream = (**half).as_ref();
                    ready!(stream.poll_write_ready(cx))?;
                    half.try_write_vectored(bufs)
                }
                Self::Memory(half) => return Pin::new(half).poll_write_vectored(cx, bufs),
            };
            if !written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Ready(written);
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // none of the three buffers anything of its own
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => {
                let stream: &TcpStream = (**half).as_ref();
                Poll::Ready(socket2::SockRef::from(stream).shutdown(Shutdown::Write))
            }
            #[cfg(unix)]
            Self::Unix(half) => {
                let stream: &UnixStream = (**half).as_ref();
                Poll::Ready(socket2::SockRef::from(stream).shutdown(Shutdown::Write))
            }
            Self::Memory(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
