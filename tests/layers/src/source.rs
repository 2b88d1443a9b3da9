//! Reads modules, items, imports, paths and features from a crate's files. It reads tokens, which contain no comments,
//! and in which a string is a single token.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The files and modules of a crate. A module's key is its path below the root; the key of the root is empty.
#[derive(Default)]
pub(crate) struct Sources {
    pub(crate) files: Vec<File>,
    pub(crate) modules: BTreeMap<Vec<String>, Module>,
}

pub(crate) struct File {
    /// The path below `src`, with slashes.
    pub(crate) name: String,
    pub(crate) module: Vec<String>,
    /// Features that are named outside of `mod` and `use` lines, with the line.
    pub(crate) features: Vec<(String, usize)>,
    /// The first item that is no module, import or macro, with its line.
    pub(crate) first_item: Option<(String, usize)>,
}

/// A file, or an inline module of one.
#[derive(Default)]
pub(crate) struct Module {
    pub(crate) file: usize,
    items: BTreeSet<String>,
    /// Each imported name, and the path that it is imported from.
    imports: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
    pub(crate) paths: Vec<Used>,
}

/// A path as it is written in the code.
pub(crate) struct Used {
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
    pub(crate) reexport: bool,
}

impl Sources {
    pub(crate) fn read(directory: &Path) -> io::Result<Self> {
        let mut texts = BTreeMap::new();
        let mut open = vec![directory.to_owned()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    open.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let below = path.strip_prefix(directory).map_err(io::Error::other)?;
                    texts.insert(below.to_string_lossy().replace('\\', "/"), fs::read_to_string(&path)?);
                }
            }
        }
        Self::parse(texts).map_err(io::Error::other)
    }

    /// Reads files, given by their name below `src`. Files that only tests declare are left out.
    pub(crate) fn parse(mut texts: BTreeMap<String, String>) -> Result<Self, String> {
        let mut sources = Self::default();
        let mut declared = vec![Vec::new()];
        while let Some(module) = declared.pop() {
            let path = module.join("/");
            let names = if path.is_empty() {
                ["lib.rs".to_owned(), "main.rs".to_owned()]
            } else {
                [format!("{path}.rs"), format!("{path}/mod.rs")]
            };
            let Some((name, text)) = names.into_iter().find_map(|name| texts.remove_entry(&name)) else {
                return Err(format!("no file for the module `{}`", module.join("::")));
            };
            let tokens: TokenStream = text.parse().map_err(|error| format!("{name}: {error}"))?;
            let file = sources.files.len();
            sources.files.push(File { name, module: module.clone(), features: Vec::new(), first_item: None });
            Reader { sources: &mut sources, file, declared: &mut declared }.module(module, tokens);
        }
        Ok(sources)
    }

    /// Finds what a path leads to: a module, or an item of a module. `None` if it leads out of the crate.
    pub(crate) fn resolve(&self, from: &[String], path: &[String]) -> Option<Target> {
        // Imports in a circle do not compile, but this code also reads what does not compile: hence the limit.
        self.resolve_within(from, path, 16)
    }

    fn resolve_within(&self, from: &[String], path: &[String], limit: u32) -> Option<Target> {
        let limit = limit.checked_sub(1)?;
        let mut module = from.to_vec();
        for (at, name) in path.iter().enumerate() {
            match name.as_str() {
                "crate" => module.clear(),
                "super" => drop(module.pop()),
                "self" => {}
                _ => {
                    let child = [&module[..], std::slice::from_ref(name)].concat();
                    if self.modules.contains_key(&child) {
                        module = child;
                        continue;
                    }
                    let here = self.modules.get(&module)?;
                    if here.items.contains(name) {
                        return Some(Target { module, is_item: true });
                    }
                    let rest = &path[at + 1..];
                    if let Some(import) = here.imports.get(name) {
                        // `use name::…` imports what the same name leads to outside of this crate.
                        let external = import.first() == Some(name);
                        return (!external).then(|| self.resolve_within(&module, &[import, rest].concat(), limit))?;
                    }
                    for glob in &here.globs {
                        let Some(Target { module: through, is_item: false }) =
                            self.resolve_within(&module, glob, limit)
                        else {
                            continue;
                        };
                        if through != module
                            && let Some(target) = self.resolve_within(&through, &path[at..], limit)
                        {
                            return Some(target);
                        }
                    }
                    // An item that a macro generates; at the root, an exported macro or a crate.
                    return (at > 0 && !module.is_empty()).then_some(Target { module, is_item: true });
                }
            }
        }
        Some(Target { module, is_item: false })
    }
}

pub(crate) struct Target {
    pub(crate) module: Vec<String>,
    pub(crate) is_item: bool,
}

struct Reader<'a> {
    sources: &'a mut Sources,
    file: usize,
    declared: &'a mut Vec<Vec<String>>,
}

impl Reader<'_> {
    fn module(&mut self, path: Vec<String>, tokens: TokenStream) {
        self.sources.modules.insert(path.clone(), Module { file: self.file, ..Module::default() });
        self.tokens(&path, tokens, true);
    }

    fn here(&mut self, path: &[String]) -> &mut Module {
        self.sources.modules.entry(path.to_vec()).or_default()
    }

    /// `items` is true directly in a module, and false inside of functions, types and impls.
    fn tokens(&mut self, module: &[String], tokens: TokenStream, items: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let line = token.span().start().line;
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    at = self.attribute(&tokens, at);
                    continue;
                }
                TokenTree::Group(group) => self.tokens(module, group.stream(), false),
                TokenTree::Ident(word) => {
                    let word = word.to_string();
                    let next = tokens.get(at + 1);
                    match (word.as_str(), next) {
                        ("mod", Some(TokenTree::Ident(name))) => {
                            let child = [module, &[name.to_string()]].concat();
                            match tokens.get(at + 2) {
                                Some(TokenTree::Group(body)) => self.module(child, body.stream()),
                                _ => self.declared.push(child),
                            }
                            at += 3;
                            continue;
                        }
                        ("use", next) if !is(next, '<') => {
                            let end = (at..tokens.len()).find(|end| is(tokens.get(*end), ';')).unwrap_or(tokens.len());
                            let reexport = at > 0 && is_visibility(&tokens[..at]);
                            self.import(module, Vec::new(), &tokens[at + 1..end], reexport);
                            at = end;
                            continue;
                        }
                        // This code is generated into another crate.
                        ("quote" | "quote_spanned" | "parse_quote", next) if is(next, '!') => {
                            at += 3;
                            continue;
                        }
                        ("cfg", next) if is(next, '!') => {
                            if let Some(TokenTree::Group(condition)) = tokens.get(at + 2) {
                                self.features(condition.stream());
                            }
                        }
                        // The path in `pub(in …)` is no use of a module.
                        ("pub", Some(TokenTree::Group(group))) if group.delimiter() == Delimiter::Parenthesis => {
                            at += 2;
                            continue;
                        }
                        // Every file may use the macros of the root.
                        ("macro_rules", _) if !module.is_empty() => {
                            if let Some(TokenTree::Ident(name)) = tokens.get(at + 2) {
                                self.here(module).items.insert(name.to_string());
                            }
                        }
                        (
                            "const" | "enum" | "fn" | "impl" | "static" | "struct" | "trait" | "type" | "union",
                            Some(TokenTree::Ident(name)),
                        ) if items => {
                            self.here(module).items.insert(name.to_string());
                            let first = &mut self.sources.files[self.file].first_item;
                            first.get_or_insert((format!("{word} {name}"), line));
                        }
                        _ => {}
                    }
                    let before = &tokens[..at];
                    let continues =
                        is(before.last(), '$') || matches!(before, [.., a, b] if is(Some(a), ':') && is(Some(b), ':'));
                    let (path, end) = path_at(&tokens, at);
                    if !continues && path.len() > 1 {
                        self.here(module).paths.push(Used { path, line, reexport: false });
                    }
                    at = end;
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Reads the attribute at `at` and returns where to continue: after the attribute, or, if only tests compile its
    /// item, after the item.
    fn attribute(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let body = at + if is(tokens.get(at + 1), '!') { 2 } else { 1 };
        let Some(TokenTree::Group(attribute)) = tokens.get(body) else { return at + 1 };
        let text = attribute.stream().to_string().replace(' ', "");
        let item = item_at(tokens, body + 1);
        if text == "cfg(test)" || text.starts_with("cfg(all(test,") {
            return end_of_item(tokens, item);
        }
        let on_line = matches!(tokens.get(item), Some(TokenTree::Ident(word)) if word == "mod" || word == "use");
        if text.starts_with("cfg") && !on_line {
            self.features(attribute.stream());
        }
        body + 1
    }

    /// Records each `feature = "…"`.
    fn features(&mut self, condition: TokenStream) {
        let tokens: Vec<TokenTree> = condition.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => self.features(group.stream()),
                TokenTree::Literal(name)
                    if at > 1 && matches!(&tokens[at - 2], TokenTree::Ident(word) if word == "feature") =>
                {
                    let name = name.to_string().trim_matches('"').to_owned();
                    self.sources.files[self.file].features.push((name, token.span().start().line));
                }
                _ => {}
            }
        }
    }

    /// One tree of a `use` line.
    fn import(&mut self, module: &[String], mut prefix: Vec<String>, tokens: &[TokenTree], reexport: bool) {
        let line = tokens.first().map_or(0, |token| token.span().start().line);
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for tree in inner.split(|token| is(Some(token), ',')).filter(|tree| !tree.is_empty()) {
                        self.import(module, prefix.clone(), tree, reexport);
                    }
                    return;
                }
                TokenTree::Punct(punct) if punct.as_char() == '*' => {
                    self.here(module).globs.push(prefix);
                    return;
                }
                TokenTree::Ident(word) if word == "as" => {
                    if let Some(TokenTree::Ident(name)) = tokens.get(at + 1) {
                        self.named(module, name.to_string(), prefix, line, reexport);
                    }
                    return;
                }
                // `{self, …}` is the module itself.
                TokenTree::Ident(word) if word == "self" && !prefix.is_empty() => {}
                TokenTree::Ident(word) => prefix.push(word.to_string()),
                _ => {}
            }
        }
        if let Some(name) = prefix.last().cloned() {
            self.named(module, name, prefix, line, reexport);
        }
    }

    fn named(&mut self, module: &[String], name: String, path: Vec<String>, line: usize, reexport: bool) {
        let here = self.here(module);
        here.paths.push(Used { path: path.clone(), line, reexport });
        here.imports.insert(name, path);
    }
}

fn is(token: Option<&TokenTree>, sign: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}

fn is_visibility(before: &[TokenTree]) -> bool {
    let word = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Ident(word)) if word == "pub");
    match before {
        [.., second, TokenTree::Group(_)] => word(Some(second)),
        _ => word(before.last()),
    }
}

/// Returns the path that begins at `at`, and where it ends.
fn path_at(tokens: &[TokenTree], mut at: usize) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    while let Some(TokenTree::Ident(word)) = tokens.get(at) {
        path.push(word.to_string());
        at += 1;
        if !is(tokens.get(at), ':') || !is(tokens.get(at + 1), ':') {
            break;
        }
        at += 2;
    }
    (path, at)
}

/// Returns the place after further attributes and the visibility.
fn item_at(tokens: &[TokenTree], mut at: usize) -> usize {
    loop {
        match tokens.get(at) {
            Some(TokenTree::Punct(punct)) if punct.as_char() == '#' => at += 2,
            Some(TokenTree::Ident(word)) if word == "pub" => {
                at += 1;
                if matches!(tokens.get(at), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
                {
                    at += 1;
                }
            }
            _ => return at,
        }
    }
}

/// Returns the place after an item, or after a field, a variant or an argument. A body or a semicolon ends an item; a
/// comma ends the others.
fn end_of_item(tokens: &[TokenTree], item: usize) -> usize {
    let is_item = matches!(tokens.get(item), Some(TokenTree::Ident(word)) if matches!(
        word.to_string().as_str(),
        "async" | "const" | "enum" | "extern" | "fn" | "impl" | "let" | "macro_rules" | "mod" | "static" | "struct"
            | "trait" | "type" | "union" | "unsafe" | "use"
    ));
    let mut at = item;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let ends = match token {
            TokenTree::Group(group) => (is_item || at == item + 1) && group.delimiter() == Delimiter::Brace,
            token => is(Some(token), ';') || !is_item && is(Some(token), ','),
        };
        if ends {
            break;
        }
    }
    at
}
