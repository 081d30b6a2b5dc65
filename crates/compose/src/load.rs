//! Reads files, and the files they include or extend from, into one canonical tree.

use crate::error::{Error, Result, nearest};
use crate::files::{Files, absolute, parent};
use crate::interpolate::{Interpolator, Variable};
use crate::node::{Node, Path, Source, Span, Value};
use crate::{canonical, dotenv, merge, paths, schema, yaml};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

/// Most files of one load.
const MAX_FILES: usize = 256;
/// Most values of one load, each extended or included service counted in full.
const MAX_TOTAL: usize = 500_000;
/// Longest chain of services that extend each other, and of files that include each other.
const MAX_CHAIN: usize = 32;
/// Largest env file in bytes.
const MAX_ENV_FILE: usize = 1 << 20;

/// Variables by name.
pub type Environment = BTreeMap<String, String>;

/// Sections whose entries an included file brings along.
pub const SECTIONS: [&str; 7] = ["services", "jobs", "networks", "volumes", "secrets", "configs", "models"];

/// Where a file is read: what its relative paths and variables mean.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Folder that relative paths start from.
    pub directory: String,
    /// Variables.
    pub environment: Environment,
}

/// A file to load.
#[derive(Debug, Clone)]
pub struct ComposeFile {
    /// Absolute path, or a name for people if the text is given.
    pub path: String,
    /// Text that was read already, e.g. from standard input.
    pub text: Option<String>,
}

/// Loads files, keeping count of what they cost.
pub struct Loader<'a> {
    files: &'a dyn Files,
    /// Folder below which files are named by their relative path in messages.
    current: String,
    home: Option<String>,
    interpolate: bool,
    read: usize,
    total: usize,
    including: Vec<String>,
    extended: HashMap<String, Rc<Node>>,
    /// Variables that the files use.
    pub variables: BTreeMap<String, Variable>,
    /// Variables that were missing.
    pub missing: BTreeSet<String>,
    /// Places that say `version`, which means nothing any more.
    pub versions: Vec<Span>,
}

impl std::fmt::Debug for Loader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("current", &self.current).finish_non_exhaustive()
    }
}

impl<'a> Loader<'a> {
    /// A loader that reads from `files`; messages name files relative to `current`.
    pub fn new(files: &'a dyn Files, current: &str, home: Option<&str>, interpolate: bool) -> Self {
        Self {
            files,
            current: current.to_owned(),
            home: home.map(str::to_owned),
            interpolate,
            read: 0,
            total: 0,
            including: Vec::new(),
            extended: HashMap::new(),
            variables: BTreeMap::new(),
            missing: BTreeSet::new(),
            versions: Vec::new(),
        }
    }

    /// An absolute path of what is written relative to `base`.
    pub fn absolute(&self, path: &str, base: &str) -> String {
        absolute(path, base, self.home.as_deref())
    }

    /// Reads a text file; `at` is the place that names it.
    ///
    /// # Errors
    /// What cannot be read, is too large or is no UTF-8.
    pub fn source(&mut self, path: &str, limit: usize, at: Option<&Span>) -> Result<Arc<Source>> {
        self.read += 1;
        let fault = |message: String| match at {
            Some(at) => Error::at(at, message),
            None => Error::nowhere(message),
        };
        if self.read > MAX_FILES {
            return Err(fault(format!("more than {MAX_FILES} files are read")));
        }
        let content = self
            .files
            .read(path, limit)
            .map_err(|e| fault(format!("cannot read {}: {e}", self.shown(path))))?;
        let text = String::from_utf8(content)
            .map_err(|_| fault(format!("cannot read {}: it is no UTF-8 text", self.shown(path))))?;
        Ok(Source::new(self.shown(path), text))
    }

    fn shown(&self, path: &str) -> String {
        path.strip_prefix(&self.current).and_then(|p| p.strip_prefix('/')).unwrap_or(path).to_owned()
    }

    /// Variables of env files over one another, below those of `environment`.
    ///
    /// # Errors
    /// A file that cannot be read or understood.
    pub fn env_files(
        &mut self,
        environment: &Environment,
        paths: &[(String, Option<Span>)],
    ) -> Result<Environment> {
        let mut found = Environment::new();
        for (path, at) in paths {
            let source = self.source(path, MAX_ENV_FILE, at.as_ref())?;
            let lookup = |name: &str| environment.get(name).or_else(|| found.get(name)).cloned();
            let more = dotenv::parse(&source, &lookup)?;
            found.extend(more);
        }
        found.extend(environment.clone());
        Ok(found)
    }

    /// Whether a file can be read.
    pub fn exists(&self, path: &str) -> bool {
        match self.files.read(path, MAX_ENV_FILE) {
            Ok(_) => true,
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    }

    /// Several files over one another, with relative paths made absolute.
    ///
    /// # Errors
    /// Whatever is wrong in them.
    pub fn files(&mut self, files: &[ComposeFile], scope: &Scope) -> Result<Node> {
        let mut model: Option<Node> = None;
        for file in files {
            let source = self.compose_source(file, None)?;
            model = self.file(model, &source, &file.path, scope, true)?;
        }
        let nowhere = Source::new("", "");
        let mut model = model.unwrap_or_else(|| Node::map(&Span::new(&nowhere, 1, 1)));
        paths::resolve(&mut model, &scope.directory, self.home.as_deref());
        inherit_variables(&mut model, &scope.environment);
        Ok(model)
    }

    /// The text of a Compose file.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn compose_source(&mut self, file: &ComposeFile, at: Option<&Span>) -> Result<Arc<Source>> {
        match &file.text {
            Some(text) => Ok(Source::new(file.path.clone(), text.clone())),
            None => self.source(&file.path, yaml::MAX_BYTES, at),
        }
    }

    /// The documents of one file on top of `model`.
    fn file(
        &mut self,
        mut model: Option<Node>,
        source: &Arc<Source>,
        path: &str,
        scope: &Scope,
        whole: bool,
    ) -> Result<Option<Node>> {
        for mut document in yaml::parse(source)? {
            if document.is_null() {
                continue;
            }
            if document.as_map().is_none() {
                let message = format!("the file is {}, where a mapping has to be", document.kind());
                return Err(Error::at(&document.span, message));
            }
            self.spend(&document)?;
            self.substitute(&mut document, scope)?;
            schema::check_part(&document)?;
            if let Some(version) = document.take("version") {
                self.versions.push(version.span);
            }
            canonical::canonical(&mut document, &Path::default())?;
            if whole {
                self.include(&mut document, path, scope)?;
                self.extends(&mut document, path, scope)?;
            }
            let base = model.unwrap_or_else(|| Node::map(&document.span));
            model = Some(merge::files(base, document)?);
        }
        Ok(model)
    }

    fn substitute(&mut self, document: &mut Node, scope: &Scope) -> Result<()> {
        let lookup = |name: &str| scope.environment.get(name).cloned();
        let mut interpolator = Interpolator::new(&lookup);
        interpolator.tree(document, &Path::default(), self.interpolate)?;
        for (name, variable) in interpolator.variables {
            let known = self.variables.entry(name).or_default();
            known.required |= variable.required;
            known.default = known.default.take().or(variable.default);
            known.alternative = known.alternative.take().or(variable.alternative);
        }
        self.missing.extend(interpolator.missing);
        Ok(())
    }

    fn spend(&mut self, node: &Node) -> Result<()> {
        self.total += count(node);
        if self.total > MAX_TOTAL {
            let message = format!("the files have more than {MAX_TOTAL} values, with all that is extended");
            return Err(Error::at(&node.span, message));
        }
        Ok(())
    }

    fn extends(&mut self, document: &mut Node, path: &str, scope: &Scope) -> Result<()> {
        let Some(services) = document.get(&["services"]).and_then(Node::as_map) else { return Ok(()) };
        let services = services.clone();
        let mut found = Vec::new();
        for (key, service) in &services {
            if service.get(&["extends"]).is_some() {
                let whole = self.extended(&key.name, &services, path, scope, &mut Vec::new())?;
                found.push((key.name.clone(), whole));
            }
        }
        for (name, service) in found {
            if let Some(slot) = document.as_map_mut().and_then(|d| d.get_mut("services")) {
                slot.set(&name, service);
            }
        }
        Ok(())
    }

    /// A service with all that it extends.
    fn extended(
        &mut self,
        name: &str,
        services: &crate::node::Map,
        path: &str,
        scope: &Scope,
        chain: &mut Vec<(String, String)>,
    ) -> Result<Node> {
        let Some(service) = services.get(name) else {
            return Err(Error::nowhere(format!("{}: there is no service {name:?}", self.shown(path))));
        };
        let mut service = service.clone();
        let Some(extends) = service.take("extends").filter(|e| e.tag.is_none() && !e.is_null()) else {
            return Ok(service);
        };
        let link = (path.to_owned(), name.to_owned());
        if chain.contains(&link) {
            let names: Vec<&str> = chain.iter().map(|(_, n)| n.as_str()).chain([name]).collect();
            let message = format!("services.{name}.extends: it extends itself: {}", names.join(" -> "));
            return Err(Error::at(&extends.span, message));
        }
        if chain.len() == MAX_CHAIN {
            let message =
                format!("services.{name}.extends: more than {MAX_CHAIN} services extend each other");
            return Err(Error::at(&extends.span, message));
        }
        chain.push(link);
        let Some(wanted) = extends.text(&["service"]).map(str::to_owned) else {
            return Err(Error::at(&extends.span, format!("services.{name}.extends: service is missing")));
        };
        let at = extends.get(&["service"]).map_or(&extends.span, |n| &n.span).clone();
        let absent = |names: &mut dyn Iterator<Item = &str>, file: &str| {
            let help = nearest(&wanted, names).map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
            let message = format!("services.{name}.extends: {file} has no service {wanted:?}{help}");
            Error::at(&at, message)
        };
        let base = match extends.get(&["file"]) {
            Some(file) => {
                let other = self.absolute(file.as_str().unwrap_or_default(), &scope.directory);
                refuse_remote(file)?;
                let inner =
                    Scope { directory: parent(&other).to_owned(), environment: scope.environment.clone() };
                let model = self.extends_file(&other, &inner, &file.span)?;
                let shown = self.shown(&other);
                let services = model.get(&["services"]).and_then(Node::as_map);
                let services = services.ok_or_else(|| absent(&mut std::iter::empty(), &shown))?;
                if !services.contains_key(wanted.as_str()) {
                    return Err(absent(&mut services.keys().map(|k| k.name.as_str()), &shown));
                }
                self.extended(&wanted, services, &other, &inner, chain)?
            }
            None if services.contains_key(wanted.as_str()) => {
                self.extended(&wanted, services, path, scope, chain)?
            }
            None => return Err(absent(&mut services.keys().map(|k| k.name.as_str()), "the file")),
        };
        chain.pop();
        let merged = merge::extend(base, service, name)?;
        self.spend(&merged)?;
        Ok(merged)
    }

    /// A file that is extended from: by itself, with paths relative to its own folder.
    fn extends_file(&mut self, path: &str, scope: &Scope, at: &Span) -> Result<Rc<Node>> {
        if let Some(model) = self.extended.get(path) {
            return Ok(model.clone());
        }
        let file = ComposeFile { path: path.to_owned(), text: None };
        let source = self.compose_source(&file, Some(at))?;
        let mut model = self
            .file(None, &source, path, scope, false)?
            .unwrap_or_else(|| Node::map(&Span::new(&source, 1, 1)));
        // What its services extend in turn is found from there too.
        paths::resolve(&mut model, &scope.directory, self.home.as_deref());
        let model = Rc::new(model);
        self.extended.insert(path.to_owned(), model.clone());
        Ok(model)
    }

    fn include(&mut self, document: &mut Node, path: &str, scope: &Scope) -> Result<()> {
        let Some(list) = document.take("include") else { return Ok(()) };
        self.including.push(path.to_owned());
        let mut imported: HashMap<(&str, String), Span> = HashMap::new();
        for item in list.items() {
            let span = item.span.clone();
            let mut item = item.clone();
            if let Some(text) = item.as_str() {
                let text = Node::new(Value::Seq(vec![Node::string(text, &span)]), &span);
                item.value = Value::Map(crate::node::Map::new());
                item.set("path", text);
            }
            let model = self.included(&item, scope)?;
            self.spend(&model)?;
            for section in SECTIONS {
                for (key, theirs) in model.get(&[section]).into_iter().flat_map(Node::entries) {
                    if document.get(&[section]).is_none_or(Node::is_null) {
                        document.set(section, Node::map(&span));
                    }
                    let Some(ours) = document.as_map_mut().and_then(|d| d.get_mut(section)) else { continue };
                    let place = Path::default().join(section).join(&key.name);
                    match ours.get(&[&key.name]).cloned() {
                        None => {
                            ours.as_map_mut().map(|m| m.insert(key.clone(), theirs.clone()));
                            imported.insert((section, key.name.clone()), span.clone());
                        }
                        Some(own) if own == *theirs => {}
                        Some(own) => match imported.get(&(section, key.name.clone())) {
                            // What the file itself says goes on top of what it includes.
                            None => {
                                let mut merged = merge::merge(theirs.clone(), own, &place)?;
                                merge::unique(&mut merged, &place)?;
                                ours.set(&key.name, merged);
                            }
                            Some(_) => {
                                return Err(Error::at(&key.span, format!("{place} is defined by two included files"))
                                    .note("this is the other one", Some(&own.span))
                                    .note(
                                        "to have one on top of the other, list both files under path of one include",
                                        Some(&span),
                                    ));
                            }
                        },
                    }
                }
            }
        }
        self.including.pop();
        Ok(())
    }

    fn included(&mut self, item: &Node, scope: &Scope) -> Result<Node> {
        let listed = item.get(&["path"]).map(Node::items).unwrap_or_default();
        let mut files = Vec::new();
        for path in listed {
            refuse_remote(path)?;
            let absolute = self.absolute(path.as_str().unwrap_or_default(), &scope.directory);
            if self.including.contains(&absolute) {
                let chain: Vec<String> =
                    self.including.iter().chain([&absolute]).map(|p| self.shown(p)).collect();
                let message = format!("the file includes itself: {}", chain.join(" -> "));
                return Err(Error::at(&path.span, message));
            }
            files.push((ComposeFile { path: absolute, text: None }, path.span.clone()));
        }
        let Some((first, _)) = files.first() else {
            return Err(Error::at(&item.span, "include: path is missing"));
        };
        if self.including.len() >= MAX_CHAIN {
            let message = format!("more than {MAX_CHAIN} files include each other");
            return Err(Error::at(&item.span, message));
        }
        let directory = match item.text(&["project_directory"]) {
            Some(directory) => self.absolute(directory, &scope.directory),
            None => parent(&first.path).to_owned(),
        };
        let mut env_files: Vec<(String, Option<Span>)> = item
            .get(&["env_file"])
            .map(Node::items)
            .unwrap_or_default()
            .iter()
            .map(|f| (self.absolute(f.as_str().unwrap_or_default(), &scope.directory), Some(f.span.clone())))
            .filter(|(path, _)| path != "/dev/null")
            .collect();
        let own = format!("{}/.env", directory.trim_end_matches('/'));
        if item.get(&["env_file"]).is_none() && self.exists(&own) {
            env_files.push((own, None));
        }
        let environment = self.env_files(&scope.environment, &env_files)?;
        let inner = Scope { directory, environment };
        let mut model = None;
        for (file, at) in &files {
            let source = self.compose_source(file, Some(at))?;
            model = self.file(model, &source, &file.path, &inner, true)?;
        }
        let mut model = model.unwrap_or_else(|| Node::map(&item.span));
        paths::resolve(&mut model, &inner.directory, self.home.as_deref());
        inherit_variables(&mut model, &inner.environment);
        Ok(model)
    }
}

fn refuse_remote(node: &Node) -> Result<()> {
    let text = node.as_str().unwrap_or_default();
    if text.contains("://") || text.starts_with("git@") || text.starts_with("oci:") {
        let message = format!("{text:?}: files are read from this machine only; fetch it first");
        return Err(Error::at(&node.span, message));
    }
    Ok(())
}

/// Variables that name no value take the environment's, or stay without one.
fn inherit_variables(model: &mut Node, environment: &Environment) {
    let Some(services) = model.as_map_mut().and_then(|m| m.get_mut("services")) else { return };
    for (_, service) in services.as_map_mut().into_iter().flatten() {
        let Some(variables) = service.as_map_mut().and_then(|s| s.get_mut("environment")) else { continue };
        for (key, value) in variables.as_map_mut().into_iter().flatten() {
            if let (Value::Null, Some(found)) = (&value.value, environment.get(&key.name)) {
                value.value = Value::String(found.clone());
            }
        }
    }
}

/// Values of a tree.
fn count(node: &Node) -> usize {
    match &node.value {
        Value::Seq(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Map(map) => 1 + map.values().map(count).sum::<usize>(),
        _ => 1,
    }
}
