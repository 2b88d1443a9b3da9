//! [`CancelledRuns`]: which runs were cancelled. Tasks that such a run has spawned may still ask.

use std::ops::RangeInclusive;

/// The numbers of the runs of an instance that were cancelled.
#[derive(Clone, Debug, Default)]
pub(crate) struct CancelledRuns {
    /// Runs in a row, in ascending order.
    rows: Vec<RangeInclusive<u64>>,
}

/// How many rows are kept. Beyond that, the two oldest become one, so that the runs between them count as cancelled,
/// too.
const KEPT: usize = 100;

impl CancelledRuns {
    /// `run` is later than those that were added before.
    pub(crate) fn add(&mut self, run: u64) {
        if let Some(last) = self.rows.last_mut().filter(|last| *last.end() + 1 == run) {
            *last = *last.start()..=run;
            return;
        }
        if self.rows.len() == KEPT {
            let oldest = self.rows.remove(0);
            self.rows[0] = *oldest.start()..=*self.rows[0].end();
        }
        self.rows.push(run..=run);
    }

    pub(crate) fn contains(&self, run: u64) -> bool {
        self.rows.iter().any(|row| row.contains(&run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stays_cancelled_after_later_ones() {
        let mut cancelled = CancelledRuns::default();
        assert!(!cancelled.contains(1));
        for run in [2, 5, 6] {
            cancelled.add(run);
        }
        let contained: Vec<u64> = (1..=7).filter(|run| cancelled.contains(*run)).collect();
        assert_eq!(contained, [2, 5, 6]);
    }

    #[test]
    fn of_many_rows_the_oldest_become_one() {
        let mut cancelled = CancelledRuns::default();
        for run in 1..=200 {
            cancelled.add(2 * run);
        }
        assert_eq!(cancelled.rows.len(), KEPT);
        assert!([2, 3, 202, 204, 400].iter().all(|run| cancelled.contains(*run)));
        assert!([1, 203, 205, 399, 401].iter().all(|run| !cancelled.contains(*run)));
    }

    #[test]
    fn runs_in_a_row_take_one_place() {
        let mut cancelled = CancelledRuns::default();
        for run in 2..=1_000 {
            cancelled.add(run);
        }
        assert_eq!(cancelled.rows, [2..=1_000]);
    }
}
