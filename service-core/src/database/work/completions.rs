//! [`Completions`]: completes the items of a leased batch that have no writes of their own, several with one statement.
//!
//! While a statement is in flight, further items collect, and the next statement completes all of them. So the first
//! item never waits for others, and the busier the batch is, the fewer commits it makes.
//!
//! Such a statement skips what it cannot complete at once, as described at `complete_claimed`, and fails as a whole if
//! the table refuses one of the rows. The items that are left are then completed one by one, as all others are.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::task::{Context as Task, Poll, Waker};

use sea_orm::{EntityTrait, QueryResult};
use tokio::runtime::Handle;

use crate::database::error_kind::{DbResult, ErrorKind};
use crate::database::work::batch::Tally;
use crate::database::work::settler::{RecordDropped, Settler};
use crate::database::work::sql_text::key_text;
use crate::runtime::lifecycle::BoxFuture;
use crate::service::error::{Error, Result};

/// The items whose code has succeeded, and whose status is not written yet.
pub(super) struct Completions<'a, E: EntityTrait> {
    settler: &'a Settler,
    waiting: Vec<Box<RecordDropped<'a, E>>>,
    sent: Option<Sent<'a, E>>,
    /// They are to be completed one by one.
    left: VecDeque<Box<RecordDropped<'a, E>>>,
}

/// A statement in flight, and the items that it completes.
struct Sent<'a, E: EntityTrait> {
    items: Vec<Box<RecordDropped<'a, E>>>,
    answer: BoxFuture<'a, Result<Vec<QueryResult>>>,
}

impl<'a, E: EntityTrait> Completions<'a, E> {
    pub(super) fn new(settler: &'a Settler) -> Self {
        Self { settler, waiting: Vec::new(), sent: None, left: VecDeque::new() }
    }

    pub(super) fn add(&mut self, item: Box<RecordDropped<'a, E>>) {
        self.waiting.push(item);
    }

    /// Takes an item that is to be completed by itself.
    pub(super) fn take_left(&mut self) -> Option<Box<RecordDropped<'a, E>>> {
        self.left.pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.sent.as_ref().map_or(0, |sent| sent.items.len()) + self.left.len()
    }

    /// Reads the answer of the statement in flight, if there is one, and sends the next statement: also after an error,
    /// because the items that wait have ended.
    ///
    /// # Errors
    /// The database may be down.
    pub(super) fn poll(&mut self, task: &mut Task<'_>, tally: &mut Tally) -> Result<()> {
        let mut result = Ok(());
        loop {
            if self.sent.is_none() && !self.waiting.is_empty() {
                let items = std::mem::take(&mut self.waiting);
                self.sent = Some(Sent { answer: statement(self.settler, &items), items });
            }
            let Some(sent) = &mut self.sent else { return result };
            let Poll::Ready(answer) = sent.answer.as_mut().poll(task) else { return result };
            let items = std::mem::take(&mut sent.items);
            self.sent = None;
            result = result.and(self.end(items, answer, tally));
        }
    }

    /// Ends the items of a statement.
    fn end(
        &mut self,
        items: Vec<Box<RecordDropped<'a, E>>>,
        answer: Result<Vec<QueryResult>>,
        tally: &mut Tally,
    ) -> Result<()> {
        let has_triggers = |row: &QueryResult| row.try_get("", "has_triggers").is_ok_and(|has: bool| has);
        if answer.as_ref().is_ok_and(|rows| rows.first().is_some_and(has_triggers)) {
            self.settler.service_db.work.triggers_found(&self.settler.table);
        }
        let released = match answer.and_then(|rows| Ok(rows.iter().map(read).collect::<DbResult<_>>()?)) {
            Ok(released) => released,
            Err(error) => return self.refused(items, error),
        };
        let released: HashMap<String, bool> = released;
        for mut guard in items {
            match released.get(&key_text(&guard.item.row.key)) {
                Some(true) => tally.add(self.settler.completed(&mut guard.item)),
                Some(false) => tally.add(self.settler.skip_kept(&mut guard.item)),
                None => self.left.push_back(guard),
            }
        }
        Ok(())
    }

    /// Nothing is completed, except perhaps in an outage.
    fn refused(&mut self, items: Vec<Box<RecordDropped<'a, E>>>, error: Error) -> Result<()> {
        self.settler.service_db.tx.forget_level();
        let kind = ErrorKind::in_chain(&error).unwrap_or(ErrorKind::ConnectionLost);
        if !kind.is_outage() {
            self.left.extend(items);
            return Ok(());
        }
        for mut guard in items {
            self.settler.interrupted(&mut guard.item, kind);
        }
        Err(error)
    }
}

impl<E: EntityTrait> Drop for Completions<'_, E> {
    /// The effects of the items that wait exist already, so their rows are completed all the same.
    fn drop(&mut self) {
        if !self.waiting.is_empty() && Handle::try_current().is_ok() {
            // Once polled, it continues without being awaited. The end of the run waits for it, and looks up the rows.
            let _ = pin!(statement(self.settler, &self.waiting)).poll(&mut Task::from_waker(Waker::noop()));
        }
    }
}

/// Completes items by one statement, which commits by itself. The answer is the released claims.
fn statement<'a, E: EntityTrait>(
    settler: &'a Settler,
    items: &[Box<RecordDropped<'a, E>>],
) -> BoxFuture<'a, Result<Vec<QueryResult>>> {
    let keys: Vec<_> = items.iter().map(|guard| guard.item.row.key.clone()).collect();
    let owner = settler.lease.as_ref().map_or_else(String::new, |lease| lease.owner.clone());
    let (table, now) = (settler.table.clone(), settler.service_db.clock.now());
    let build = move || table.complete_claimed(&keys, &owner, now);
    Box::pin(async move { settler.service_db.tx.commit_alone(build).await })
}

/// The key of a released claim, and whether its row is completed.
fn read(row: &QueryResult) -> DbResult<(String, bool)> {
    Ok((row.try_get("", "row_key")?, row.try_get("", "is_completed")?))
}
