//! One suite, which runs unchanged on SQLite and on a PostgreSQL server that it starts itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/log.rs"]
mod log;
#[path = "../support/postgres.rs"]
mod postgres;

mod away;
mod batches;
mod bed;
mod catch_up;
mod causes;
mod cluster;
mod completions;
mod concurrent;
mod conflicts;
mod each;
mod faults;
mod fires;
mod for_each;
mod full_disk;
mod housekeeping;
mod keys;
mod killed;
mod layers;
mod leases;
mod limits;
mod locked;
mod messages;
mod missed;
mod needs;
mod order;
mod outages;
mod passed_over;
mod promises;
mod refusals;
mod savepoints;
mod settings;
mod startup_errors;
mod statements;
mod stuck;
mod swallowed;
mod tables;
mod transactions;
mod used_up;
mod wake_ups;
mod warnings;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};
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

    /// Sets a parameter of PostgreSQL for new connections.
    async fn set(&self, parameter: &str, value: &str) {
        let name = Statement::from_string(DbBackend::Postgres, "SELECT current_database() AS name");
        let name: String = self.db.query_one_raw(name).await.unwrap().unwrap().try_get("", "name").unwrap();
        let set = format!("ALTER DATABASE {name} SET {parameter} = '{value}'");
        self.db.execute_unprepared(&set).await.unwrap();
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.db.get_database_backend() == DbBackend::Postgres
    }

    async fn open(url: String, dir: Option<tempfile::TempDir>) -> Self {
        let db = database::connect(&url).await.unwrap();
        database::migrate(&db).await.unwrap();
        Self { db, url, _dir: dir }
    }
}

/// Each case is an `async fn(Bench)`. It becomes a test on each engine.
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
        stale_claims_do_not_slow_other_claims,
        on_postgres_a_completion_does_not_read_released_claims,
        a_batch_whose_lease_has_expired_lends_no_more,
        a_suspended_process_repeats_one_item_at_most;
    order:
        new_rows_do_not_starve_a_row_that_is_tried_again,
        rows_with_a_time_do_not_starve_rows_without,
        rows_that_others_hold_starve_no_kind_of_rows,
        claims_of_one_row_alternate,
        claims_with_different_conditions_starve_no_kind_of_rows,
        a_claim_may_be_of_any_size,
        times_are_compared_as_instants,
        an_order_by_the_time_is_an_order_of_instants,
        an_index_that_is_dropped_stops_no_claims;
    promises:
        an_item_that_ends_its_transaction_is_not_reported_as_completed,
        a_commit_of_a_transaction_that_has_ended_is_an_error,
        a_table_that_does_not_fit_its_entity_fails_the_run_and_no_row,
        only_the_row_that_does_not_fit_fails,
        a_row_without_a_value_that_the_framework_needs_is_left_as_it_is,
        a_row_without_the_time_that_its_entity_requires_is_left_as_it_is,
        a_row_that_stays_pending_has_no_effect_and_blocks_no_other,
        a_row_that_fails_when_its_run_has_ended_is_a_warning,
        a_new_rule_or_trigger_is_noticed_at_the_first_row_that_it_keeps,
        a_new_trigger_that_writes_the_status_is_noticed,
        a_trigger_that_takes_a_failure_back_blocks_no_other,
        a_row_that_cannot_be_marked_blocks_no_other,
        a_row_whose_failure_is_refused_at_the_commit_blocks_no_other,
        a_message_that_does_not_fit_is_shortened,
        a_row_that_kills_processes_and_cannot_be_marked_blocks_no_other,
        a_row_that_kills_processes_and_is_refused_at_the_commit_blocks_no_other;
    causes:
        an_item_continues_after_a_statement_that_it_has_dropped,
        an_item_continues_after_a_first_statement_that_it_has_dropped_at_once,
        an_unreadable_row_that_is_refused_at_the_commit_blocks_no_other,
        a_type_that_panics_fails_only_its_row,
        an_unreadable_row_fails_also_if_it_is_claimed_alone,
        an_unreadable_row_that_another_program_has_changed_is_left_alone,
        a_row_that_is_refused_is_charged_where_completed_rows_are_removed,
        a_row_that_was_refused_and_has_completed_is_not_the_cause_later,
        a_table_that_refuses_completions_later_fails_the_run_and_no_row,
        new_rows_of_which_none_can_be_read_fail_the_run_and_no_row;
    refusals:
        completed_rows_that_must_not_change_prove_nothing,
        a_table_that_refuses_for_the_second_time_costs_no_attempt,
        an_old_row_that_violates_a_new_rule_protects_no_other,
        a_refused_row_fails_one_run_and_two_fail_each_run,
        after_a_refused_completion_no_further_row_is_lent;
    messages:
        a_row_fails_whatever_the_words_of_its_error,
        a_service_fails_whatever_the_words_of_its_error;
    used_up:
        a_pool_that_one_service_exhausts_does_not_affect_health_and_shutdown,
        overrides_apply_while_the_pool_is_exhausted,
        a_lease_is_renewed_while_the_pool_is_exhausted,
        many_services_share_a_small_pool;
    locked:
        a_start_ignores_a_table_that_cannot_be_read,
        tables_that_vanish_are_created_again;
    transactions:
        writes_without_a_commit_are_rolled_back,
        a_rolled_back_savepoint_undoes_only_its_own_writes,
        a_commit_after_an_ignored_error_is_an_error,
        writers_wait_for_each_other,
        a_dropped_commit_still_commits,
        a_begin_that_is_cancelled_leaves_nothing_open,
        many_replicas_create_the_tables_at_once,
        missing_columns_are_added_to_an_older_table;
    keys:
        a_padded_key_finds_its_row,
        a_key_that_does_not_find_its_row_fails_the_run,
        a_native_enum_in_a_key_finds_its_row,
        an_index_of_a_table_in_a_schema_is_created_and_found;
    savepoints:
        a_commit_with_an_open_savepoint_is_an_error_and_frees_every_lock,
        an_open_savepoint_affects_only_its_item,
        a_savepoint_that_outlives_its_item_ends_the_batch;
    batches:
        rows_and_effects_commit_together,
        a_failed_item_loses_only_its_own_writes,
        an_error_decides_whether_and_when_a_row_is_retried,
        a_failing_statement_fails_only_its_item,
        an_ignored_error_fails_only_its_item,
        a_savepoint_in_an_item_saves_the_item,
        an_item_that_is_not_settled_has_failed,
        a_dropped_batch_is_rolled_back_and_costs_the_current_row_an_attempt,
        a_panic_and_a_timeout_cost_the_current_row_an_attempt,
        a_row_that_always_panics_does_not_block_the_table,
        composite_and_uuid_keys_and_enum_statuses_work,
        filter_and_order_by_select_and_sort_the_rows,
        the_oldest_rows_come_first,
        rows_that_a_batch_does_not_lend_stay_free_for_others,
        an_idle_poll_does_not_read_rows_that_are_not_due,
        rows_that_cannot_be_read_are_left_out,
        a_full_column_of_attempts_fails_only_its_row,
        a_row_with_the_most_attempts_fails,
        many_workers_get_no_row_twice,
        after_a_refused_commit_the_row_that_caused_it_is_found;
    each:
        each_item_commits_by_itself,
        an_item_may_change_and_delete_its_own_row,
        a_row_that_another_worker_has_changed_is_left_alone,
        claimed_rows_are_not_lent_to_others,
        a_dropped_batch_releases_its_claims_and_costs_one_row_an_attempt,
        claims_of_a_killed_worker_expire,
        a_running_batch_keeps_its_claims,
        a_batch_that_ends_early_keeps_the_count_of_crashes,
        claims_that_a_commit_could_not_release_are_released_later,
        the_claim_of_an_item_that_could_not_be_released_is_released_later,
        a_batch_may_be_of_any_size,
        keys_of_two_columns_and_uuids_are_claimed_too,
        many_workers_repeat_nothing;
    for_each:
        every_item_ends_by_what_its_closure_returns,
        with_claim_each_a_panic_undoes_only_its_own_item,
        a_closure_returns_what_settle_takes,
        a_lent_value_is_changed_by_each_item,
        a_dropped_for_each_charges_only_the_item_in_flight,
        forty_rows_that_panic_do_not_end_a_worker,
        the_panic_of_an_item_is_a_warning_with_its_place;
    housekeeping:
        failed_rows_are_tried_again_as_if_they_were_new,
        many_failed_rows_are_changed_in_portions,
        rows_that_stay_failed_are_changed_once,
        keys_of_two_columns_are_tried_again_in_portions,
        completed_rows_are_deleted_after_their_time,
        one_replica_deletes_each_hour,
        rows_are_deleted_in_portions_and_a_refused_one_keeps_no_other;
    concurrent:
        as_many_items_as_allowed_are_in_flight,
        a_panic_an_error_and_a_timeout_fail_only_their_items,
        a_panic_of_an_error_or_of_a_clone_fails_only_its_item,
        busy_items_starve_no_other,
        a_concurrency_that_the_pool_cannot_serve_is_reduced_with_one_warning,
        options_without_an_effect_are_refused,
        an_item_that_changes_a_value_times_out,
        transactions_queue_on_sqlite_only,
        statements_end_with_the_time_of_their_item,
        a_shorter_limit_of_statements_stays,
        a_stop_lets_the_items_in_flight_end,
        a_dropped_future_charges_only_the_items_in_flight,
        a_connection_that_breaks_under_one_item_costs_no_other_anything;
    completions:
        lost_changed_and_deleted_rows_are_skipped_alone,
        a_refused_completion_costs_the_others_nothing,
        an_item_with_writes_is_completed_before_the_next_one_begins;
    faults:
        killed_workers_lose_nothing_and_repeat_nothing,
        killed_workers_with_claim_each_lose_nothing_and_repeat_nothing,
        killed_workers_with_several_rows_at_a_time_lose_nothing_and_repeat_nothing,
        a_row_that_kills_its_process_costs_its_own_attempts,
        a_row_that_kills_its_process_costs_the_rows_beside_it_nothing,
        a_row_that_kills_its_process_costs_the_completions_in_flight_nothing;
    catch_up:
        no_fire_is_lost_when_the_process_is_killed,
        with_latest_one_fire_is_made_up_after_each_kill,
        a_thousand_missed_fires_are_made_up_and_no_more,
        fires_that_a_pause_or_a_stop_skips_are_recorded;
    layers:
        rows_of_service_config_take_effect_and_wrong_ones_are_reported,
        a_service_that_is_registered_again_has_its_rows_again,
        rows_that_cannot_be_parsed_are_reported_and_the_last_good_value_stays,
        a_row_that_makes_the_settings_unreadable_is_left_out,
        a_row_that_makes_the_settings_panic_is_left_out,
        a_row_that_does_not_fit_the_service_is_left_out,
        a_dependency_that_cannot_be_met_is_left_out,
        an_override_applies_to_every_replica_until_its_end,
        an_override_whose_value_becomes_invalid_ends_at_its_time,
        rows_of_defaults_and_of_the_type_are_below_those_of_the_service,
        without_migration_the_start_requires_the_tables,
        pools_suit_background_work;
    settings:
        the_store_keeps_typed_values,
        a_value_set_in_a_transaction_is_committed_or_rolled_back_with_it,
        settings_that_are_not_json_are_reported_with_their_key,
        a_value_that_is_too_long_is_reported_with_its_key,
        a_text_that_is_too_long_is_reported_with_its_key,
        a_row_that_is_not_text_is_reported_and_the_others_are_read,
        overrides_are_recorded_and_end_by_themselves,
        overrides_that_are_written_by_hand_apply_and_end,
        many_overrides_that_have_expired_are_removed_in_parts,
        the_last_run_is_stored,
        a_delayed_process_does_not_set_the_last_run_back,
        the_claim_index_is_created_once_and_used,
        an_index_that_does_not_serve_the_claims_is_not_taken_for_the_claim_index,
        tables_with_long_names_have_their_own_claim_indices;
    wake_ups:
        wake_triggers_are_created_once_and_their_names_are_quoted;
    warnings:
        a_missing_index_is_reported_once_with_its_sql,
        a_missing_table_is_not_reported_as_missing_an_index,
        rows_that_are_left_out_are_reported_with_their_keys,
        a_batch_without_a_commit_is_reported,
        a_status_enum_without_the_statuses_is_refused,
        the_error_names_a_missing_table,
        a_start_logs_nothing_of_the_database;
}
