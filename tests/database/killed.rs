//! Processes that the suite starts and kills (`worker.rs`).

use std::process::{Child, Command, Stdio};

/// A process that works until it is killed.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn start(url: &str, mode: &str) -> Self {
        Self(command(url, mode).spawn().unwrap())
    }

    /// The same without its warnings.
    pub(crate) fn quiet(url: &str, mode: &str) -> Self {
        Self(command(url, mode).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended by itself.
    pub(crate) fn is_dead(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Kills it with SIGKILL. Returns its output: errors that reached the user.
    pub(crate) fn kill(mut self) -> String {
        self.0.kill().unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(self.0.stdout.as_mut().unwrap(), &mut said).unwrap();
        self.0.wait().unwrap();
        said
    }
}

fn command(url: &str, mode: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_database-worker"));
    command.args([url, mode]).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
