//! Values that serde holds back before their type asks for them: behind `flatten`, and in enums with a tag or without one.
//! What a type asks for is then found out by trying.
//!
//! Every value is shown to the type as a probe: bytes that nothing takes. The error says which probe was asked for first and
//! what was expected; it is given that, and so on, until all that is asked for is there. Where several variants of an enum ask
//! for different things, each is tried. Of all that can be read, the reading counts that leaves the fewest values unread, then
//! the one that takes text for what it would be in the file (`12345` for a number), then the first variant.

use std::collections::BTreeSet;

use super::describe::Describer;
use super::errors::{self, Asked, Error, Kind, Record};
use super::forms::{Form, forms};
use super::path::{self, Path, Step};
use super::reader::{Nth, Read, Reader, Shared};
use crate::config::errors::ConfigError;
use crate::config::layers::{FOR_ALL, Layer};
use crate::config::values::{Node, Table, Value};

/// With more values than that, only text of the environment is shown as probes.
const MOST_PROBES: usize = 500;
/// Untagged enums within lists could be tried in very many ways.
const MOST_ATTEMPTS: usize = 2_000;

pub(super) struct Search<'a> {
    read: &'a Read<'a>,
    /// The settings, each value a probe or what was last tried in its place.
    pub(super) settings: Value,
    pub(super) probes: Vec<Probe>,
    /// Probes that were ever asked for.
    pub(super) asked: BTreeSet<usize>,
    attempts: usize,
    complete: bool,
    only_text: bool,
}

pub(super) struct Probe {
    pub(super) path: Path,
    /// What stands there.
    pub(super) value: Value,
    /// By a `Secret` that asked for it.
    pub(super) secret: bool,
}

/// One try to read the settings.
pub(super) struct Attempt {
    pub(super) result: Result<Nth, Error>,
    pub(super) record: Record,
    /// The probes that were taken without being asked for anything.
    held_back: BTreeSet<usize>,
}

/// A way to read the settings. The least cost counts.
struct Reading {
    value: Nth,
    /// Values that are left unread, and texts that are taken for something else than in the file.
    cost: (usize, usize),
    /// Settings and probes as they were.
    settings: Value,
    unread: BTreeSet<usize>,
}

/// The way that led furthest to an error: how many values were given, the last of them, and the error.
struct Failure {
    given: usize,
    error: Error,
    path: Path,
}

/// Where an attempt stands: how many values were given, how many of them for something else than in the file, and the last.
#[derive(Default)]
struct Progress {
    given: usize,
    unnatural: usize,
    last: Option<Asked>,
}

impl Progress {
    fn after(&self, asked: &Asked, form: &Form) -> Self {
        let unnatural = self.unnatural + usize::from(form.unnatural);
        Self { given: self.given + 1, unnatural, last: Some(asked.clone()) }
    }

    fn asked_for(&self, asked: &Asked) -> Self {
        Self { given: self.given, unnatural: self.unnatural, last: Some(asked.clone()) }
    }
}

struct Found {
    best: Option<Reading>,
    failure: Option<Failure>,
}

impl<'a> Search<'a> {
    /// `None`: there are too many values.
    pub(super) fn new(read: &'a Read<'a>, settings: &Value, complete: bool) -> Option<Self> {
        let mut search = Self {
            read,
            settings: Value::Null,
            probes: Vec::new(),
            asked: BTreeSet::new(),
            attempts: 0,
            complete,
            only_text: false,
        };
        for only_text in [false, true] {
            search.only_text = only_text;
            search.probes.clear();
            search.settings = search.with_probes(settings, &Path::new());
            if search.probes.len() <= MOST_PROBES {
                return Some(search);
            }
        }
        None
    }

    /// Reads the settings as the type.
    ///
    /// # Errors
    /// That of the way that led furthest.
    pub(super) fn run(&mut self, describer: &mut Describer<'_>) -> Result<Nth, ConfigError> {
        let of_settings = self.probes.len();
        let mut found = Found { best: None, failure: None };
        self.explore(Progress::default(), &mut found);
        let secrets = self.probes.iter().filter(|probe| probe.secret);
        let mut texts = Vec::new();
        secrets.for_each(|probe| probe.value.secrets(true, &mut texts));
        describer.hide(texts);
        match (found.best, found.failure) {
            (Some(best), _) => {
                let unknown = best.unread.iter().filter(|probe| **probe < of_settings && !self.asked.contains(probe));
                let unknown: Vec<usize> = unknown.copied().collect();
                self.settings = best.settings;
                match unknown.into_iter().find(|probe| self.complete && self.is_unknown(*probe)) {
                    Some(probe) => Err(describer.unread(&self.probes[probe].path)),
                    None => Ok(best.value),
                }
            }
            (None, Some(failure)) => Err(describer.describe(&failure.error, &failure.path)),
            (None, None) => {
                let error = Kind::Message("they fit too many variants of enums to be tried".to_owned()).into();
                Err(describer.describe(&error, &[]))
            }
        }
    }

    /// Tries what stands there now, and everything that the type then asks for. `true`: nothing better can be found.
    fn explore(&mut self, mut progress: Progress, found: &mut Found) -> bool {
        loop {
            if self.attempts == MOST_ATTEMPTS {
                return true;
            }
            let Attempt { result, record, held_back } = self.attempt();
            match result {
                Ok(value) => {
                    let cost = (held_back.len(), progress.unnatural);
                    if found.best.as_ref().is_none_or(|best| cost < best.cost) {
                        found.best = Some(self.reading(value, cost, held_back));
                    }
                    if cost == (0, 0) {
                        return true;
                    }
                }
                Err(error) if self.rename_key(&error) => continue,
                Err(error) if record.asked.is_empty() => self.note(error, record.errors, &progress, found),
                // What was asked for is given below.
                Err(_) => {}
            }
            let mut questions = self.questions(record.asked);
            // Nothing to choose, as it is without enums: no need to come back here.
            if let [(asked, forms)] = questions.as_slice()
                && let [form] = forms.as_slice()
            {
                self.give(asked, form);
                progress = progress.after(asked, form);
                continue;
            }
            // Variants that would take a text for something else than in the file come later.
            questions.sort_by_key(|(_, forms)| forms.first().is_some_and(|form| form.unnatural));
            return questions.iter().any(|(asked, forms)| self.choose(asked, forms, &progress, found));
        }
    }

    /// Tries each form for one question. `true`: nothing better can be found.
    fn choose(&mut self, asked: &Asked, forms: &[Form], progress: &Progress, found: &mut Found) -> bool {
        if forms.is_empty() {
            self.note(asked.refuse(&self.probes[asked.probe].value), 1, &progress.asked_for(asked), found);
        }
        let before = found.best.as_ref().map(|best| best.cost);
        for form in forms {
            let (settings, probes) = (self.settings.clone(), self.probes.len());
            self.give(asked, form);
            let done = self.explore(progress.after(asked, form), found);
            self.settings = settings;
            self.probes.truncate(probes);
            if done {
                return true;
            }
            // Another form is only for where this one is not taken.
            if found.best.as_ref().map(|best| best.cost) != before {
                break;
            }
        }
        false
    }

    /// Notes the error of a way that led further than those before.
    fn note(&mut self, error: Error, errors: usize, progress: &Progress, found: &mut Found) {
        if found.failure.as_ref().is_some_and(|known| known.given >= progress.given) {
            return;
        }
        let error = match progress.last.as_ref().filter(|asked| asked.secret && error.is_of_secret()) {
            Some(asked) => asked.refuse(&self.probes[asked.probe].value),
            None => error,
        };
        let path = self.blame(&error, progress.last.as_ref(), errors);
        found.failure = Some(Failure { given: progress.given, error, path });
    }

    pub(super) fn attempt(&mut self) -> Attempt {
        self.attempts += 1;
        let shared = Shared::new(self.complete);
        let (result, record) = errors::recorded(|| (self.read)(&Reader::root(&self.settings, &shared)));
        for Asked { probe, secret, .. } in &record.asked {
            self.asked.insert(*probe);
            self.probes[*probe].secret |= secret;
        }
        Attempt { result, record, held_back: shared.probes() }
    }

    /// A value that was read while some values were not asked for. Something may have taken a probe's bytes without a word,
    /// so the values themselves are put there, if it is read then, too.
    fn reading(&mut self, value: Nth, cost: (usize, usize), unread: BTreeSet<usize>) -> Reading {
        let settings = self.settings.clone();
        for probe in &unread {
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

    /// Whether a value could be anything, as nothing reads it.
    fn is_unknown(&mut self, probe: usize) -> bool {
        let path = self.probes[probe].path.clone();
        let is_for_all = path::find(&self.settings, &path).origin.is_some_and(|o| o.place.ends_with(FOR_ALL));
        let before = self.put(&path, Value::Table(Table::new()));
        let is_read = self.attempt().result.is_err();
        self.put(&path, before);
        !is_read && !is_for_all
    }

    /// Names of environment variables have no case: one of them may be meant for the name that an error asks for.
    fn rename_key(&mut self, error: &Error) -> bool {
        let name = match &error.kind {
            Kind::Missing(field) => Some(*field),
            Kind::UnknownField { field: name, known } | Kind::UnknownVariant { variant: name, known } => {
                known.iter().copied().find(|known| known.eq_ignore_ascii_case(name))
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

    /// Gives what was asked for in place of a probe; what is in it is probes again.
    fn give(&mut self, asked: &Asked, form: &Form) {
        let path = self.probes[asked.probe].path.clone();
        let value = match path::find(&self.settings, &path).origin {
            Some(origin) => Node::new(form.value.clone(), origin).value,
            None => form.value.clone(),
        };
        let value = self.with_items_as_probes(value, &path);
        self.put(&path, value);
    }

    /// Puts a value into the settings, and returns what stood there.
    fn put(&mut self, path: &Path, value: Value) -> Value {
        match path::find_mut(&mut self.settings, path) {
            Some(place) => std::mem::replace(place, value),
            None => value,
        }
    }

    /// A copy in which every value is a probe.
    fn with_probes(&mut self, value: &Value, path: &Path) -> Value {
        match value {
            Value::List(_) | Value::Table(_) => self.with_items_as_probes(value.clone(), path),
            // These are errors wherever they are used.
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

    /// What can be given for each question, each question once.
    fn questions(&self, asked: Vec<Asked>) -> Vec<(Asked, Vec<Form>)> {
        let mut all: Vec<(Asked, Vec<Form>)> = Vec::new();
        for asked in asked {
            if !all.iter().any(|(known, _)| known.probe == asked.probe && known.expected == asked.expected) {
                let forms = forms(&self.probes[asked.probe].value, &asked.expected);
                all.push((asked, forms));
            }
        }
        all
    }
}

impl Asked {
    /// The error of a value that is not what was expected.
    fn refuse(&self, value: &Value) -> Error {
        let (unexpected, expected) = (value.kind().to_owned(), self.expected.clone());
        Error { secret: self.secret, ..Error::from(Kind::InvalidType { unexpected, expected }) }
    }
}

/// A key that comes from the environment and has this name, but for the case of its letters; and its table.
fn find_variable(value: &Value, name: &str) -> Option<(Path, String)> {
    let Value::Table(table) = value else { return None };
    let is_meant = |key: &str, node: &Node| {
        key != name && key.eq_ignore_ascii_case(name) && node.origin.layer == Layer::Environment
    };
    if let Some((key, _)) = table.iter().find(|(key, node)| is_meant(key, node) && !table.contains_key(name)) {
        return Some((Path::new(), key.clone()));
    }
    table.iter().find_map(|(key, node)| {
        let (path, found) = find_variable(&node.value, name)?;
        Some(([vec![Step::Key(key.clone())], path].concat(), found))
    })
}
