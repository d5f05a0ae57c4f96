//! The end of a process: the first SIGINT or SIGTERM asks for a clean end, the second one ends it at once.

use tokio::sync::watch;

use crate::error::Error;

/// The code of a process that a second signal ended.
const INTERRUPTED: i32 = 130;

/// Whether the process was asked to end. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Takes over the signals. To be called once, before the program says that it is ready.
    ///
    /// # Errors
    /// [`Error::Failed`] where the system does not let it.
    pub fn install() -> Result<Self, Error> {
        let mut signals = Signals::new()?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            signals.next().await;
            tracing::info!("asked to end; a second signal ends at once");
            sender.send_replace(true);
            signals.next().await;
            std::process::exit(INTERRUPTED);
        });
        Ok(Self(receiver))
    }

    /// Waits until the process is asked to end. Cancel-safe.
    pub async fn wait(&mut self) {
        // An error means that the runtime ends, and with it the process.
        let _asked = self.0.wait_for(|&asked| asked).await.is_ok();
    }

    /// Whether the process was asked to end.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }
}

#[cfg(unix)]
struct Signals(tokio::signal::unix::Signal, tokio::signal::unix::Signal);

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Self, Error> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self(signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Result<Self, Error> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
