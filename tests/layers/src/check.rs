//! Checks the rules, and prints which module uses which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use crate::source::Sources;

/// The layers of a crate.
pub(crate) struct Layers {
    pub(crate) name: &'static str,
    /// The top-level modules, lowest layer first.
    pub(crate) modules: &'static [&'static [&'static str]],
    /// Features whose folder has another name than the feature.
    pub(crate) features: &'static [(&'static str, &'static str)],
    pub(crate) root_only_reexports: bool,
}

impl Layers {
    /// Returns the layer of a module as a number. A higher layer has a greater number; the root is above all layers.
    fn height(&self, module: Option<&String>) -> usize {
        let layer = |name| self.modules.iter().position(|layer| layer.contains(&name));
        module.and_then(|name| layer(name.as_str())).unwrap_or(self.modules.len())
    }

    fn folder<'a>(&self, feature: &'a str) -> &'a str {
        self.features.iter().find(|(name, _)| *name == feature).map_or(feature, |(_, folder)| folder)
    }
}

pub(crate) struct Report<'a> {
    layers: &'a Layers,
    sources: &'a Sources,
    /// Each arrow from file to file, with one path that is the reason for it, and the line of that path.
    pub(crate) arrows: BTreeMap<(usize, usize), (String, usize)>,
    pub(crate) violations: Vec<String>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(layers: &'a Layers, sources: &'a Sources) -> Self {
        let mut report = Self { layers, sources, arrows: arrows(sources), violations: Vec::new() };
        report.check_layers();
        report.check_circles();
        report.check_root();
        report.check_features();
        report
    }

    fn top(&self, file: usize) -> Option<&'a String> {
        self.sources.files[file].module.first()
    }

    fn name(&self, file: usize) -> &'a str {
        &self.sources.files[file].name
    }

    fn check_layers(&mut self) {
        let unknown = self.sources.files.iter().filter(|file| {
            file.module.len() == 1 && self.layers.height(file.module.first()) == self.layers.modules.len()
        });
        self.violations.extend(unknown.map(|file| format!("{}: this module is in no layer", file.name)));
        let up = self
            .arrows
            .iter()
            .filter(|((from, to), _)| self.layers.height(self.top(*from)) < self.layers.height(self.top(*to)));
        let up: Vec<String> = up
            .map(|((from, to), (path, line))| {
                format!("{}:{line}: `{path}` points up, to {}", self.name(*from), self.name(*to))
            })
            .collect();
        self.violations.extend(up);
    }

    /// Reports each group of files that use each other in a circle, with the shortest circle.
    fn check_circles(&mut self) {
        let mut seen = BTreeSet::new();
        for start in 0..self.sources.files.len() {
            if seen.contains(&start) {
                continue;
            }
            let Some(circle) = self.circle(start) else { continue };
            let steps: Vec<String> = circle
                .windows(2)
                .map(|step| {
                    let (path, line) = &self.arrows[&(step[0], step[1])];
                    format!("{}:{line} uses `{path}` of {}", self.name(step[0]), self.name(step[1]))
                })
                .collect();
            let (before, behind) = (self.reached(start, true), self.reached(start, false));
            let group: Vec<usize> = before.intersection(&behind).copied().collect();
            let names: Vec<&str> = group.iter().map(|file| self.name(*file)).collect();
            self.violations.push(format!(
                "{} files use each other in a circle ({}): {}",
                group.len(),
                names.join(", "),
                steps.join("; ")
            ));
            seen.extend(group);
        }
    }

    /// Finds the shortest way from a file back to itself.
    fn circle(&self, start: usize) -> Option<Vec<usize>> {
        let (mut ways, mut seen) = (VecDeque::from([vec![start]]), BTreeSet::new());
        while let Some(way) = ways.pop_front() {
            for (from, to) in self.arrows.keys() {
                if Some(from) != way.last() {
                    continue;
                }
                let longer = [&way[..], &[*to]].concat();
                if *to == start {
                    return Some(longer);
                }
                if seen.insert(*to) {
                    ways.push_back(longer);
                }
            }
        }
        None
    }

    /// Finds all files that a file reaches, or all that reach it.
    fn reached(&self, start: usize, backwards: bool) -> BTreeSet<usize> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(file) = open.pop() {
            for (from, to) in self.arrows.keys() {
                let (from, to) = if backwards { (to, from) } else { (from, to) };
                if *from == file && reached.insert(*to) {
                    open.push(*to);
                }
            }
        }
        reached
    }

    fn check_root(&mut self) {
        for file in self.sources.files.iter().filter(|file| file.module.is_empty() && self.layers.root_only_reexports) {
            if let Some((item, line)) = &file.first_item {
                self.violations.push(format!("{}:{line}: `{item}` is more than a re-export", file.name));
            }
        }
    }

    fn check_features(&mut self) {
        for file in &self.sources.files {
            for (feature, line) in &file.features {
                let folder = self.layers.folder(feature);
                if file.module.first().is_none_or(|top| top != folder) {
                    self.violations.push(format!(
                        "{}:{line}: `feature = \"{feature}\"` belongs in {folder}/, or on a `mod` or `use` line",
                        file.name
                    ));
                }
            }
        }
    }
}

fn arrows(sources: &Sources) -> BTreeMap<(usize, usize), (String, usize)> {
    let mut arrows = BTreeMap::new();
    for (path, module) in &sources.modules {
        let home = &sources.files[module.file].module;
        for used in &module.paths {
            let Some(target) = sources.resolve(path, &used.path).filter(|target| target.is_item) else { continue };
            let to = sources.modules[&target.module].file;
            let own_child = used.reexport && target.module.starts_with(home);
            if to != module.file && !own_child {
                arrows.entry((module.file, to)).or_insert_with(|| (used.path.join("::"), used.line));
            }
        }
    }
    arrows
}

/// Lists the modules, the highest layer first, each with the modules that it uses.
impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: what each module uses, with the number of arrows between files; the highest layer first",
            self.layers.name
        )?;
        let present =
            |module: &str| self.sources.files.iter().any(|file| file.module.first().is_some_and(|top| top == module));
        for layer in self.layers.modules.iter().rev() {
            for module in layer.iter().filter(|module| present(module)) {
                let mut used: BTreeMap<&str, usize> = BTreeMap::new();
                for (from, to) in self.arrows.keys() {
                    match (self.top(*from), self.top(*to)) {
                        (Some(from), Some(to)) if from == module && to != module => *used.entry(to).or_default() += 1,
                        _ => {}
                    }
                }
                let used: Vec<String> = used.iter().map(|(module, count)| format!("{module} {count}")).collect();
                writeln!(f, "  {module:<12}  {}", used.join(", "))?;
            }
            writeln!(f, "  ------------")?;
        }
        Ok(())
    }
}
