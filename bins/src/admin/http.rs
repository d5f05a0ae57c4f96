//! Three paths by HTTP/1.1, for whoever may reach the port: every connection, request and wait has a bound.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::publish;
use super::watched::{State, Watched};
use crate::shutdown::Shutdown;

/// Connections at a time. Others wait in the system's queue.
const CONNECTIONS_CAP: usize = 16;
/// How long a connection may take from its first byte to its last. Each carries one request.
const CONNECTION: Duration = Duration::from_secs(10);
/// How long the request's head may take.
const HEAD: Duration = Duration::from_secs(3);
/// The most bytes of the request's head.
const HEAD_CAP_BYTES: usize = 8 << 10;
/// How long to wait after an accept that failed: for descriptors, for example.
const PAUSE: Duration = Duration::from_millis(100);

/// The text format that Prometheus and those like it read.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// What is told.
pub(super) struct Teller {
    /// `None` while they start.
    pub(super) parts: watch::Receiver<Option<Vec<Watched>>>,
    pub(super) shutdown: Shutdown,
    pub(super) recorder: PrometheusHandle,
}

/// Accepts until the process ends.
pub(super) async fn serve(listener: TcpListener, teller: Teller) {
    let teller = Arc::new(teller);
    let room = Arc::new(Semaphore::new(CONNECTIONS_CAP));
    loop {
        // It is never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let teller = Arc::clone(&teller);
                tokio::spawn(async move {
                    let late = timeout(CONNECTION, converse(stream, teller)).await.is_err();
                    if late {
                        tracing::debug!("a connection to the admin port took too long");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "the admin port accepts nothing for a moment");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, teller: Arc<Teller>) {
    let service = service_fn(move |request| {
        let teller = Arc::clone(&teller);
        async move { Ok::<_, Infallible>(teller.answer(&request).await) }
    });
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_CAP_BYTES).keep_alive(false);
    if let Err(error) = protocol.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the admin port failed");
    }
}

impl Teller {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return response(StatusCode::METHOD_NOT_ALLOWED, TEXT_TYPE, "only GET and HEAD\n".to_owned());
        }
        match request.uri().path() {
            "/metrics" => response(StatusCode::OK, METRICS_TYPE, self.metrics().await),
            "/healthz" => verdict(&self.look().await.iter().filter_map(State::not_alive).collect::<Vec<_>>()),
            "/readyz" => {
                let asked = self.shutdown.is_asked().then(|| "it was asked to end".to_owned());
                let starts = self.parts.borrow().is_none().then(|| "it is starting".to_owned());
                let parts = self.look().await;
                let reasons = asked.into_iter().chain(starts).chain(parts.iter().flat_map(State::not_ready));
                verdict(&reasons.collect::<Vec<_>>())
            }
            _ => response(StatusCode::NOT_FOUND, TEXT_TYPE, "there are /metrics, /healthz and /readyz\n".to_owned()),
        }
    }

    /// Asks all parts, at the same time.
    async fn look(&self) -> Vec<State> {
        let parts = self.parts.borrow().clone().unwrap_or_default();
        let looks: Vec<_> = parts.into_iter().map(|part| tokio::spawn(part.look())).collect();
        let mut states = Vec::new();
        for look in looks {
            // Fails only where the runtime ends.
            states.extend(look.await.ok());
        }
        states
    }

    async fn metrics(&self) -> String {
        publish::text(&self.look().await) + &self.recorder.render()
    }
}

fn verdict(reasons: &[String]) -> Response<Full<Bytes>> {
    match reasons.is_empty() {
        true => response(StatusCode::OK, TEXT_TYPE, "ok\n".to_owned()),
        false => response(StatusCode::SERVICE_UNAVAILABLE, TEXT_TYPE, reasons.join("\n") + "\n"),
    }
}

fn response(status: StatusCode, content: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}
