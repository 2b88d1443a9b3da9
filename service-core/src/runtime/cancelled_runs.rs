//! [`CancelledRuns`]: which runs were cancelled. Tasks that such a run has spawned may still ask.

/// The numbers of the latest runs of an instance that were cancelled.
#[derive(Clone, Debug, Default)]
pub(crate) struct CancelledRuns {
    /// In ascending order.
    runs: Vec<u64>,
}

/// How many are kept. Runs before the earliest one count as cancelled, too.
const KEPT: usize = 100;

impl CancelledRuns {
    pub(crate) fn add(&mut self, run: u64) {
        if self.runs.len() == KEPT {
            self.runs.remove(0);
        }
        self.runs.push(run);
    }

    pub(crate) fn contains(&self, run: u64) -> bool {
        let is_old = self.runs.len() == KEPT && self.runs.first().is_some_and(|first| run < *first);
        is_old || self.runs.binary_search(&run).is_ok()
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
    fn runs_before_the_earliest_that_is_kept_count_as_cancelled() {
        let mut cancelled = CancelledRuns::default();
        for run in 1..=200 {
            cancelled.add(2 * run);
        }
        assert!(cancelled.contains(2) && cancelled.contains(3) && cancelled.contains(202));
        assert!(!cancelled.contains(203) && !cancelled.contains(401));
    }
}
