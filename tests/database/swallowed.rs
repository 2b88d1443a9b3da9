//! A commit whose answer never comes, because the network loses all packets of its connection.
//!
//! The limit of a commit is a minute. These tests wait for the lost packet in real time, and then move tokio's clock
//! over that minute.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use sea_orm::{ConnectionTrait, EntityTrait, Statement};
use service_core::__private::database::ServiceDb;
use service_core::database::{self, Transaction};
use service_core::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::Bench;
use crate::postgres::Postgres;
use crate::promises::run_to_the_end;
use crate::tables::{effect, effects, job, jobs, more_jobs};

/// A proxy before the server. It can lose what follows one `COMMIT`.
struct Proxy {
    /// The next `COMMIT` is lost.
    armed: Arc<AtomicBool>,
    /// Whether the server receives this `COMMIT`, and only its answer is lost.
    delivers: bool,
    lost: watch::Sender<bool>,
    /// Set when the server is told that the connection is gone.
    cut: watch::Sender<bool>,
}

impl Proxy {
    fn start(target: PathBuf, address: &Path, delivers: bool) -> Arc<Self> {
        let listener = UnixListener::bind(address).unwrap();
        let (lost, cut) = (watch::Sender::new(false), watch::Sender::new(false));
        let proxy = Arc::new(Self { armed: Arc::default(), delivers, lost, cut });
        let started = Arc::clone(&proxy);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (proxy, target) = (Arc::clone(&proxy), target.clone());
                tokio::spawn(async move { proxy.serve(client, &target).await });
            }
        });
        started
    }

    async fn serve(&self, client: UnixStream, target: &Path) {
        let Ok(server) = UnixStream::connect(target).await else { return };
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let (mut sent, mut received) = ([0; 16384], [0; 16384]);
        loop {
            tokio::select! {
                biased;
                length = from_client.read(&mut sent) => {
                    let Ok(length @ 1..) = length else { return };
                    let bytes = &sent[..length];
                    let is_lost = bytes.windows(6).any(|word| word == b"COMMIT") && self.armed.swap(false, Ordering::SeqCst);
                    if (!is_lost || self.delivers) && to_server.write_all(bytes).await.is_err() {
                        return;
                    }
                    if is_lost {
                        break;
                    }
                }
                length = from_server.read(&mut received) => {
                    let Ok(length @ 1..) = length else { return };
                    if to_client.write_all(&received[..length]).await.is_err() {
                        return;
                    }
                }
            }
        }
        if self.delivers {
            // The server has answered.
            let _ = from_server.read(&mut received).await;
        }
        self.lost.send_replace(true);
        // Both ends believe in the connection, until the server notices.
        let _ = self.cut.subscribe().wait_for(|cut| *cut).await;
        drop((from_server, to_server));
        std::future::pending().await
    }

    /// Loses the next `COMMIT`, which `committing` sends, and moves the clock over the limit of a commit.
    async fn lose_the_commit<T>(&self, committing: impl Future<Output = T>) -> T {
        tokio::pin!(committing);
        let mut lost = self.lost.subscribe();
        lost.mark_unchanged();
        self.armed.store(true, Ordering::SeqCst);
        tokio::select! {
            _ = &mut committing => panic!("it has committed"),
            changed = lost.changed() => changed.unwrap(),
        }
        tokio::time::pause();
        for (seconds, is_over) in [(58, false), (3, true)] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
                let polled = std::future::poll_fn(|cx| Poll::Ready(committing.as_mut().poll(cx))).await;
                if let Poll::Ready(result) = polled {
                    assert!(is_over, "the limit is a minute");
                    tokio::time::resume();
                    return result;
                }
            }
        }
        panic!("the limit of a commit has passed, and it still waits");
    }
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A worker whose connections go through a proxy.
struct Setting {
    bench: Bench,
    proxy: Arc<Proxy>,
    service_db: ServiceDb,
    _dir: tempfile::TempDir,
}

impl Setting {
    async fn new(delivers: bool) -> Option<Self> {
        let server = on_thread(Postgres::shared).await?;
        let bench = Bench::postgres().await?;
        let dir = tempfile::tempdir().unwrap();
        let proxy = Proxy::start(server.socket(), &dir.path().join(".s.PGSQL.5432"), delivers);
        let (path, _) = bench.url.split_once("?host=").unwrap();
        let pool = database::connect(&format!("{path}?host={}", dir.path().display())).await.unwrap();
        Some(Self { bench, proxy, service_db: ServiceDb::new(pool, "worker"), _dir: dir })
    }

    /// The server notices that the connection is gone, and ends its transaction.
    async fn server_notices(&self) {
        self.proxy.cut.send_replace(true);
        let database = self.bench.url.split('/').nth(3).unwrap().split('?').next().unwrap();
        let select = format!(
            "SELECT 1 FROM pg_stat_activity WHERE datname = '{database}' AND state LIKE 'idle in transaction%'"
        );
        let open = Statement::from_string(sea_orm::DbBackend::Postgres, select);
        while self.bench.db.query_one_raw(open.clone()).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn is_unanswered<T: std::fmt::Debug>(result: &Result<T>) {
    let error = format!("{:#}", result.as_ref().unwrap_err());
    assert!(error.contains("within 60 s") && error.contains("unknown whether the commit took effect"), "{error}");
}

async fn work_well(job: &job::Model, tx: &Transaction) -> Result<()> {
    Ok(effect(tx, job.id).await?)
}

/// Limits in real time.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("not within 20 s: {what}"))
}

/// The commit of a batch, or of its second item, is lost: the run ends with an error, other workers go on, and no
/// effect is lost or repeated, whether the server has committed or not.
#[tokio::test]
async fn a_commit_without_an_answer_ends_after_a_minute() {
    for each in [false, true] {
        for delivers in [false, true] {
            let Some(setting) = Setting::new(delivers).await else { return };
            let context = format!("each {each}, delivers {delivers}");
            let (db, service_db) = (&setting.bench.db, &setting.service_db);
            jobs(db, 3).await;
            let result: Result<()> = if each {
                let mut batch = service_db.claim_each::<job::Entity>(10).lease(Duration::from_secs(4)).await.unwrap();
                let item = batch.next().await.unwrap().unwrap();
                let done = work_well(item.model(), item.tx()).await;
                item.settle(done).await.unwrap();
                let item = batch.next().await.unwrap().unwrap();
                let done = work_well(item.model(), item.tx()).await;
                setting.proxy.lose_the_commit(item.settle(done)).await
            } else {
                let mut batch = service_db.claim::<job::Entity>(10).await.unwrap();
                while let Some(item) = batch.next().await.unwrap() {
                    let done = work_well(item.model(), item.tx()).await;
                    item.settle(done).await.unwrap();
                }
                setting.proxy.lose_the_commit(batch.commit()).await.map(drop)
            };
            is_unanswered(&result);
            soon(&format!("{context}: the run is settled"), service_db.settle(Some("unanswered"))).await.unwrap();
            // The server still believes in the connection. Others work on, also when the claims have expired.
            more_jobs(db, 4..=6).await;
            let other = ServiceDb::new(db.clone(), "other");
            for more in [4, 7] {
                more_jobs(db, more + 3..=more + 5).await;
                let failures = soon(&format!("{context}: others"), run_to_the_end(&other, each, work_well)).await;
                assert_eq!(failures, 0, "{context}");
                assert_eq!(job(db, more + 3).await.status, "completed", "{context}");
                if each && !delivers && more == 4 {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
            }
            setting.server_notices().await;
            for worker in [service_db, &other] {
                soon(&format!("{context}: the rest"), run_to_the_end(worker, each, work_well)).await;
            }
            assert_eq!(effects(db).await, (1..=12).collect::<Vec<_>>(), "{context}");
            for row in job::Entity::find().all(db).await.unwrap() {
                assert_eq!((&*row.status, row.attempts), ("completed", 1), "{context}: {row:?}");
            }
            let claims = Statement::from_string(sea_orm::DbBackend::Postgres, "SELECT owner FROM service_claim");
            assert_eq!(db.query_all_raw(claims).await.unwrap().len(), 0, "{context}");
        }
    }
}

/// The same for a transaction of the service itself.
#[tokio::test]
async fn a_commit_of_a_service_without_an_answer_ends_after_a_minute() {
    for delivers in [false, true] {
        let Some(setting) = Setting::new(delivers).await else { return };
        let (db, service_db) = (&setting.bench.db, &setting.service_db);
        jobs(db, 0).await;
        let tx = service_db.begin().await.unwrap();
        effect(&tx, 1).await.unwrap();
        is_unanswered(&setting.proxy.lose_the_commit(tx.commit()).await);
        // The next one has another connection.
        let tx = service_db.begin().await.unwrap();
        effect(&tx, 2).await.unwrap();
        tx.commit().await.unwrap();
        setting.server_notices().await;
        assert_eq!(effects(db).await, if delivers { vec![1, 2] } else { vec![2] });
    }
}
