//! A small SMTP server on a real socket. It records the mails, and can refuse them.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// How the server answers.
#[derive(Clone, Copy, PartialEq)]
pub enum Manner {
    Friendly,
    /// Accepts the mail, and closes the connection before the answer.
    HangsUpAfterData,
    /// Refuses every password.
    RefusesPasswords,
}

/// A mail that the server accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    pub recipient: String,
    pub message_id: String,
    pub content: String,
}

/// The server, on its own port. Its thread ends with the process of the test.
pub struct SmtpServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    manner: Mutex<Manner>,
    taken: Mutex<Vec<Taken>>,
}

impl SmtpServer {
    pub fn start(manner: Manner) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").unwrap(), manner)
    }

    pub fn listen(listener: TcpListener, manner: Manner) -> Self {
        let shared = Arc::new(Shared { manner: Mutex::new(manner), taken: Mutex::default() });
        let server = Self { address: listener.local_addr().unwrap(), shared: shared.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                // A client may close the connection early; the test ignores that.
                std::thread::spawn(move || drop(shared.talk(stream)));
            }
        });
        server
    }

    pub fn set(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.shared.taken.lock().unwrap().clone()
    }
}

impl Shared {
    fn talk(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let mut recipient = String::new();
        stream.write_all(b"220 test ESMTP\r\n")?;
        while let Some(line) = lines.next().transpose()? {
            let manner = *self.manner.lock().unwrap();
            let upper = line.to_ascii_uppercase();
            let answer = match upper.split([' ', ':']).next().unwrap_or_default() {
                "EHLO" => "250-test\r\n250 AUTH PLAIN",
                "AUTH" if manner == Manner::Friendly => "235 welcome",
                "AUTH" => "535 5.7.8 the password is wrong",
                "RCPT" => {
                    recipient = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                    if recipient.starts_with("refused") {
                        "550 5.1.1 no such user here"
                    } else if recipient.starts_with("later") {
                        "450 4.2.1 the mailbox is busy"
                    } else {
                        "250 ok"
                    }
                }
                "DATA" => {
                    stream.write_all(b"354 go on\r\n")?;
                    let mut content = String::new();
                    for line in lines.by_ref() {
                        let line = line?;
                        if line == "." {
                            break;
                        }
                        content += line.strip_prefix('.').unwrap_or(&line);
                        content.push('\n');
                    }
                    let id = content.lines().find_map(|line| line.strip_prefix("Message-ID: ")).unwrap_or_default();
                    let taken = Taken { recipient: recipient.clone(), message_id: id.to_owned(), content };
                    self.taken.lock().unwrap().push(taken);
                    if manner == Manner::HangsUpAfterData {
                        return Ok(());
                    }
                    "250 taken"
                }
                "QUIT" => "221 bye",
                "MAIL" | "NOOP" | "RSET" => "250 ok",
                _ => "500 what?",
            };
            stream.write_all(format!("{answer}\r\n").as_bytes())?;
        }
        Ok(())
    }
}
