//! Finds the types that are requested of values which serde buffers: behind `flatten`, and in tagged and untagged
//! enums.
//!
//! A buffered value does not come back to the deserializer, so it cannot be converted when its type is known. Therefore
//! every value is first a probe: bytes that hardly any type accepts. The error names the first probe that was
//! requested, and the expected type. The probe is replaced by the value in that type, and the next attempt finds the
//! next one, until nothing is requested any more. If the variants of an enum request different types, each is tried. Of
//! all readings that succeed, the best is the one that leaves the fewest values of the highest layer unread, then of
//! the next one, and so on; then the one that keeps the types which text would have in the file (`12345` is a number);
//! then the first variant.

use std::collections::BTreeSet;

use super::describe::Describer;
use super::errors::{self, Error, Problem, Record, Request, TAG};
use super::forms::{Form, TIME, accepts, forms};
use super::path::{self, Path, Step};
use super::reader::{Nth, Read, Reader, ReaderState};
use super::secrets;
use crate::config::errors::ConfigError;
use crate::config::layers::Layer;
use crate::config::values::{Node, Table, Value};

/// If there are more values, only text from the environment becomes probes. If lists and tables that are text
/// have more values, these do not.
const MOST_PROBES: usize = 500;
/// Untagged enums in lists have very many combinations of variants.
const MOST_ATTEMPTS: usize = 2_000;

pub(super) struct Search<'a> {
    read: &'a Read<'a>,
    /// The settings. Each value is a probe, or the form that is tried.
    pub(super) settings: Value,
    pub(super) probes: Vec<Probe>,
    /// The number of probes at the start. Later ones are inside of texts.
    of_settings: usize,
    /// The probes that were requested in any attempt.
    pub(super) requested: BTreeSet<usize>,
    /// The probes that are the tag of an enum.
    tags: BTreeSet<usize>,
    /// The values of fields of type `Secret` that were read.
    secrets: BTreeSet<String>,
    attempts: usize,
    complete: bool,
    only_text: bool,
}

pub(super) struct Probe {
    pub(super) path: Path,
    /// The original value.
    pub(super) value: Value,
    /// A `Secret` requested it.
    pub(super) secret: bool,
}

/// The result of reading the settings once.
pub(super) struct Attempt {
    pub(super) result: Result<Nth, Error>,
    pub(super) record: Record,
    /// The probes that were buffered, or read by a type that accepts bytes.
    buffered: BTreeSet<usize>,
}

/// A reading that succeeded. The one with the least cost wins.
struct Reading {
    value: Nth,
    cost: Cost,
    /// The settings of the attempt.
    settings: Value,
    unread: BTreeSet<usize>,
}

/// The unread values, each by the order of its place, the highest first; and the number of texts that have another type
/// than in the file.
type Cost = (Vec<u32>, usize);

/// The error of the attempt that got furthest: with the most answers.
struct FurthestError {
    answers: usize,
    error: Error,
    path: Path,
}

/// The state of the search: how many requests are answered, how many answers have another type than in the file, and
/// the last request.
#[derive(Clone, Default)]
struct SearchProgress {
    answers: usize,
    retyped: usize,
    last: Option<Request>,
    /// The probes that other variants requested at the same time as those that are answered.
    declined: Vec<usize>,
}

impl SearchProgress {
    fn after(&self, request: &Request, form: &Form) -> Self {
        let retyped = self.retyped + usize::from(form.retyped);
        Self { answers: self.answers + 1, retyped, ..self.stopped_at(request) }
    }

    fn stopped_at(&self, request: &Request) -> Self {
        Self { last: Some(request.clone()), ..self.clone() }
    }

    /// One of several requests is answered next.
    fn only(&self, request: &Request, all: &[(Request, Vec<Form>)]) -> Self {
        let others = all.iter().map(|(other, _)| other.probe).filter(|other| *other != request.probe);
        Self { declined: self.declined.iter().copied().chain(others).collect(), ..self.clone() }
    }
}

/// What the search has found so far.
struct SearchResult {
    best: Option<Reading>,
    failure: Option<FurthestError>,
}

impl<'a> Search<'a> {
    /// Returns `None` if there are too many values.
    pub(super) fn new(read: &'a Read<'a>, settings: &Value, complete: bool) -> Option<Self> {
        let mut search = Self {
            read,
            settings: Value::Null,
            probes: Vec::new(),
            of_settings: 0,
            requested: BTreeSet::new(),
            tags: BTreeSet::new(),
            secrets: BTreeSet::new(),
            attempts: 0,
            complete,
            only_text: false,
        };
        for only_text in [false, true] {
            search.only_text = only_text;
            search.probes.clear();
            search.settings = search.with_probes(settings, &Path::new());
            if search.probes.len() <= MOST_PROBES {
                (search.only_text, search.of_settings) = (false, search.probes.len());
                return Some(search);
            }
        }
        None
    }

    /// Reads the settings as the type.
    ///
    /// # Errors
    /// The error of the attempt that got furthest.
    pub(super) fn run(&mut self, describer: &mut Describer<'_>) -> Result<Nth, ConfigError> {
        let mut found = SearchResult { best: None, failure: None };
        self.explore(SearchProgress::default(), &mut found);
        let typed = self.probes.iter().filter(|probe| probe.secret);
        let mut texts = Vec::from_iter(std::mem::take(&mut self.secrets));
        typed.for_each(|probe| secrets::collect(&probe.value, true, &mut texts));
        describer.hide(texts);
        match (found.best, found.failure) {
            (Some(best), _) => {
                self.settings = best.settings;
                let is_unknown = |probe: &usize| {
                    *probe < self.of_settings && !self.requested.contains(probe) && !self.is_of_lower_variant(*probe)
                };
                let unknown: Vec<usize> = best.unread.iter().copied().filter(is_unknown).collect();
                match unknown.into_iter().find(|probe| self.complete && self.is_unknown(*probe)) {
                    Some(probe) => Err(describer.unread(&self.probes[probe].path)),
                    None => Ok(best.value),
                }
            }
            (None, Some(failure)) => Err(describer.describe(&failure.error, &failure.path)),
            (None, None) => {
                let error = Problem::Message("they fit too many variants of enums to be tried".to_owned()).into();
                Err(describer.describe(&error, &[]))
            }
        }
    }

    /// Reads the settings as they are now, and answers every request that comes up. Returns whether no better reading
    /// can exist.
    fn explore(&mut self, mut progress: SearchProgress, found: &mut SearchResult) -> bool {
        loop {
            if self.attempts >= MOST_ATTEMPTS {
                return true;
            }
            let Attempt { result, mut record, buffered } = self.attempt();
            let failed = result.is_err();
            match result {
                Ok(value) => {
                    let mut unread: Vec<u32> = buffered.iter().map(|probe| self.order(*probe)).collect();
                    unread.sort_unstable_by_key(|order| std::cmp::Reverse(*order));
                    let cost = (unread, progress.retyped);
                    let is_perfect = cost == (Vec::new(), 0);
                    if found.best.as_ref().is_none_or(|best| cost < best.cost) {
                        found.best = Some(self.reading(value, cost, buffered));
                    }
                    if is_perfect {
                        return true;
                    }
                    // If another variant gets its values as well, those of this one are unread, but are no probes any
                    // more.
                    record.requests.retain(|request| !progress.declined.contains(&request.probe));
                }
                Err(error) if self.rename_key(&error) => continue,
                Err(error) if record.requests.is_empty() => self.note(error, record.errors, &progress, found),
                // The requests are answered below.
                Err(_) => {}
            }
            let mut requests = self.with_forms(record.requests);
            // One answer to one request, as always without enums: no need to return here.
            if let [(request, forms)] = requests.as_slice()
                && let [form] = forms.as_slice()
            {
                self.give(request, form);
                progress = progress.after(request, form);
                continue;
            }
            // Variants for which a text has another type than in the file come later.
            requests.sort_by_key(|(_, forms)| forms.first().is_some_and(|form| form.retyped));
            return requests.iter().any(|(request, forms)| {
                // Where the settings could be read, the requests are not of variants that exclude each other.
                let progress = if failed { progress.only(request, &requests) } else { progress.clone() };
                self.choose(request, forms, &progress, found)
            });
        }
    }

    /// Tries each form as the answer to one request. Returns whether no better reading can exist.
    fn choose(
        &mut self,
        request: &Request,
        forms: &[Form],
        progress: &SearchProgress,
        found: &mut SearchResult,
    ) -> bool {
        if forms.is_empty() {
            self.note(request.refuse(&self.probes[request.probe].value), 1, &progress.stopped_at(request), found);
        }
        let before = found.best.as_ref().map(|best| best.cost.clone());
        for form in forms {
            let (settings, probes) = (self.settings.clone(), self.probes.len());
            self.give(request, form);
            let done = self.explore(progress.after(request, form), found);
            self.settings = settings;
            self.probes.truncate(probes);
            if done {
                return true;
            }
            // The next form is only for the case that this one is not accepted.
            if found.best.as_ref().map(|best| &best.cost) != before.as_ref() {
                break;
            }
        }
        false
    }

    /// Keeps the error if no earlier attempt got as far.
    fn note(&mut self, error: Error, errors: usize, progress: &SearchProgress, found: &mut SearchResult) {
        if found.failure.as_ref().is_some_and(|known| known.answers >= progress.answers) {
            return;
        }
        let error = match progress.last.as_ref().filter(|request| request.secret && error.is_of_secret()) {
            Some(request) => request.refuse(&self.probes[request.probe].value),
            None => error,
        };
        let path = self.blame(&error, progress.last.as_ref(), errors);
        found.failure = Some(FurthestError { answers: progress.answers, error, path });
    }

    pub(super) fn attempt(&mut self) -> Attempt {
        self.attempts += 1;
        let shared = ReaderState::new(self.complete);
        let (result, record) = errors::recorded(|| (self.read)(&Reader::root(&self.settings, &shared)));
        self.tags.extend(shared.tags());
        for Request { probe, secret, expected, .. } in &record.requests {
            self.requested.insert(*probe);
            self.tags.extend((expected == TAG).then_some(*probe));
            self.probes[*probe].secret |= secret;
        }
        self.secrets.extend(shared.typed_secrets());
        Attempt { result, record, buffered: shared.probes() }
    }

    /// A reading with unread probes. A type may have accepted the bytes of a probe, so the probes are replaced by their
    /// values, if the settings can be read then, too. A probe that only another variant of an enum reads stays: with
    /// its value, that variant could be the first one that fits.
    fn reading(&mut self, value: Nth, cost: Cost, unread: BTreeSet<usize>) -> Reading {
        let settings = self.settings.clone();
        let mut others = unread.clone();
        others.retain(|probe| self.requested.contains(probe) && !self.is_read(*probe));
        for probe in unread.difference(&others) {
            let Probe { path, value, .. } = &self.probes[*probe];
            let value = match value {
                Value::Text { text, .. } => Value::Str(text.clone()),
                other => other.clone(),
            };
            self.put(&path.clone(), value);
        }
        let value = if unread.is_empty() { value } else { self.attempt().result.unwrap_or(value) };
        self.settings = settings.clone();
        Reading { value, cost, settings, unread }
    }

    /// The order of the place of a value.
    fn order(&self, probe: usize) -> u32 {
        path::find(&self.settings, &self.probes[probe].path).origin.map_or(0, |origin| origin.order)
    }

    /// Whether a later place than that of the value sets the tag of an enum that contains the value. The value then may
    /// belong to the variant of the earlier place. If the enum is flattened into the settings, only their direct values
    /// count: tables beside the tag are mostly those of other fields.
    fn is_of_lower_variant(&self, probe: usize) -> bool {
        let path = &self.probes[probe].path;
        let contains = |tag: &Path| {
            tag.split_last().is_some_and(|(_, table)| path.starts_with(table) && (!table.is_empty() || path.len() == 1))
        };
        self.tags.iter().any(|tag| contains(&self.probes[*tag].path) && self.order(*tag) > self.order(probe))
    }

    /// Whether nothing reads a value, which is not set for every service.
    fn is_unknown(&mut self, probe: usize) -> bool {
        let path = &self.probes[probe].path;
        let is_for_all = path::find(&self.settings, path).origin.is_some_and(|origin| origin.is_set_for_all());
        !is_for_all && !self.is_read(probe)
    }

    /// Whether something reads a value: it cannot have any type.
    fn is_read(&mut self, probe: usize) -> bool {
        let path = self.probes[probe].path.clone();
        let before = self.put(&path, Value::Table(Table::new()));
        let is_read = self.attempt().result.is_err();
        self.put(&path, before);
        is_read
    }

    /// Names of environment variables have no case and no `-`. If an error requests a name, one that differs only in
    /// these is renamed.
    fn rename_key(&mut self, error: &Error) -> bool {
        let name = match &error.problem {
            Problem::Missing(field) => Some(*field),
            Problem::UnknownField { field: name, known } | Problem::UnknownVariant { variant: name, known } => {
                known.iter().copied().find(|known| Layer::Environment.is_meant(name, known))
            }
            _ => None,
        };
        let Some(name) = name else { return false };
        let Some((table, key)) = find_variable(&self.settings, name) else { return false };
        let Some(Value::Table(entries)) = path::find_mut(&mut self.settings, &table) else { return false };
        entries.remove(&key).into_iter().for_each(|node| drop(entries.insert(name.to_owned(), node)));
        let (depth, before) = (table.len(), [table.as_slice(), &[Step::Key(key)]].concat());
        for probe in self.probes.iter_mut().filter(|probe| probe.path.starts_with(&before)) {
            probe.path[depth] = Step::Key(name.to_owned());
        }
        true
    }

    /// Replaces a probe by a form of its value. The values inside become probes, if they are not too many. The parts of
    /// a time do not: they would be times themselves.
    fn give(&mut self, request: &Request, form: &Form) {
        let path = self.probes[request.probe].path.clone();
        let value = match path::find(&self.settings, &path).origin {
            Some(origin) => Node::new(form.value.clone(), origin).value,
            None => form.value.clone(),
        };
        let before = self.probes.len();
        let mut probed = self.with_items_as_probes(value.clone(), &path);
        if self.probes.len() - self.of_settings > MOST_PROBES || request.expected == TIME {
            self.probes.truncate(before);
            probed = value;
        }
        self.put(&path, probed);
    }

    /// Replaces a value of the settings, and returns the old one.
    fn put(&mut self, path: &Path, value: Value) -> Value {
        match path::find_mut(&mut self.settings, path) {
            Some(place) => std::mem::replace(place, value),
            None => value,
        }
    }

    /// Copies a value, and replaces every value inside by a probe.
    fn with_probes(&mut self, value: &Value, path: &Path) -> Value {
        match value {
            Value::List(_) | Value::Table(_) => self.with_items_as_probes(value.clone(), path),
            // Reading it is an error in any type.
            Value::Broken { .. } => value.clone(),
            Value::Text { .. } => self.probe(value, path),
            _ if self.only_text => value.clone(),
            _ => self.probe(value, path),
        }
    }

    fn probe(&mut self, value: &Value, path: &Path) -> Value {
        let number = self.probes.len();
        self.probes.push(Probe { path: path.clone(), value: value.clone(), secret: false });
        Value::Probe { number, value: Box::new(value.clone()) }
    }

    fn with_items_as_probes(&mut self, value: Value, path: &Path) -> Value {
        let mut below = |node: &mut Node, step: Step| {
            let path = [path.as_slice(), &[step]].concat();
            node.value = self.with_probes(&node.value, &path);
        };
        match value {
            Value::List(mut items) => {
                items.iter_mut().enumerate().for_each(|(n, item)| below(item, Step::Item(n)));
                Value::List(items)
            }
            Value::Table(mut table) => {
                table.iter_mut().for_each(|(key, node)| below(node, Step::Key(key.clone())));
                Value::Table(table)
            }
            other => other,
        }
    }

    /// The requests with the possible answers, each request once. A time comes before the types that may not accept its
    /// text: else a later variant, such as a string, would accept the text.
    fn with_forms(&self, requests: Vec<Request>) -> Vec<(Request, Vec<Form>)> {
        let mut all: Vec<(Request, Vec<Form>)> = Vec::new();
        for request in requests {
            if !all.iter().any(|(known, _)| known.probe == request.probe && known.expected == request.expected) {
                let Probe { path, value, .. } = &self.probes[request.probe];
                let forms = forms(value, &request.expected, matches!(path.last(), Some(Step::Item(_))));
                let mut earlier = all.iter().filter(|(known, _)| known.probe == request.probe);
                let is_accepted = earlier.any(|(known, forms)| {
                    forms.first().is_some_and(|form| !form.retyped && accepts(&known.expected, &form.value))
                });
                let first = all.iter().position(|(known, _)| known.probe == request.probe);
                let is_first = request.expected == TIME && !forms.is_empty() && !is_accepted;
                all.insert(first.filter(|_| is_first).unwrap_or(all.len()), (request, forms));
            }
        }
        all
    }
}

impl Request {
    /// The error that a value does not have the expected type.
    fn refuse(&self, value: &Value) -> Error {
        let (unexpected, expected) = (value.kind().to_owned(), self.expected.clone());
        Error { secret: self.secret, ..Error::from(Problem::InvalidType { unexpected, expected }) }
    }
}

/// Finds a key from the environment that is meant to be this name. Returns its table and the key.
fn find_variable(value: &Value, name: &str) -> Option<(Path, String)> {
    let Value::Table(table) = value else { return None };
    let is_meant = |key: &str, node: &Node| key != name && node.origin.layer.is_meant(key, name);
    if let Some((key, _)) = table.iter().find(|(key, node)| is_meant(key, node) && !table.contains_key(name)) {
        return Some((Path::new(), key.clone()));
    }
    table.iter().find_map(|(key, node)| {
        let (path, found) = find_variable(&node.value, name)?;
        Some(([vec![Step::Key(key.clone())], path].concat(), found))
    })
}
