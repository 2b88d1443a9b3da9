//! The page of all replicas: which of them live, which holds the lease of which service, and what is wrong.

use std::time::SystemTime;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};

use crate::admin::app::AppState;
use crate::admin::pages::layout::{Live, Page, Root};
use crate::admin::pages::parts::{status, time};
use crate::admin::replicas::{ClusterService, LeaseHolder, Liveness, Replica, Replicas};
use crate::humanize::{self, whole};
use crate::observe::health::HealthStatus;
use crate::service::state::ServiceState;

/// How many replicas that are gone are listed: one that ends again and again leaves many.
const MOST_GONE: usize = 3;
/// How many services of a replica are named.
const MOST_NAMED: usize = 6;
/// How many services that are not healthy are explained for each replica.
const MOST_EXPLAINED: usize = 2;

/// `GET /ui/replicas`
pub(crate) async fn replicas(State(app): AppState, request: Request) -> Response {
    let root = Root::of(&request);
    let now = app.now();
    let content = match app.leases() {
        Some(leases) => overview(&Replicas::read(&app, &leases, None).await, now, &root),
        None => html! {
            p { "No service of this program has " code { "scope = \"cluster\"" } ", so it does not know of other replicas." }
        },
    };
    let body = html! {
        h1 { "Replicas" }
        section #all-replicas data-part="all-replicas" { (content) }
    };
    Page { app: &app, root: &root, title: "Replicas", current: "replicas", live: Live::Periodic, body }
        .answer(StatusCode::OK)
}

fn overview(view: &Replicas, now: SystemTime, root: &Root) -> Markup {
    let count = |wanted: Liveness| view.replicas.iter().filter(|(liveness, _)| *liveness == wanted).count();
    let gone = count(Liveness::Gone);
    let of_status = |status: HealthStatus| view.services.iter().filter(|service| service.status == status).count();
    html! {
        @if let Some(problem) = &view.problem { (without_database(&view.this, problem)) }
        p.summary {
            @for liveness in [Liveness::Silent, Liveness::Alive, Liveness::Gone] {
                @let count = count(liveness);
                @if count > 0 { span.count { b { (count) } " " (sign(liveness)) } " " }
            }
            a href="#services" { "services:" } " "
            @for of in HealthStatus::ALL.into_iter().rev() {
                span.count { b { (of_status(of)) } " " (status(of)) } " "
            }
        }
        @if !view.replicas.is_empty() {
            ul.rows aria-label="Replicas" {
                @for (liveness, replica) in view.replicas.iter().take(view.replicas.len() - gone.saturating_sub(MOST_GONE)) {
                    (replica_row(view, *liveness, replica, now))
                }
            }
            @if gone > MOST_GONE { p.small { (gone - MOST_GONE) " more are gone. A replica is listed for an hour." } }
        }
        h2 #services { "Services that one replica at a time runs" }
        ul.rows aria-label="Services, the worst first" { @for service in &view.services { (service_row(view, service, now, root)) } }
    }
}

/// Says that only what this replica knows is shown.
pub(super) fn without_database(this: &str, problem: &str) -> Markup {
    html! {
        p.message { "The database does not answer, so only what this replica, " (this) ", knows itself is shown. " (problem) }
    }
}

/// Whether a replica lives: a sign, so that no colour is needed, and the word.
pub(super) fn sign(liveness: Liveness) -> Markup {
    let (class, sign, word) = match liveness {
        Liveness::Alive => ("healthy", "●", "alive"),
        Liveness::Silent => ("degraded", "▲", "silent"),
        Liveness::Gone => ("unhealthy", "✖", "gone"),
    };
    html! { span class={ "status " (class) } { span aria-hidden="true" { (sign) } " " (word) } }
}

/// The host and process of a replica, and whether it is the one that writes the page.
pub(super) fn name(label: &str, is_this: bool) -> Markup {
    html! { (label) @if is_this { " " span.here { "this replica" } } }
}

/// When the lease was renewed.
pub(super) fn renewed(holder: &LeaseHolder, now: SystemTime) -> Markup {
    time(holder.renewed.and_then(|renewed| now.checked_sub(whole(renewed))), now)
}

fn replica_row(view: &Replicas, liveness: Liveness, replica: &Replica, now: SystemTime) -> Markup {
    let is_held = |service: &&ClusterService| {
        service.holder.as_ref().is_some_and(|holder| holder.replica.as_ref() == Some(&replica.id))
    };
    let held: Vec<&str> = view.services.iter().filter(is_held).map(|service| &*service.id).collect();
    let stands_by = |service: &&ClusterService| {
        replica.service(&service.id).is_some_and(|there| there.state == ServiceState::Standby)
    };
    let standby = view.services.iter().filter(stands_by).count();
    let mut ill: Vec<_> = replica.services.iter().filter(|service| service.status != HealthStatus::Healthy).collect();
    ill.sort_by_key(|service| std::cmp::Reverse(service.status));
    // A replica that is gone is not ill: what its row says is over.
    if liveness != Liveness::Alive {
        ill.clear();
    }
    let class = match liveness {
        Liveness::Alive => "",
        Liveness::Silent => "degraded",
        Liveness::Gone => "unhealthy",
    };
    html! {
        li class={ "row two " (class) } {
            div.what {
                span.id { (replica.label()) } " " (sign(liveness)) @if replica.is_this { " " span.here { "this replica" } }
                @if liveness == Liveness::Silent {
                    p.reason { "No heartbeat for " (humanize::long(whole(replica.seen()))) ". Its leases are still valid, so no other replica can take its services yet." }
                }
                @for service in ill.iter().take(MOST_EXPLAINED) {
                    p.reason {
                        (status(service.status)) " " b { (service.service_id) } ": " (service.reason.as_deref().unwrap_or(service.state.as_str()))
                    }
                }
                @if ill.len() > MOST_EXPLAINED { p.reason { "and " (ill.len() - MOST_EXPLAINED) " more that are not healthy" } }
            }
            dl.times {
                div { dt { "last heartbeat" } dd { (time(now.checked_sub(whole(replica.seen())), now)) } }
                div { dt { "started" } dd { (time(Some(replica.started_at), now)) } }
                div {
                    dt { "runs" }
                    dd {
                        @if held.is_empty() { "none" } @else { (held.len()) ": " (held[..held.len().min(MOST_NAMED)].join(", ")) }
                        @if held.len() > MOST_NAMED { ", …" }
                    }
                }
                div { dt { "stands by for" } dd { @if liveness == Liveness::Alive { (standby) } @else { "–" } } }
            }
        }
    }
}

fn service_row(view: &Replicas, service: &ClusterService, now: SystemTime, root: &Root) -> Markup {
    let mut others: Vec<(ServiceState, usize)> = Vec::new();
    let holder = service.holder.as_ref().and_then(|holder| holder.replica.as_ref());
    let is_other =
        |(liveness, replica): &&(Liveness, Replica)| *liveness == Liveness::Alive && Some(&replica.id) != holder;
    for (_, replica) in view.replicas.iter().filter(is_other) {
        let Some(state) = replica.service(&service.id).map(|there| there.state) else { continue };
        match others.iter_mut().find(|(known, _)| *known == state) {
            Some((_, count)) => *count += 1,
            None => others.push((state, 1)),
        }
    }
    html! {
        li class={ "row two " (service.status) } {
            div.what {
                @if service.is_here { a.id href=(root.link(&format!("ui/services/{}", service.id))) { (service.id) } }
                @else { span.id { (service.id) } " " span.state { "of another program" } }
                " " (status(service.status))
                @for reason in &service.reasons { p.reason { (reason) } }
            }
            dl.times {
                div.held {
                    dt { "runs on" }
                    dd { @match &service.holder { Some(holder) => (name(&holder.label, holder.is_this)), None => b { "no replica" } } }
                }
                div { dt { "epoch" } dd { @match &service.holder { Some(holder) => (holder.epoch), None => "–" } } }
                div { dt { "lease renewed" } dd { @match &service.holder { Some(holder) => (renewed(holder, now)), None => "–" } } }
                div {
                    dt { "other replicas" }
                    dd {
                        @if others.is_empty() { "–" }
                        @for (n, (state, count)) in others.iter().enumerate() {
                            @if n > 0 { ", " }
                            (count) " " (state.in_words())
                        }
                    }
                }
            }
        }
    }
}
