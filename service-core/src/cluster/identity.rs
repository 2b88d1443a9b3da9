//! [`Identity`]: what distinguishes this replica from others.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::SystemTime;

/// The identity of one registry in one process.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// No other replica has it, and no later start of this program.
    pub(super) owner: String,
    pub(super) host: String,
    pub(super) pid: u32,
    /// When it was made.
    pub(super) started: SystemTime,
}

impl Identity {
    /// On virtual time, a number decides the order of the replicas of one bed, which is otherwise random.
    pub(super) fn of_process(number: Option<u32>) -> Self {
        let mut owner = unique();
        if let Some(number) = number {
            owner.replace_range(..8, &format!("{number:08x}"));
        }
        Self { owner, host: host(), pid: std::process::id(), started: SystemTime::now() }
    }

    /// Its host and process, for people.
    pub(super) fn label(&self) -> String {
        format!("{} (pid {})", self.host, self.pid)
    }
}

/// Returns 128 random bits. The standard library seeds its hashers from the operating system.
pub(super) fn unique() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

fn host() -> String {
    let from_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host =
        from_kernel.or_else(|| ["HOSTNAME", "COMPUTERNAME"].into_iter().find_map(|name| std::env::var(name).ok()));
    let host = host.map(|host| host.trim().to_owned()).filter(|host| !host.is_empty());
    host.unwrap_or_else(|| "unknown host".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_replicas_of_one_process_differ() {
        let [a, b] = [(); 2].map(|()| Identity::of_process(None));
        assert_ne!(a.owner, b.owner);
        assert_eq!(a.owner.len(), 32);
        assert_eq!(a.label(), b.label());
        assert!(Identity::of_process(Some(9)).owner < Identity::of_process(Some(10)).owner);
    }
}
