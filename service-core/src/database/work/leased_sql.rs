//! The statements for the rows of `claim_each`, which commit one by one.
//!
//! For every row of a table a statement has the same text and other parameters. So the texts are written once for each
//! claim: to build a statement of several parts anew for each row would take longer than PostgreSQL takes to execute
//! it.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, PostgresQueryBuilder, Query, SqliteQueryBuilder, ValueTuple};
use sea_orm::{DbBackend, Statement, Value};

use crate::database::work::sql::{ASSUMED_ELEMENTS, LeasedTexts, TableSql};
use crate::database::work::sql_text::{has_triggers_on_postgres, key_text, plain_text, text_array};

/// The condition for an owner's claims of the table, by the first parameters of all statements. The third is the key in
/// `service_claim`, or an array of keys; the values of the key follow.
const CLAIMS: &str = "work_table = $1 AND owner = $2";
const FIRST_KEY: usize = 4;

impl LeasedTexts {
    fn new(table: &TableSql) -> Self {
        let text = |expr: Expr| {
            let select = Query::select().expr(expr).to_owned();
            let sql = match table.backend {
                DbBackend::Postgres => select.to_string(PostgresQueryBuilder),
                _ => select.to_string(SqliteQueryBuilder),
            };
            sql.strip_prefix("SELECT ").unwrap_or(&sql).to_owned()
        };
        let rows = table.quoted_name();
        let is_pending = text(table.is_pending());
        let columns: Vec<String> = table.key_columns().map(|column| text(Expr::col(column))).collect();
        let is_row: Vec<String> = columns
            .iter()
            .zip(table.key_parameters(FIRST_KEY))
            .map(|(column, parameter)| format!("{column} = {parameter}"))
            .collect();
        let is_row = is_row.join(" AND ");
        let set: Vec<String> = table
            .completed_values(Some(Expr::cust(format!("${}", FIRST_KEY + columns.len()))))
            .into_iter()
            .map(|(column, value)| format!("{} = {}", text(Expr::col(column)), text(value)))
            .collect();
        let set = set.join(", ");
        let (isolation, lock) = match table.backend {
            DbBackend::Postgres => (
                ", current_setting('transaction_isolation') AS isolation, \
                 current_setting('default_transaction_isolation') AS default_isolation",
                " FOR NO KEY UPDATE",
            ),
            _ => ("", ""),
        };
        let release =
            format!("service_released AS (DELETE FROM service_claim WHERE {CLAIMS} AND row_key = $3 RETURNING 1)");
        let has_triggers = has_triggers_on_postgres(rows);
        let counts = format!(
            "SELECT (SELECT count(*) FROM service_completed) AS completed, (SELECT count(*) FROM service_released) AS released, \
             {has_triggers} AS has_triggers"
        );
        Self {
            still_claimed: format!(
                "SELECT 1{isolation} FROM {rows} WHERE {is_pending} AND {is_row} \
                 AND EXISTS (SELECT 1 FROM service_claim WHERE {CLAIMS} AND row_key = $3){lock}"
            ),
            complete_and_release: format!(
                "WITH {release}, service_completed AS (UPDATE {rows} SET {set} WHERE {is_row} RETURNING 1) {counts}"
            ),
            complete_if_released: format!(
                "WITH {release}, service_completed AS (UPDATE {rows} SET {set} WHERE {is_row} AND {is_pending} \
                 AND EXISTS (SELECT 1 FROM service_released) RETURNING 1) {counts}"
            ),
            complete_claimed: table.key_arrays.as_deref().map(|arrays| {
                let mut unnested = String::new();
                let mut is_row = Vec::new();
                for (n, (column, array)) in columns.iter().zip(arrays).enumerate() {
                    let _ = write!(unnested, "unnest(CAST(${} AS {array})) AS service_key_{n}, ", FIRST_KEY + n);
                    is_row.push(format!("{column} = service_key_{n}"));
                }
                let is_row = is_row.join(" AND ");
                // A row is locked before its claim, as by a claim. Each claim is found by its whole key, and deleted by
                // its place: by a list of keys, PostgreSQL would read all claims of the table, also the many that were
                // released since the last vacuum.
                format!(
                    "WITH service_rows AS (SELECT {unnested}unnest(CAST($3 AS text[])) AS service_claim_key), \
                     service_locked AS (SELECT service_rows.* FROM {rows}, service_rows WHERE {is_row} AND {is_pending} \
                     FOR NO KEY UPDATE SKIP LOCKED), \
                     service_released AS (DELETE FROM service_claim WHERE owner = $2 AND ctid = ANY(ARRAY(SELECT ( \
                     SELECT held.ctid FROM service_claim AS held WHERE {CLAIMS} AND row_key = service_claim_key \
                     FOR UPDATE SKIP LOCKED) FROM service_locked)) RETURNING row_key), \
                     service_completed AS (UPDATE {rows} SET {set} FROM service_locked WHERE {is_row} \
                     AND service_claim_key IN (SELECT row_key FROM service_released) RETURNING service_claim_key) \
                     SELECT row_key, row_key IN (SELECT service_claim_key FROM service_completed) AS is_completed, \
                     {has_triggers} AS has_triggers FROM service_released"
                )
            }),
        }
    }
}

impl TableSql {
    /// The query that finds a row if it is still pending and claimed by this owner, and locks it if the engine can. On
    /// PostgreSQL it also reads the isolation levels of the transaction and of the connection.
    pub(crate) fn still_claimed(&self, key: &ValueTuple, owner: &str) -> Statement {
        self.of_row(&self.leased().still_claimed, key, owner, None)
    }

    /// The statement that completes a row and releases its claim, on PostgreSQL. Its result is how many rows were
    /// changed, `completed` and `released`, and whether the table `has_triggers`.
    pub(crate) fn complete_and_release(&self, key: &ValueTuple, owner: &str, now: DateTime<Utc>) -> Statement {
        self.of_row(&self.leased().complete_and_release, key, owner, Some(now))
    }

    /// The same statement for a row that no transaction has locked. It changes nothing if the claim is no longer held,
    /// and only releases the claim if the row is no longer pending.
    pub(crate) fn complete_if_released(&self, key: &ValueTuple, owner: &str, now: DateTime<Utc>) -> Statement {
        self.of_row(&self.leased().complete_if_released, key, owner, Some(now))
    }

    /// Whether [`complete_claimed`](Self::complete_claimed) can complete rows of this table.
    pub(crate) fn completes_many(&self) -> bool {
        self.backend == DbBackend::Postgres && self.key_arrays.is_some()
    }

    /// The statement that completes rows and releases their claims, on PostgreSQL. Its result is each row whose claim
    /// it released: `row_key`, whether the row is completed, `is_completed`, and whether the table `has_triggers`. It
    /// leaves the other rows and their claims as they are: rows whose claim is not held, rows that are no longer
    /// pending, and rows that another transaction has locked, or their claims, for which it would have to wait.
    pub(crate) fn complete_claimed(&self, keys: &[ValueTuple], owner: &str, now: DateTime<Utc>) -> Statement {
        let text = self.leased().complete_claimed.as_deref().unwrap_or_default();
        let mut values = self.claims_of(owner);
        values.push(text_array(keys.iter().map(key_text), ASSUMED_ELEMENTS).into());
        for n in 0..self.key_columns().len() {
            let parts = keys.iter().filter_map(|key| key.clone().into_iter().nth(n));
            values.push(text_array(parts.map(plain_text), ASSUMED_ELEMENTS).into());
        }
        values.extend(self.touched(now));
        Statement::from_sql_and_values(self.backend, text, values)
    }

    fn leased(&self) -> &LeasedTexts {
        self.leased.get_or_init(|| LeasedTexts::new(self))
    }

    fn of_row(&self, text: &str, key: &ValueTuple, owner: &str, now: Option<DateTime<Utc>>) -> Statement {
        let mut values = self.claims_of(owner);
        values.push(key_text(key).into());
        values.extend(key.clone());
        values.extend(now.and_then(|now| self.touched(now)));
        Statement::from_sql_and_values(self.backend, text, values)
    }

    fn claims_of(&self, owner: &str) -> Vec<Value> {
        vec![self.name.as_str().into(), owner.into()]
    }
}
