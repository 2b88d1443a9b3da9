//! [`Server`]: serves HTTP on a thread of its own, so that it answers even if every thread of the program's runtime is blocked.
//!
//! The tricky part is clients that are slow on purpose. The header of a request has to arrive within 10 s (`access.rs`
//! limits the body), a client that reads nothing for 30 s is cut off, and there are at most 1,000 connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

use crate::admin::events::EventReaders;
use crate::admin::runtime_thread::{RuntimeThread, Stop, stopping};
use crate::log::warn;
use crate::race::first;

/// How long the header of a request may take, and how long an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may read nothing of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_CONNECTIONS: usize = 1_000;
const MAX_HEADER_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
/// How long requests in flight may take when the server stops.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// How long the thread may take to end: a handler may call the application's code, which may block it.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// The wait after a connection could not be accepted, because the process has no file descriptor left, for example.
const ACCEPT_RETRY: Duration = Duration::from_millis(500);

/// A server that runs.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    thread: RuntimeThread,
    events: Arc<EventReaders>,
}

impl Server {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no resources for it.
    pub(crate) fn start(listener: TcpListener, app: Router, events: Arc<EventReaders>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let thread = RuntimeThread::start("service-admin", |stop| serve(listener, app, stop))?;
        Ok(Self { address, thread, events })
    }

    /// Lets the requests in flight end, within a second, and ends the thread.
    pub(crate) async fn stop(self) {
        self.events.close();
        self.thread.stop(STOP_TIMEOUT).await;
    }
}

async fn serve(listener: TcpListener, app: Router, mut stop: Stop) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            return warn!(
                "the admin interface cannot be served, it stays unreachable until the services are started again: {error}"
            );
        }
    };
    let graceful = GracefulShutdown::new();
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accept_all = async {
        // Since the last connection.
        let mut failures: u64 = 0;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    failures += 1;
                    // Not a line for each: the process may have no free file descriptor for hours.
                    if failures.is_power_of_two() {
                        warn!("the admin interface cannot accept a connection, retrying in 0.5 s: {error}");
                    }
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            failures = 0;
            // Without a place, the connection is closed at once.
            let Ok(place) = free.clone().try_acquire_owned() else { continue };
            let connection = graceful.watch(connection(stream, app.clone()));
            tokio::spawn(async move {
                // A client that does not speak HTTP, or that is cut off, is no error of the program.
                let _ = connection.await;
                drop(place);
            });
        }
    };
    first(accept_all, stopping(&mut stop)).await;
    drop(listener);
    // After that, the end of the runtime drops the connections.
    let _ = tokio::time::timeout(STOP_GRACE, graceful.shutdown()).await;
}

type Stream = TokioIo<std::pin::Pin<Box<TimeoutStream<TcpStream>>>>;

fn connection(stream: TcpStream, app: Router) -> http1::Connection<Stream, TowerToHyperService<Router>> {
    // Without this, small answers may be delayed by 40 ms.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(app))
}
