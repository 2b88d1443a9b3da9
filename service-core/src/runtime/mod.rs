//! One service at run time: the loop, calling user code, the failure policy, status, requests, events, clock.

pub(crate) mod clock;
pub(crate) mod context;
pub(crate) mod control;
pub(crate) mod driver;
pub(crate) mod entry;
pub(crate) mod events;
pub(crate) mod invoker;
pub(crate) mod lifecycle;
pub(crate) mod macro_support;
pub(crate) mod metrics;
pub(crate) mod policy;
pub(crate) mod rate_limit;
pub(crate) mod shared;
pub(crate) mod supervisor;
