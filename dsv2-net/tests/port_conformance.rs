//! Every port implementation over every transport it has, through the one suite.
#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

use std::sync::atomic::{AtomicU64, Ordering};

use dsv2_net::Endpoint;
use dsv2_net::port::{Port, PortLimits, SocketKind, Transport, conformance, connect};

fn native(kind: SocketKind, endpoint: Endpoint, limits: PortLimits) -> Box<dyn Port> {
    connect(Transport::Native, kind, endpoint, limits).unwrap()
}

#[cfg(feature = "zeromq")]
fn zeromq(kind: SocketKind, endpoint: Endpoint, limits: PortLimits) -> Box<dyn Port> {
    connect(Transport::ZeroMq, kind, endpoint, limits).unwrap()
}

fn tcp() -> Endpoint {
    Endpoint::loopback()
}

fn memory() -> Endpoint {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    Endpoint::memory(format!("conformance-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// One test per check, so that a failure names it.
macro_rules! suite {
    ($open:path, $endpoint:path: $($check:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                dsv2_net::port::conformance::$check(&$open, &$endpoint()).await;
            }
        )*
    };
}

mod native_tcp {
    suite!(super::native, super::tcp: echoes_in_order reconnects is_bounded counts_what_is_lost refuses_what_is_too_large drains
        subscribes_and_resubscribes publishes_what_is_wanted);
}

mod native_memory {
    suite!(super::native, super::memory: echoes_in_order reconnects is_bounded counts_what_is_lost refuses_what_is_too_large drains
        subscribes_and_resubscribes publishes_what_is_wanted);
}

#[cfg(feature = "zeromq")]
mod zeromq_tcp {
    suite!(super::zeromq, super::tcp: echoes_in_order reconnects is_bounded counts_what_is_lost refuses_what_is_too_large drains
        subscribes_and_resubscribes);
}

#[cfg(unix)]
fn socket_file() -> (tempfile::TempDir, Endpoint) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("port.sock").to_str().unwrap().to_owned();
    (directory, Endpoint::Ipc { path })
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_ipc() {
    let (_directory, endpoint) = socket_file();
    conformance::echoes_in_order(&native, &endpoint).await;
    conformance::reconnects(&native, &endpoint).await;
    conformance::is_bounded(&native, &endpoint).await;
    conformance::subscribes_and_resubscribes(&native, &endpoint).await;
}

#[cfg(all(unix, feature = "zeromq"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zeromq_ipc() {
    let (_directory, endpoint) = socket_file();
    conformance::echoes_in_order(&zeromq, &endpoint).await;
    conformance::reconnects(&zeromq, &endpoint).await;
}

#[tokio::test]
async fn one_thread_is_enough() {
    conformance::echoes_in_order(&native, &tcp()).await;
    conformance::is_bounded(&native, &memory()).await;
    conformance::publishes_what_is_wanted(&native, &memory()).await;
}

#[cfg(feature = "zeromq")]
#[tokio::test]
async fn what_the_crate_cannot_do_is_refused() {
    let limits = PortLimits::default;
    assert!(connect(Transport::ZeroMq, SocketKind::Pub, tcp(), limits()).is_err());
    assert!(connect(Transport::ZeroMq, SocketKind::Dealer, memory(), limits()).is_err());
}
