//! The heap of a loop that waits.

use malloc_info::info::{SystemType, TotalType};

use crate::{Contender, HOUR, SECOND};

/// The live heap of each of so many that wait, in bytes.
pub async fn each<C: Contender>(count: usize) -> usize {
    // Everything that is made once is made before.
    let warm = C::start(1, HOUR).await;
    settle::<C>().await;
    let before = live_bytes();
    let all = C::start(count, HOUR).await;
    settle::<C>().await;
    let bytes = live_bytes() - before;
    drop((warm, all));
    bytes / count
}

async fn settle<C: Contender>() {
    tokio::time::sleep(if C::FOLLOWS_TOKIO { SECOND * 10 } else { SECOND * 3 }).await;
}

/// Live heap, as mallinfo2's `uordblks` and `hblkhd` together: what was taken from the system, less what lies free.
fn live_bytes() -> usize {
    let info = malloc_info::malloc_info().expect("the statistics of glibc");
    let taken: usize = info.system.iter().filter(|s| s.r#type == SystemType::Current).map(|s| s.size).sum();
    let of = |kind| info.total.iter().filter(|t| t.r#type == kind).map(|t| t.size).sum::<usize>();
    taken - of(TotalType::Fast) - of(TotalType::Rest) + of(TotalType::Mmap)
}
