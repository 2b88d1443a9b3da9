//! One suite, run unchanged on SQLite and on a PostgreSQL that it starts itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/log.rs"]
mod log;
#[path = "../support/postgres.rs"]
mod postgres;

mod away;
mod batches;
mod catch_up;
mod conflicts;
mod each;
mod faults;
mod fires;
mod full_disk;
mod killed;
mod layers;
mod leases;
mod order;
mod outages;
mod promises;
mod settings;
mod statements;
mod tables;
mod transactions;
mod used_up;
mod warnings;

use sea_orm::DatabaseConnection;
use service_core::database;

/// An empty database with the framework's tables, for one test.
pub(crate) struct Bench {
    pub(crate) db: DatabaseConnection,
    pub(crate) url: String,
    _dir: Option<tempfile::TempDir>,
}

impl Bench {
    async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("test.db").display());
        Self::open(url, Some(dir)).await
    }

    async fn postgres() -> Option<Self> {
        let server = tokio::task::spawn_blocking(postgres::Postgres::shared).await.unwrap()?;
        let url = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
        Some(Self::open(url, None).await)
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.db.get_database_backend() == sea_orm::DbBackend::Postgres
    }

    async fn open(url: String, dir: Option<tempfile::TempDir>) -> Self {
        let db = database::connect(&url).await.unwrap();
        database::migrate(&db).await.unwrap();
        Self { db, url, _dir: dir }
    }
}

/// Each case is an `async fn(Bench)`; it becomes a test on either engine.
macro_rules! exercise {
    ($($module:ident: $($case:ident),+;)+) => {
        mod on_sqlite {
            $(mod $module { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::$module::$case(crate::Bench::sqlite().await).await;
                }
            )+ })+
        }
        mod on_postgres {
            $(mod $module { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    if let Some(bench) = crate::Bench::postgres().await {
                        crate::$module::$case(bench).await;
                    }
                }
            )+ })+
        }
    };
}

exercise! {
    outages:
        a_pool_with_options_of_its_own_serves_and_is_watched;
    leases:
        workers_whose_clocks_differ_respect_each_others_claims,
        a_dropped_claim_releases_everything,
        stale_claims_slow_nobody_down,
        a_batch_whose_lease_has_expired_lends_no_more,
        a_suspended_process_repeats_one_item_at_most;
    order:
        new_rows_do_not_starve_a_row_that_is_tried_again,
        rows_with_a_time_do_not_starve_rows_without,
        claims_of_one_row_alternate,
        times_are_compared_as_instants,
        an_index_that_is_dropped_stops_no_claims;
    promises:
        an_item_that_ends_its_transaction_does_not_complete_what_is_lost,
        a_commit_of_a_transaction_that_has_ended_is_an_error,
        a_table_that_does_not_fit_its_entity_fails_the_run_and_no_row,
        a_row_that_does_not_fit_is_failed_alone,
        a_row_that_stays_pending_has_no_effect_and_keeps_no_other,
        a_row_that_cannot_be_marked_blocks_no_other,
        a_message_that_does_not_fit_is_shortened,
        a_row_that_kills_processes_and_cannot_be_marked_blocks_no_other;
    used_up:
        a_pool_that_one_service_uses_up_leaves_health_and_shutdown_alone,
        a_pool_that_is_used_up_does_not_keep_overrides_out;
    transactions:
        what_is_not_committed_is_undone,
        a_savepoint_undoes_only_its_own,
        a_commit_after_an_ignored_error_does_not_lie,
        writers_wait_for_each_other,
        a_dropped_commit_still_commits,
        a_begin_that_is_cancelled_leaves_nothing_open,
        many_replicas_make_the_tables_at_once,
        a_table_made_earlier_is_given_the_columns_it_lacks;
    batches:
        rows_and_effects_commit_together,
        a_failed_item_loses_its_writes_and_no_other_does,
        an_error_says_whether_and_when_to_try_again,
        a_failing_statement_spoils_only_its_item,
        a_hidden_error_spoils_only_its_item,
        a_savepoint_of_the_items_own_saves_it,
        an_item_that_is_not_settled_has_failed,
        a_dropped_batch_undoes_all_and_charges_the_row_in_flight,
        a_panic_and_a_timeout_are_charged_too,
        a_poisoned_row_does_not_hold_up_the_table,
        composite_and_uuid_keys_and_enum_statuses_work,
        a_filter_and_an_order_of_the_users_own,
        the_oldest_come_first,
        what_a_batch_does_not_lend_is_left_to_others,
        an_idle_poll_does_not_go_through_what_is_not_due,
        rows_that_cannot_be_read_are_set_aside,
        a_full_column_of_attempts_fails_its_row_alone,
        many_workers_get_no_row_twice,
        a_refused_commit_finds_the_row_it_was_about;
    each:
        each_item_commits_by_itself,
        an_item_may_change_and_delete_its_own_row,
        a_row_that_somebody_else_has_worked_on_is_left_to_them,
        claimed_rows_are_nobody_elses,
        a_dropped_batch_gives_its_claims_back_and_charges_one,
        claims_of_the_dead_run_out,
        a_living_batch_keeps_its_claims,
        a_batch_that_ends_early_forgets_no_death,
        claims_that_a_commit_could_not_give_back_are_given_back_later,
        a_batch_may_be_of_any_size,
        keys_of_two_columns_and_uuids_are_claimed_too,
        many_workers_repeat_nothing;
    faults:
        killed_workers_lose_nothing_and_repeat_nothing,
        killed_workers_of_single_items_repeat_nothing_either,
        a_row_that_kills_its_process_costs_its_own_attempts;
    catch_up:
        killed_in_the_middle_of_it_no_fire_is_lost,
        of_those_missed_the_latest_alone_is_made_up_after_every_kill,
        a_thousand_missed_fires_are_made_up_and_no_more;
    layers:
        rows_of_service_config_are_noticed_and_wrong_ones_are_told,
        rows_that_say_nothing_are_told_and_the_last_good_value_holds,
        an_operator_overrides_any_key_on_every_replica_until_it_ends,
        rows_of_defaults_and_of_the_type_stand_below_those_of_the_service,
        without_migration_tables_are_asked_for_at_start,
        pools_suit_background_work;
    settings:
        the_store_keeps_typed_values,
        a_value_set_in_a_transaction_shares_its_fate,
        settings_that_are_no_json_are_told_with_their_key,
        a_value_that_is_too_long_is_told_with_its_key,
        overrides_are_recorded_and_end_by_themselves,
        overrides_written_by_hand_count_and_end,
        the_last_run_is_remembered,
        a_process_that_was_held_up_does_not_turn_the_last_run_back,
        the_claims_index_is_made_once_and_used;
    warnings:
        a_missing_index_is_told_once_and_how_to_make_it,
        a_table_that_is_not_there_is_not_told_to_need_an_index,
        rows_set_aside_are_told_with_their_keys,
        a_status_enum_without_the_statuses_is_refused,
        a_missing_table_is_named;
}
