//! The back office of a weather station: it imports files of observations, computes figures and sends mails.
//!
//! Start reading at [`importer`], then [`data_processor`] and [`email_sender`]: each is a service. Their work is in
//! plain modules (`import`, `figures`, `mail`), which know nothing about services.

#![allow(unreachable_pub, reason = "a program has no outside: `pub` means for its other modules")]

mod args;
mod bundled;
mod cleanup_service;
mod data_processor;
mod database;
mod email_sender;
mod figures;
mod import;
mod importer;
mod inbox;
mod line;
mod logging;
mod mail;
mod once;
mod tables;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use service_core::{Literal, RegistryBuilder, prelude::*};
use tracing::{error, info};

use args::{Args, Command};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.command.unwrap_or(Command::Run) {
        Command::Services(services) => return services.program(Args::command()).execute(builder()).await,
        Command::List => {
            list();
            return ExitCode::SUCCESS;
        }
        Command::Run => {
            logging::start(args.json);
            run().await
        }
        Command::Once => {
            logging::start(args.json);
            once().await
        }
    };
    if let Err(why) = done {
        error!("{why:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn list() {
    for service in ServiceRegistry::discovered() {
        let options: Vec<_> =
            service.attributes().iter().map(|(key, value)| format!("{key} = {}", shown(value))).collect();
        println!("{:<16} {}  ({}:{})", service.id(), options.join(", "), service.file(), service.line());
    }
}

/// An attribute's value as it was written.
fn shown(value: &Literal) -> String {
    match value {
        Literal::Int(value) => value.to_string(),
        Literal::Float(value) => value.to_string(),
        Literal::Bool(value) => value.to_string(),
        Literal::Str(value) => format!("{value:?}"),
        Literal::List(ids) => format!("{ids:?}"),
        other => format!("{other:?}"),
    }
}

/// The registry of the station, before it starts.
async fn builder() -> Result<RegistryBuilder> {
    Ok(ServiceRegistry::builder().database(database::open().await?))
}

async fn run() -> Result<()> {
    let services = builder().await?.admin("127.0.0.1:9876").start_all().await?;
    if let Some(address) = services.admin_address() {
        info!("the station is running; its dashboard is at http://{address}/, Ctrl-C stops it");
    }
    services.until_shutdown().await
}

async fn once() -> Result<()> {
    let db = database::open().await?;
    let services = ServiceRegistry::builder().database(db.clone()).start_all().await?;
    let processed = tokio::select! {
        processed = once::process_all(&services, &db) => processed,
        shutdown = services.clone().until_shutdown() => return shutdown,
    };
    services.shutdown().await.and(processed)
}
