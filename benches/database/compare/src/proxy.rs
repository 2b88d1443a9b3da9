//! A network between the contenders and the server: a proxy that passes all bytes on, some time later.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Listens on a free port, which it returns, until the process ends. A question and its answer take `round_trip`
/// longer.
pub fn start(server: PathBuf, round_trip: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(server)) = (client, UnixStream::connect(&server)) else { continue };
            connect(client, server, round_trip / 2).expect("two sockets");
        }
    });
    port
}

fn connect(client: TcpStream, server: UnixStream, delay: Duration) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let (from_client, from_server) = (client.try_clone()?, server.try_clone()?);
    pass(from_client, server, delay, |server| server.shutdown(Shutdown::Both));
    pass(from_server, client, delay, |client| client.shutdown(Shutdown::Both));
    Ok(())
}

/// Passes bytes on until one side ends, and then ends the other.
fn pass<From, To>(mut from: From, mut to: To, delay: Duration, end: fn(&To) -> std::io::Result<()>)
where
    From: Read + Send + 'static,
    To: Write + Send + 'static,
{
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send((Instant::now() + delay, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        // The other side may have ended before.
        let _ = end(&to);
    });
}
