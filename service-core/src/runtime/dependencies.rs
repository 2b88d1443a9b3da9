//! The order in which services start, by `depends_on`, and the errors in it. They stop in the reverse order, those that
//! are `stop_last` after all others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::options::Options;
use crate::runtime::registration::{RegisteredAt, RegisteredService};
use crate::suggest;

/// The services, by id, and the ids that each depends on. A name that stands for several services is a node, too, which
/// depends on all of them.
type Graph<'a> = BTreeMap<&'a str, Vec<&'a str>>;

/// Sorts services into tiers: each tier depends only on earlier ones. Unknown ids are left out.
///
/// # Errors
/// There is a cycle: the ids along it; the first id is repeated at the end.
pub(crate) fn tiers<'a>(depends_on: &Graph<'a>) -> Result<Vec<Vec<&'a str>>, Vec<&'a str>> {
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
    depends_on: &Graph<'a>,
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

/// Returns these services and all that they depend on. Unknown ids are left out.
fn with_dependencies<'a>(services: Vec<&'a str>, graph: &Graph<'a>) -> BTreeSet<&'a str> {
    let (mut found, mut next) = (BTreeSet::new(), services);
    while let Some(id) = next.pop() {
        if let Some((id, depends_on)) = graph.get_key_value(id)
            && found.insert(*id)
        {
            next.extend(depends_on);
        }
    }
    found
}

/// Sorts services into tiers, in the order of the start. The services of one tier start concurrently.
pub(crate) fn start_tiers(services: Vec<Arc<RegisteredService>>) -> Vec<Vec<Arc<RegisteredService>>> {
    let options = options(&services);
    if options.iter().all(|options| options.depends_on.is_empty()) {
        // With many services, the graph takes as long as the start itself.
        return vec![services];
    }
    let Ok(tiers) = tiers(&graph(&services, &options)) else {
        // Registering rejects cycles. If there is one anyway, all services are in one tier.
        return vec![services];
    };
    members(tiers, &by_id(&services))
}

/// Sorts services into tiers, in the order of the stop: first those that are not `stop_last`, then those that are, with
/// the services they depend on; both in the reverse order of the start. The services of one tier stop at the same time.
/// A service that belongs to the instance of another one is in the tier of that one; or before it, if a service in
/// between depends on that one. Within a tier, such services may depend on each other: they stop in steps.
pub(crate) fn stop_tiers(services: Vec<Arc<RegisteredService>>) -> Vec<Vec<Vec<Arc<RegisteredService>>>> {
    let options = options(&services);
    if options.iter().all(|options| options.depends_on.is_empty() && !options.stop_last) {
        return vec![vec![services]];
    }
    let all_roots: BTreeMap<&str, Arc<str>> = services.iter().map(|service| (&**service.id(), root(service))).collect();
    let no_roots = BTreeMap::new();
    let all_edges = self::graph(&services, &options);
    let by_root = merged(&all_edges, &all_roots);
    let (graph, roots) = match tiers(&by_root) {
        Ok(_) => (by_root, &all_roots),
        Err(_cycle) => (with_parents(all_edges.clone(), &services), &no_roots),
    };
    let mut groups: BTreeMap<&str, Vec<Arc<RegisteredService>>> = BTreeMap::new();
    let mut stop_last = Vec::new();
    for (service, options) in services.iter().zip(&options) {
        let root = root_of(service.id(), roots);
        groups.entry(root).or_default().push(service.clone());
        if options.stop_last {
            stop_last.push(root);
        }
    }
    let last = with_dependencies(stop_last, &graph);
    let mut all = Vec::new();
    // A service in `last` depends only on others in `last`.
    for is_last in [false, true] {
        let part: Graph<'_> =
            graph.iter().filter(|(id, _)| last.contains(*id) == is_last).map(|(id, on)| (*id, on.clone())).collect();
        let tiers = tiers(&part).unwrap_or_else(|_cycle| vec![part.keys().copied().collect()]);
        all.extend(tiers.into_iter().rev());
    }
    let services_of =
        |tier: Vec<&str>| tier.into_iter().filter_map(|root| groups.remove(root)).flatten().collect::<Vec<_>>();
    let is_group = |name: &str| !all_roots.contains_key(name);
    let tiers = all.into_iter().map(services_of).filter(|tier| !tier.is_empty());
    tiers.map(|tier| steps(&tier, &all_edges, is_group)).collect()
}

/// Sorts services into steps: a service stops after all services that depend on it, and as early as that allows.
fn steps(
    services: &[Arc<RegisteredService>],
    graph: &Graph<'_>,
    is_group: impl Fn(&str) -> bool,
) -> Vec<Vec<Arc<RegisteredService>>> {
    let by_id = by_id(services);
    let mut dependents: Graph<'_> = by_id.keys().map(|id| (*id, Vec::new())).collect();
    for (id, depends_on) in graph.iter().filter(|(id, _)| by_id.contains_key(*id) || is_group(id)) {
        for dependency in depends_on.iter().filter(|id| by_id.contains_key(*id) || is_group(id)) {
            dependents.entry(dependency).or_default().push(id);
        }
    }
    // Registering rejects cycles.
    tiers(&dependents).map_or_else(|_cycle| vec![services.to_vec()], |tiers| members(tiers, &by_id))
}

type ById<'a> = BTreeMap<&'a str, &'a Arc<RegisteredService>>;

fn by_id(services: &[Arc<RegisteredService>]) -> ById<'_> {
    services.iter().map(|service| (&**service.id(), service)).collect()
}

/// Returns the services of these tiers. Names that stand for several services are left out.
fn members(tiers: Vec<Vec<&str>>, by_id: &ById<'_>) -> Vec<Vec<Arc<RegisteredService>>> {
    let members = |tier: Vec<&str>| -> Vec<Arc<RegisteredService>> {
        tier.into_iter().filter_map(|id| by_id.get(id).map(|service| (*service).clone())).collect()
    };
    tiers.into_iter().map(members).filter(|tier| !tier.is_empty()).collect()
}

/// Returns the graph of the roots.
fn merged<'a>(graph: &Graph<'a>, roots: &'a BTreeMap<&str, Arc<str>>) -> Graph<'a> {
    let mut merged = Graph::new();
    for (id, depends_on) in graph {
        let root = root_of(id, roots);
        merged.entry(root).or_default().extend(depends_on.iter().map(|id| root_of(id, roots)).filter(|id| *id != root));
    }
    merged
}

/// Returns the graph in which each service also depends on its parent.
fn with_parents<'a>(mut graph: Graph<'a>, services: &'a [Arc<RegisteredService>]) -> Graph<'a> {
    for service in services {
        let parent = service.parent().and_then(|parent| Some(*graph.get_key_value(&**parent.id())?.0));
        if let Some((depends_on, parent)) = graph.get_mut(&**service.id()).zip(parent) {
            depends_on.push(parent);
        }
    }
    graph
}

/// Returns the root of a service; of a name that stands for several, the name.
fn root_of<'a>(id: &'a str, roots: &'a BTreeMap<&str, Arc<str>>) -> &'a str {
    roots.get(id).map_or(id, |root| root)
}

/// Returns the id of the service that has no parent, up the line of parents.
fn root(service: &Arc<RegisteredService>) -> Arc<str> {
    let mut root = service.clone();
    while let Some(parent) = root.parent() {
        root = parent;
    }
    root.id().clone()
}

fn options(services: &[Arc<RegisteredService>]) -> Vec<Arc<Options>> {
    services.iter().map(|service| service.inner.lock().requests.options.clone()).collect()
}

/// A service, and what the order depends on.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    pub(crate) id: &'a str,
    /// The names that stand for this service and others.
    pub(crate) group_names: [Option<&'a str>; 2],
    pub(crate) depends_on: &'a [String],
    /// Its dependencies have to exist. Those of an old service may have been unregistered.
    pub(crate) is_new: bool,
    pub(crate) place: RegisteredAt,
}

impl<'a> Node<'a> {
    fn new(service: &'a RegisteredService, options: &'a Options, is_new: bool) -> Self {
        let (group_names, depends_on) = (service.group_names(), options.depends_on.as_slice());
        Self { id: service.id(), group_names, depends_on, is_new, place: service.place }
    }
}

fn graph<'a>(services: &'a [Arc<RegisteredService>], options: &'a [Arc<Options>]) -> Graph<'a> {
    graph_of(services.iter().zip(options).map(|(service, options)| Node::new(service, options, false)))
}

fn graph_of<'a>(nodes: impl Iterator<Item = Node<'a>> + Clone) -> Graph<'a> {
    let edges = |node: Node<'a>| (node.id, node.depends_on.iter().map(String::as_str).collect());
    let mut graph: Graph<'a> = nodes.clone().map(edges).collect();
    let mut groups = Graph::new();
    for node in nodes {
        for name in node.group_names.into_iter().flatten().filter(|name| !graph.contains_key(name)) {
            groups.entry(name).or_default().push(node.id);
        }
    }
    graph.extend(groups);
    graph
}

/// Returns messages about unknown ids and cycles in the dependencies of new services. Unknown ids in the dependencies
/// of old services are not reported: these may have been unregistered. `wrong` are names of services with other
/// mistakes.
pub(crate) fn check(new: &[Arc<RegisteredService>], old: &[Arc<RegisteredService>], wrong: &[String]) -> Vec<String> {
    let all: Vec<Arc<RegisteredService>> = new.iter().chain(old).cloned().collect();
    let options = options(&all);
    check_with(&all, &options, new.len(), wrong)
}

/// As [`check`], if the services have these options. The first `new` of them are new.
pub(crate) fn check_with(
    all: &[Arc<RegisteredService>],
    options: &[Arc<Options>],
    new: usize,
    wrong: &[String],
) -> Vec<String> {
    let nodes: Vec<Node<'_>> = all
        .iter()
        .zip(options)
        .enumerate()
        .map(|(number, (service, options))| Node::new(service, options, number < new))
        .collect();
    check_nodes(&nodes, wrong)
}

/// As [`check`], for services that need not exist yet.
pub(crate) fn check_nodes(nodes: &[Node<'_>], wrong: &[String]) -> Vec<String> {
    let graph = graph_of(nodes.iter().copied());
    let mut problems = Vec::new();
    for node in nodes.iter().filter(|node| node.is_new) {
        for dependency in node.depends_on.iter().map(String::as_str) {
            if graph.contains_key(dependency) || wrong.iter().any(|name| name == dependency) {
                continue;
            }
            let hint = suggest::hint(dependency, graph.keys().copied().chain(wrong.iter().map(String::as_str)));
            let Node { id, place, .. } = node;
            problems.push(format!("service `{id}` ({place}) depends on `{dependency}`, which is not registered{hint}"));
        }
    }
    if let Err(cycle) = tiers(&graph) {
        problems.push(format!("services depend on each other in a cycle: {}", cycle.join(" -> ")));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_in_earlier_tiers() {
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
    fn the_dependencies_of_services_include_those_of_their_dependencies() {
        let graph = BTreeMap::from([
            ("web", vec!["cache", "gone"]),
            ("cache", vec!["db"]),
            ("db", vec![]),
            ("worker", vec!["db"]),
        ]);
        assert_eq!(with_dependencies(vec!["web"], &graph), BTreeSet::from(["web", "cache", "db"]));
        assert_eq!(with_dependencies(vec![], &graph), BTreeSet::new());
        let cycle = BTreeMap::from([("a", vec!["b"]), ("b", vec!["a"])]);
        assert_eq!(with_dependencies(vec!["a"], &cycle), BTreeSet::from(["a", "b"]));
    }

    #[test]
    fn the_error_for_a_cycle_lists_its_ids_in_order() {
        let graph = BTreeMap::from([("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["b"])]);
        assert_eq!(tiers(&graph), Err(vec!["b", "c", "b"]));
        assert_eq!(tiers(&BTreeMap::from([("me", vec!["me"])])), Err(vec!["me", "me"]));
    }
}
