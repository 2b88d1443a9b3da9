//! Keys that the database stores or compares in another way than the entity's type says.

use sea_orm::{ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseConnection, EntityTrait, Iterable, Statement};
use service_core::__private::database::ServiceDb;
use service_core::database::{self, WorkItem};
use service_core::{Error, Outcome, Result};

use crate::Bench;
use crate::promises::service_db;
use crate::tables::{create, ticket};

/// A key that PostgreSQL pads with blanks.
mod padded {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "padded")]
    #[work_item(status = "status", attempts = "attempts", max_attempts = 2)]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false, column_type = "Char(Some(6))")]
        pub(crate) code: String,
        pub(crate) status: String,
        pub(crate) attempts: i32,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The same table, whose entity does not name that type.
mod unnamed {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "padded")]
    #[work_item(status = "status", attempts = "attempts", max_attempts = 2)]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) code: String,
        pub(crate) status: String,
        pub(crate) attempts: i32,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A key of bytes.
mod digests {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "digests")]
    #[work_item(status = "status")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) digest: Vec<u8>,
        pub(crate) status: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A time in the key.
mod timed {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "timed")]
    #[work_item(status = "status")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) station: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) at: DateTimeUtc,
        pub(crate) status: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A native enum in the key, and a time.
mod kinds {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
    #[sea_orm(rs_type = "String", db_type = "Enum", enum_name = "kind")]
    pub(crate) enum Kind {
        #[sea_orm(string_value = "letter")]
        Letter,
        #[sea_orm(string_value = "parcel")]
        Parcel,
    }

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "kinds")]
    #[work_item(status = "status", available_at = "due")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) tenant: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) kind: Kind,
        pub(crate) status: String,
        pub(crate) due: Option<DateTimeUtc>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A table of a schema.
mod placed {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    macro_rules! placed {
        ($module:ident, $schema:literal) => {
            pub(crate) mod $module {
                use super::*;

                #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
                #[sea_orm(table_name = "placed", schema_name = $schema)]
                #[work_item(status = "status", available_at = "due")]
                pub(crate) struct Model {
                    #[sea_orm(primary_key)]
                    pub(crate) id: i64,
                    pub(crate) status: String,
                    pub(crate) due: Option<DateTimeUtc>,
                }

                #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
                pub(crate) enum Relation {}

                impl ActiveModelBehavior for ActiveModel {}
            }
        };
    }

    placed!(on_sqlite, "main");
    placed!(on_postgres, "public");
}

/// Processes what is due. With `writes`, each item makes a statement.
async fn run<E: WorkItem>(service_db: &ServiceDb, each: bool, writes: bool) -> Result<Outcome> {
    let run = async {
        let mut batch = match each {
            true => service_db.claim_each::<E>(10).await?,
            false => service_db.claim::<E>(10).await?,
        };
        while let Some(item) = batch.next().await? {
            if writes {
                item.tx().execute_unprepared("INSERT INTO effect VALUES (1)").await?;
            }
            item.settle(Ok::<_, Error>(())).await?;
        }
        batch.commit().await
    };
    let run = run.await;
    service_db.settle(run.as_ref().err().map(|error| format!("{error:#}")).as_deref()).await?;
    run
}

async fn number(db: &DatabaseConnection, select: &str) -> i64 {
    let select = Statement::from_string(db.get_database_backend(), select);
    db.query_one_raw(select).await.unwrap().unwrap().try_get("", "n").unwrap()
}

pub(crate) async fn a_padded_key_finds_its_row(bench: Bench) {
    create(&bench.db, padded::Entity).await;
    bench.db.execute_unprepared("CREATE TABLE effect (n BIGINT NOT NULL)").await.unwrap();
    for each in [false, true] {
        for writes in [false, true] {
            for sql in [
                "DELETE FROM padded",
                "INSERT INTO padded VALUES ('ab', 'pending', 0), ('abcdef', 'pending', 0), ('abc', 'failed', 2)",
            ] {
                bench.db.execute_unprepared(sql).await.unwrap();
            }
            let service_db = service_db(&bench);
            let context = format!("{each} {writes}");
            // Twice, because the first item of `claim_each` is completed in another way.
            assert_eq!(
                run::<padded::Entity>(&service_db, each, writes).await.unwrap(),
                Outcome::processed(2),
                "{context}"
            );
            let retried = database::retry_failed::<padded::Entity>(&bench.db, padded::Column::Attempts.eq(2)).await;
            assert_eq!(retried.unwrap(), 1, "{context}");
            assert_eq!(
                run::<padded::Entity>(&service_db, each, writes).await.unwrap(),
                Outcome::processed(1),
                "{context}"
            );
            assert_eq!(run::<padded::Entity>(&service_db, each, writes).await.unwrap(), Outcome::idle(), "{context}");
            let completed = "SELECT count(*) AS n FROM padded WHERE status = 'completed' AND attempts = 1";
            assert_eq!(number(&bench.db, completed).await, 3, "{context}");
        }
    }
    assert_eq!(number(&bench.db, "SELECT count(*) AS n FROM effect").await, 6);
}

/// Otherwise the row would be processed by every run.
pub(crate) async fn a_key_that_does_not_find_its_row_fails_the_run(bench: Bench) {
    bench.db.execute_unprepared("CREATE TABLE effect (n BIGINT NOT NULL)").await.unwrap();
    create(&bench.db, padded::Entity).await;
    create(&bench.db, timed::Entity).await;
    let insert = if bench.is_postgres() {
        "INSERT INTO padded VALUES ('abcdef', 'pending', 0), ('ab', 'pending', 0), ('abc', 'failed', 2)"
    } else {
        "INSERT INTO timed VALUES ('north', '2026-01-31 12:00:00', 'pending'), ('south', '2026-01-31T12:00:00+00:00', 'pending')"
    };
    bench.db.execute_unprepared(insert).await.unwrap();
    for each in [false, true] {
        let service_db = service_db(&bench);
        for _ in 0..2 {
            let (error, table, key) = if bench.is_postgres() {
                (run::<unnamed::Entity>(&service_db, each, true).await.unwrap_err(), "padded", "'ab    '")
            } else {
                (run::<timed::Entity>(&service_db, each, true).await.unwrap_err(), "timed", "'north'")
            };
            let error = format!("{error:#}");
            assert!(error.contains(&format!("`{table}` does not find its row")) && error.contains(key), "{error}");
        }
    }
    assert_eq!(number(&bench.db, "SELECT count(*) AS n FROM effect").await, 0);
    assert_eq!(number(&bench.db, "SELECT count(*) AS n FROM service_claim").await, 0);
    if bench.is_postgres() {
        let retried = database::retry_failed::<unnamed::Entity>(&bench.db, unnamed::Column::Attempts.eq(2)).await;
        let error = retried.unwrap_err().to_string();
        assert!(error.contains("the key 'abc   ' of `padded` does not find its row"), "{error}");
        // A key without blanks is compared as it is stored.
        bench.db.execute_unprepared("DELETE FROM padded WHERE code = 'ab'").await.unwrap();
        assert_eq!(run::<unnamed::Entity>(&service_db(&bench), false, true).await.unwrap(), Outcome::processed(1));
    } else {
        bench.db.execute_unprepared("DELETE FROM timed WHERE station = 'north'").await.unwrap();
    }
    let at = "2026-01-31T13:00:00Z".parse().unwrap();
    let row = timed::ActiveModel { station: Set("east".into()), at: Set(at), status: Set("pending".into()) };
    timed::Entity::insert(row).exec_without_returning(&bench.db).await.unwrap();
    let left = if bench.is_postgres() { 1 } else { 2 };
    assert_eq!(run::<timed::Entity>(&service_db(&bench), true, true).await.unwrap(), Outcome::processed(left));
}

/// A native enum is read as text, and compared as an enum.
pub(crate) async fn a_native_enum_in_a_key_finds_its_row(bench: Bench) {
    create(&bench.db, kinds::Entity).await;
    bench.db.execute_unprepared("CREATE TABLE effect (n BIGINT NOT NULL)").await.unwrap();
    for triggers in [false, true] {
        if triggers {
            let trigger = if bench.is_postgres() {
                "CREATE FUNCTION harmless() RETURNS trigger AS $$ BEGIN RETURN new; END $$ LANGUAGE plpgsql; \
                 CREATE TRIGGER harmless BEFORE UPDATE ON kinds FOR EACH ROW EXECUTE FUNCTION harmless()"
            } else {
                "CREATE TRIGGER harmless BEFORE UPDATE ON kinds BEGIN SELECT 1; END"
            };
            bench.db.execute_unprepared(trigger).await.unwrap();
        }
        for each in [false, true] {
            bench.db.execute_unprepared("DELETE FROM kinds").await.unwrap();
            for kind in kinds::Kind::iter() {
                for (tenant, due) in [(1, None), (2, Some(chrono::DateTime::UNIX_EPOCH))] {
                    let (tenant, kind, status) = (Set(tenant), Set(kind), Set("pending".into()));
                    let row = kinds::ActiveModel { tenant, kind, status, due: Set(due) };
                    kinds::Entity::insert(row).exec_without_returning(&bench.db).await.unwrap();
                }
            }
            let service_db = service_db(&bench);
            let context = format!("{triggers} {each}");
            assert_eq!(
                run::<kinds::Entity>(&service_db, each, true).await.unwrap(),
                Outcome::processed(4),
                "{context}"
            );
            assert_eq!(run::<kinds::Entity>(&service_db, each, true).await.unwrap(), Outcome::idle(), "{context}");
            // An item that deletes its own row: the rows that stay pending are looked for.
            bench.db.execute_unprepared("UPDATE kinds SET status = 'pending'").await.unwrap();
            let mut batch = service_db.claim::<kinds::Entity>(10).await.unwrap();
            while let Some(item) = batch.next().await.unwrap() {
                item.tx().execute_unprepared("DELETE FROM kinds WHERE tenant = 1").await.unwrap();
                item.settle(Ok::<_, Error>(())).await.unwrap();
            }
            assert_eq!(batch.commit().await.unwrap(), Outcome::processed(4), "{context}");
        }
    }
}

/// The claim index of a table whose entity names its schema.
pub(crate) async fn an_index_of_a_table_in_a_schema_is_created_and_found(bench: Bench) {
    async fn check<E: WorkItem>(bench: &Bench, entity: E) {
        let (log, _listening) = crate::log::Log::listen();
        create(&bench.db, entity).await;
        bench.db.execute_unprepared("CREATE TABLE effect (n BIGINT NOT NULL)").await.unwrap();
        for _ in 0..2 {
            database::create_claim_index::<E>(&bench.db).await.unwrap();
        }
        bench
            .db
            .execute_unprepared("INSERT INTO placed (id, status) VALUES (1, 'pending'), (2, 'pending')")
            .await
            .unwrap();
        let service_db = service_db(bench);
        for each in [false, true] {
            assert_eq!(
                run::<E>(&service_db, each, true).await.unwrap(),
                if each { Outcome::idle() } else { Outcome::processed(2) }
            );
        }
        assert_eq!(log.warnings(), Vec::<String>::new());
        for sql in ["DROP TABLE placed", "DROP TABLE effect"] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        create(&bench.db, entity).await;
        // The SQL in the warning is that of the index.
        bench.db.execute_unprepared(&database::claim_index::<E>(bench.db.get_database_backend())).await.unwrap();
    }
    if bench.is_postgres() {
        check(&bench, placed::on_postgres::Entity).await;
    } else {
        check(&bench, placed::on_sqlite::Entity).await;
    }
}

/// Rows whose key another program has written in another type, before good ones in the order of claims.
#[tokio::test]
async fn on_sqlite_rows_whose_key_cannot_be_read_starve_no_other_and_fail_no_run() {
    for (each, size) in [(false, 1), (true, 1), (false, 3), (true, 3)] {
        for good in [3, 0] {
            let bench = Bench::sqlite().await;
            create(&bench.db, ticket::Entity).await;
            for n in 0..20 {
                let insert = format!("INSERT INTO ticket VALUES ('ticket {n:02}', 'pending', '')");
                bench.db.execute_unprepared(&insert).await.unwrap();
            }
            for n in 0..good {
                let row = ticket::ActiveModel {
                    id: Set(sea_orm::prelude::Uuid::from_u128(n)),
                    status: Set("pending".into()),
                    error: Set(String::new()),
                };
                ticket::Entity::insert(row).exec_without_returning(&bench.db).await.unwrap();
            }
            let (log, _listening) = crate::log::Log::listen();
            let service_db = service_db(&bench);
            let mut last = Outcome::idle().again();
            for _ in 0..12 {
                let mut batch = match each {
                    true => service_db.claim_each::<ticket::Entity>(size).await.unwrap(),
                    false => service_db.claim::<ticket::Entity>(size).await.unwrap(),
                };
                while let Some(item) = batch.next().await.unwrap() {
                    item.settle(Ok::<_, Error>(())).await.unwrap();
                }
                last = batch.commit().await.unwrap();
            }
            let context = format!("{each} {size} {good}");
            assert_eq!(last, Outcome::idle(), "{context}");
            let completed = number(&bench.db, "SELECT count(*) AS n FROM ticket WHERE status = 'completed'").await;
            let pending = number(&bench.db, "SELECT count(*) AS n FROM ticket WHERE status = 'pending'").await;
            assert_eq!((completed, pending), (good as i64, 20), "{context}");
            assert_eq!(number(&bench.db, "SELECT count(*) AS n FROM service_claim").await, 0, "{context}");
            let warnings: Vec<String> =
                log.warnings().into_iter().filter(|line| line.contains("not even its key")).collect();
            assert_eq!(warnings.len(), 1, "{context}: {warnings:?}");
        }
    }
}

/// A claim would read all of them, however many they are.
#[tokio::test]
async fn on_sqlite_hundreds_of_rows_whose_key_cannot_be_read_fail_the_run() {
    let bench = Bench::sqlite().await;
    create(&bench.db, ticket::Entity).await;
    let insert = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 201) \
                  INSERT INTO ticket SELECT 'ticket ' || n, 'pending', '' FROM n";
    bench.db.execute_unprepared(insert).await.unwrap();
    let service_db = service_db(&bench);
    for each in [false, true] {
        let error = run::<ticket::Entity>(&service_db, each, false).await.unwrap_err();
        assert!(format!("{error:#}").contains("more than 200 due rows have a key that cannot be read"), "{error:#}");
    }
    bench.db.execute_unprepared("DELETE FROM ticket WHERE id > 'ticket 2'").await.unwrap();
    for each in [false, true] {
        assert_eq!(run::<ticket::Entity>(&service_db, each, false).await.unwrap(), Outcome::idle(), "{each}");
    }
}

/// SQLite accepts NULL in most primary keys. No statement finds such a row.
#[tokio::test]
async fn on_sqlite_rows_without_a_key_take_no_places_of_a_claim() {
    for each in [false, true] {
        let bench = Bench::sqlite().await;
        let table = "CREATE TABLE ticket (id BLOB PRIMARY KEY, status TEXT NOT NULL, error TEXT NOT NULL)";
        bench.db.execute_unprepared(table).await.unwrap();
        for key in ["NULL"; 20].into_iter().chain(["x'00000000000000000000000000000001'"]) {
            let insert = format!("INSERT INTO ticket VALUES ({key}, 'pending', '')");
            bench.db.execute_unprepared(&insert).await.unwrap();
        }
        let service_db = service_db(&bench);
        assert_eq!(run::<ticket::Entity>(&service_db, each, false).await.unwrap(), Outcome::processed(1), "{each}");
        assert_eq!(run::<ticket::Entity>(&service_db, each, false).await.unwrap(), Outcome::idle(), "{each}");
    }
}

/// The driver reads a text as bytes, too, but SQLite does not compare it with bytes.
#[tokio::test]
async fn on_sqlite_a_text_in_place_of_bytes_fails_the_run() {
    let bench = Bench::sqlite().await;
    bench.db.execute_unprepared("CREATE TABLE effect (n BIGINT NOT NULL)").await.unwrap();
    create(&bench.db, digests::Entity).await;
    let insert = "INSERT INTO digests VALUES ('text', 'pending'), (x'0102', 'pending')";
    bench.db.execute_unprepared(insert).await.unwrap();
    for each in [false, true] {
        let service_db = service_db(&bench);
        for writes in [false, true] {
            let error = run::<digests::Entity>(&service_db, each, writes).await.unwrap_err();
            assert!(format!("{error:#}").contains("`digests` does not find its row"), "{each} {writes}: {error:#}");
        }
    }
    assert_eq!(number(&bench.db, "SELECT count(*) AS n FROM effect").await, 0);
    bench.db.execute_unprepared("DELETE FROM digests WHERE typeof(digest) = 'text'").await.unwrap();
    assert_eq!(run::<digests::Entity>(&service_db(&bench), true, true).await.unwrap(), Outcome::processed(1));
}

/// The driver panics at such a key.
#[tokio::test]
async fn on_postgres_an_infinite_time_in_a_key_starves_no_other_row() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        bench.db.execute_unprepared("DROP TABLE IF EXISTS timed").await.unwrap();
        create(&bench.db, timed::Entity).await;
        let rows = "('a', '-infinity', 'pending'), ('b', '2026-01-01', 'pending'), ('c', 'infinity', 'pending')";
        bench.db.execute_unprepared(&format!("INSERT INTO timed (station, at, status) VALUES {rows}")).await.unwrap();
        let service_db = service_db(&bench);
        for _ in 0..3 {
            let _ = run::<timed::Entity>(&service_db, each, false).await;
        }
        let completed = "SELECT count(*) AS n FROM timed WHERE status = 'completed' AND station = 'b'";
        assert_eq!(number(&bench.db, completed).await, 1, "{each}");
        assert_eq!(run::<timed::Entity>(&service_db, each, false).await.unwrap(), Outcome::idle(), "{each}");
    }
}
