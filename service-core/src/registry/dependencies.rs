//! In which order services start: those that others depend on first; and the other way round for stopping.

use std::collections::BTreeMap;

/// The services in tiers: each tier depends only on earlier ones. Unknown ids are left out.
///
/// # Errors
/// One cycle, as the ids along it, the first one also last.
pub(crate) fn tiers<'a>(depends_on: &BTreeMap<&'a str, Vec<&'a str>>) -> Result<Vec<Vec<&'a str>>, Vec<&'a str>> {
    let mut depth: BTreeMap<&str, usize> = BTreeMap::new();
    let mut path = Vec::new();
    for id in depends_on.keys() {
        visit(id, depends_on, &mut depth, &mut path)?;
    }
    let mut tiers: Vec<Vec<&str>> = Vec::new();
    for id in depends_on.keys() {
        let tier = depth.get(id).copied().unwrap_or_default();
        if tiers.len() <= tier {
            tiers.resize_with(tier + 1, Vec::new);
        }
        tiers[tier].push(id);
    }
    Ok(tiers)
}

fn visit<'a>(
    id: &'a str,
    depends_on: &BTreeMap<&'a str, Vec<&'a str>>,
    depth: &mut BTreeMap<&'a str, usize>,
    path: &mut Vec<&'a str>,
) -> Result<usize, Vec<&'a str>> {
    if let Some(known) = depth.get(id) {
        return Ok(*known);
    }
    if let Some(start) = path.iter().position(|on_path| *on_path == id) {
        let mut cycle = path[start..].to_vec();
        cycle.push(id);
        return Err(cycle);
    }
    path.push(id);
    let mut deepest = 0;
    for dependency in depends_on.get(id).into_iter().flatten() {
        if depends_on.contains_key(dependency) {
            deepest = deepest.max(visit(dependency, depends_on, depth, path)? + 1);
        }
    }
    path.pop();
    depth.insert(id, deepest);
    Ok(deepest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_the_rest_side_by_side() {
        let graph = BTreeMap::from([
            ("api", vec!["cache", "queue"]),
            ("cache", vec!["db"]),
            ("queue", vec!["db"]),
            ("db", vec![]),
            ("alone", vec![]),
        ]);
        assert_eq!(tiers(&graph), Ok(vec![vec!["alone", "db"], vec!["cache", "queue"], vec!["api"]]));
    }

    #[test]
    fn a_cycle_is_named_along_its_way() {
        let graph = BTreeMap::from([("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["b"])]);
        assert_eq!(tiers(&graph), Err(vec!["b", "c", "b"]));
        assert_eq!(tiers(&BTreeMap::from([("me", vec!["me"])])), Err(vec!["me", "me"]));
    }
}
