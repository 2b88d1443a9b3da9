//! Which services a replica hands over to another one, so that all replicas run about as many: pure arithmetic.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::replica_table::Replica;
use crate::observe::health::HealthStatus;
use crate::service::state::ServiceState;

/// How many leases each replica holds, by the replica's id.
pub(super) type Counts = BTreeMap<String, usize>;

/// Returns which of the `movable` services this replica hands over, those that come first, and to which replica. A
/// service is handed over only to a replica that stands by for it, that has written its row within `fresh`, and that
/// runs fewer services also afterwards; and no more than this replica has above its share, since other replicas may
/// hand over some at the same time.
///
/// A replica that was killed counts as live for a while. Its row becomes older than `fresh` before its leases expire
/// and it seems to run none, unless leases are short.
pub(super) fn to_hand_over<'a>(
    mut counts: Counts,
    movable: &[&'a str],
    replicas: &'a [Replica],
    fresh: Duration,
) -> BTreeMap<&'a str, &'a str> {
    // Those of another program on the same database do not run these services.
    let is_peer = |replica: &&Replica| replica.is_this || movable.iter().any(|id| replica.service(id).is_some());
    let live: Vec<&Replica> = replicas.iter().filter(|replica| replica.is_live).filter(is_peer).collect();
    let count_of = |counts: &Counts, replica: &Replica| counts.get(&replica.id).copied().unwrap_or_default();
    let Some(this) = live.iter().find(|replica| replica.is_this) else { return BTreeMap::new() };
    let all: usize = live.iter().map(|replica| count_of(&counts, replica)).sum();
    let (mut here, share) = (count_of(&counts, this), all.div_ceil(live.len()));
    let mut moved = BTreeMap::new();
    for id in movable {
        let stands_by = |replica: &&&Replica| {
            let is_fresh = Duration::from_millis(replica.seen_ms_ago) <= fresh;
            let service = replica.service(id).filter(|_| is_fresh && !replica.is_this);
            service.is_some_and(|service| {
                service.state == ServiceState::Standby && service.status == HealthStatus::Healthy
            })
        };
        let Some(target) = live.iter().filter(stands_by).min_by_key(|replica| count_of(&counts, replica)) else {
            continue;
        };
        let there = count_of(&counts, target);
        if here > share && there + 1 < here {
            counts.insert(target.id.clone(), there + 1);
            here -= 1;
            moved.insert(*id, target.id.as_str());
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::cluster::replica_table::ReplicaService;

    const FRESH: Duration = Duration::from_secs(7);
    const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

    /// A replica that holds the first `held` of these services, and stands by for the others.
    fn replica(id: &str, held: usize, is_live: bool) -> Replica {
        let service = |(n, id): (usize, &&str)| ReplicaService {
            service_id: (*id).to_owned(),
            state: if n < held { ServiceState::Running } else { ServiceState::Standby },
            status: HealthStatus::Healthy,
            reason: None,
            lease_epoch: (n < held).then_some(1),
        };
        Replica {
            id: id.to_owned(),
            host: "host".to_owned(),
            pid: 1,
            version: "1".to_owned(),
            started_at: SystemTime::UNIX_EPOCH,
            seen_ms_ago: 0,
            is_live,
            is_this: id == "this",
            services: IDS.iter().enumerate().map(service).collect(),
        }
    }

    #[test]
    fn services_are_shared_out() {
        // (leases here, those of other replicas, how many are handed over)
        let table: [(usize, &[usize], usize); 9] = [
            (6, &[], 0),
            (6, &[6, 0], 2),
            (6, &[0], 3),
            (5, &[0], 2),
            (1, &[0], 0),
            (2, &[1], 0),
            (6, &[0, 0], 4),
            (3, &[3], 0),
            (6, &[5], 0),
        ];
        for (held, others, expected) in table {
            let mut replicas = vec![replica("this", held, true)];
            replicas.extend(others.iter().enumerate().map(|(n, held)| replica(&n.to_string(), *held, true)));
            // The last ones, for which the others stand by.
            let movable: Vec<&str> = IDS.iter().rev().copied().take(held).collect();
            let counts = others.iter().enumerate().map(|(n, held)| (n.to_string(), *held));
            let counts = counts.chain([("this".to_owned(), held)]).collect();
            for other in &mut replicas[1..] {
                // A replica that holds as many others.
                other.services.iter_mut().for_each(|service| service.state = ServiceState::Standby);
            }
            assert_eq!(to_hand_over(counts, &movable, &replicas, FRESH).len(), expected, "{held} here, {others:?}");
        }
    }

    #[test]
    fn replicas_of_another_program_do_not_count() {
        let counts = Counts::from([("this".to_owned(), 4), ("other".to_owned(), 100)]);
        let mut replicas = [replica("this", 4, true), replica("1", 0, true), replica("other", 0, true)];
        for service in &mut replicas[2].services {
            service.service_id = format!("other {}", service.service_id);
        }
        assert_eq!(to_hand_over(counts, &IDS[..4], &replicas, FRESH).len(), 2);
    }

    #[test]
    fn nothing_is_handed_over_to_a_replica_that_is_gone_or_does_not_stand_by() {
        let counts = || Counts::from([("this".to_owned(), 6)]);
        let gone = [replica("this", 6, true), replica("1", 0, false)];
        assert!(to_hand_over(counts(), &IDS, &gone, FRESH).is_empty());
        let mut busy = [replica("this", 6, true), replica("1", 0, true)];
        busy[1].services.iter_mut().for_each(|service| service.state = ServiceState::Failed);
        assert!(to_hand_over(counts(), &IDS, &busy, FRESH).is_empty());
        // It has just been killed, and its leases have expired.
        let mut silent = [replica("this", 6, true), replica("1", 0, true)];
        assert_eq!(to_hand_over(counts(), &IDS, &silent, FRESH).len(), 3);
        silent[1].seen_ms_ago = 7_001;
        assert!(to_hand_over(counts(), &IDS, &silent, FRESH).is_empty());
    }
}
