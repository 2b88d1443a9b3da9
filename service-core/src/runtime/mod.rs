//! One service at run time: the loop, calling user code, the failure policy, status, requests, events, clock.
//!
//! Each file uses only the files before it in this list: clock, events, labels, lease, metrics, rate_limit,
//! run_history, turn; shared; blocking; status, requests, runtime_state; service_inner; context; lifecycle,
//! macro_support, instance_fn; factory; fit; registration; resource; services; probe; operator_store; leases;
//! extension; invoker, policy, failure_log; supervisor.

pub(crate) mod blocking;
pub(crate) mod cancelled_runs;
pub(crate) mod clock;
pub(crate) mod context;
pub(crate) mod dependencies;
pub(crate) mod events;
pub(crate) mod extension;
pub(crate) mod factory;
pub(crate) mod failure_log;
pub(crate) mod fit;
pub(crate) mod instance_fn;
pub(crate) mod invoker;
pub(crate) mod labels;
pub(crate) mod lease;
pub(crate) mod leases;
pub(crate) mod lifecycle;
pub(crate) mod macro_support;
pub(crate) mod metrics;
pub(crate) mod operator_store;
pub(crate) mod policy;
pub(crate) mod probe;
pub(crate) mod rate_limit;
pub(crate) mod registration;
pub(crate) mod requests;
pub(crate) mod resource;
pub(crate) mod run_history;
pub(crate) mod runtime_state;
pub(crate) mod service_inner;
pub(crate) mod services;
pub(crate) mod shared;
pub(crate) mod single_task;
pub(crate) mod status;
pub(crate) mod supervisor;
pub(crate) mod turn;

#[cfg(test)]
mod fixtures {
    use std::sync::Arc;

    use crate::config::{Inputs, Resolved, ServiceDescriptor, Sources, Target};

    pub(super) static DESCRIPTOR: ServiceDescriptor = ServiceDescriptor {
        id: "job",
        type_name: || "Job",
        module_path: module_path!(),
        file: file!(),
        line: line!(),
        attributes: &[],
        settings: None,
        long_running: false,
    };

    /// The configuration of a service for which nothing is set.
    pub(super) fn defaults() -> Arc<Resolved> {
        let sources = Sources::load(Inputs::default());
        sources.resolve(Target::new("job", &DESCRIPTOR, None), &[]).expect("nothing is configured")
    }
}
