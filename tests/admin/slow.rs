//! Clients that are slow on purpose.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::site::Site;

/// Sends the beginning, then a byte every second. Returns the status of the answer, if there was one, and how long the
/// server took to close the connection.
async fn drip(site: &Site, beginning: &str) -> (u16, Duration) {
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    stream.write_all(beginning.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let (began, mut answer) = (Instant::now(), Vec::new());
    let _ = tokio::time::timeout(Duration::from_secs(60), read.read_to_end(&mut answer)).await.expect("never closed");
    dripping.abort();
    let status = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, began.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_send_slowly_are_cut_off_and_hold_up_nothing() {
    let site = Site::start().await;
    let header = format!("GET /services HTTP/1.1\r\nHost: {}\r\nX-Slow: ", site.address);
    let body = format!("POST /services/steady/wake HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000\r\n\r\n", site.address);
    let attack = async {
        // 1,000 connections are the most that the server has.
        let idle = (0..300).map(|_| TcpStream::connect(site.address));
        let mut connections = Vec::new();
        for connecting in idle {
            let mut connection = connecting.await.unwrap();
            connection.write_all(header.as_bytes()).await.unwrap();
            connections.push(connection);
        }
        connections
    };
    let held = attack.await;
    let began = Instant::now();
    assert_eq!(site.get("/health/live").await.status, 200);
    // They are cut off after 10 s.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let ((header_status, header_took), (body_status, body_took)) =
        tokio::join!(drip(&site, &header), drip(&site, &body));
    assert!(matches!(header_status, 0 | 408), "{header_status}");
    assert!(header_took < Duration::from_secs(15), "{header_took:?}");
    assert_eq!(body_status, 408);
    assert!(body_took < Duration::from_secs(25), "{body_took:?}");
    let mut cut = 0;
    for mut connection in held {
        let read = tokio::time::timeout(Duration::from_secs(15), connection.read_to_end(&mut Vec::new())).await;
        cut += usize::from(read.is_ok());
    }
    assert_eq!(cut, 300);
}
