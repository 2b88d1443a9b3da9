//! How late runs begin, and how many are lost.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::{Contender, MOMENTS};

/// Prints the median and the 99th percentile in milliseconds, and the lost runs in percent.
pub async fn print<C: Contender>(every: Duration, count: usize, time: Duration) {
    let moments = MOMENTS.get_or_init(|| (0..count).map(|_| Mutex::default()).collect());
    let all = C::start(count, every).await;
    // Not at a moment when runs are due.
    tokio::time::sleep(time + every / 2).await;
    let end = Instant::now();
    let (mut late, mut runs, mut expected) = (Vec::new(), 0, 0.0);
    for moments in moments {
        let moments = moments.lock().expect("no panic");
        let Some(first) = moments.first() else { continue };
        // The next one is due at `end` at the latest.
        expected += (end.duration_since(*first).as_secs_f64() / every.as_secs_f64()).floor() + 1.0;
        runs += moments.len();
        late.extend(lateness(&moments, every));
    }
    let begun = moments.iter().filter(|moments| !moments.lock().expect("no panic").is_empty()).count();
    assert!(begun == count, "only {begun} of {count} have begun");
    late.sort_by(f64::total_cmp);
    let at = |part: f64| late[((late.len() - 1) as f64 * part) as usize] * 1e3;
    let lost = (100.0 * (1.0 - runs as f64 / expected)).max(0.0);
    println!("{:.2} {:.2} {lost:.1}", at(0.5), at(0.99));
    drop(all);
    std::process::exit(0);
}

/// By how many seconds each run began after its point of the grid. A run that is late by more than half an interval
/// counts for the next point. Where the grid is, shows the hundredth of the runs that began soonest.
fn lateness(moments: &[Instant], every: Duration) -> Vec<f64> {
    let (first, every) = (moments[0], every.as_secs_f64());
    let distance = |moment: &Instant| {
        let since = moment.duration_since(first).as_secs_f64();
        since - (since / every).round() * every
    };
    let mut distances: Vec<f64> = moments.iter().map(distance).collect();
    distances.sort_by(f64::total_cmp);
    let soonest = distances[distances.len() / 100];
    distances.iter().map(|distance| (distance - soonest).max(0.0)).collect()
}
