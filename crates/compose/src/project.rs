//! From a request to the whole canonical model of a project.

use crate::error::{Error, Result};
use crate::files::{Files, parent};
use crate::interpolate::{Interpolator, Variable};
use crate::load::{ComposeFile, Environment, Loader, Scope};
use crate::node::{Node, Path, Span};
use crate::report::{self, Finding};
use crate::{consistency, finish, schema, yaml};
use std::collections::BTreeMap;

/// Names that a Compose file is looked for by, the first wins.
pub const FILE_NAMES: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];

/// What to load, and with what.
#[derive(Debug, Clone)]
pub struct Request {
    /// Absolute path of the folder that the caller stands in.
    pub current: String,
    /// Files to merge in their order; none means those that are found from `current` upwards.
    pub files: Vec<ComposeFile>,
    /// Folder that relative paths start from; none means that of the first file.
    pub project_directory: Option<String>,
    /// Name of the project; none means what the environment or the files say.
    pub project_name: Option<String>,
    /// Files with variables; none means `.env` in the project's folder if there is one.
    pub env_files: Vec<String>,
    /// The caller's environment.
    pub environment: Environment,
    /// Profiles that are on, besides those of COMPOSE_PROFILES; `*` means all.
    pub profiles: Vec<String>,
    /// Whether variables are replaced.
    pub interpolate: bool,
}

impl Request {
    /// A request for the files found from `current` upwards.
    pub fn new(current: &str, environment: Environment) -> Self {
        Self {
            current: current.to_owned(),
            files: Vec::new(),
            project_directory: None,
            project_name: None,
            env_files: Vec::new(),
            environment,
            profiles: Vec::new(),
            interpolate: true,
        }
    }
}

/// A project as its files mean it.
#[derive(Debug, Clone)]
pub struct Project {
    /// Name that containers, networks and volumes are called after.
    pub name: String,
    /// Folder that relative paths started from.
    pub directory: String,
    /// The files, in their order.
    pub files: Vec<String>,
    /// The canonical model: services that are on, and everything else.
    pub model: Node,
    /// Services that no profile turned on.
    pub disabled: BTreeMap<String, Node>,
    /// Variables that stood for values.
    pub environment: Environment,
    /// Variables that the files use.
    pub variables: BTreeMap<String, Variable>,
    /// What the caller ought to know.
    pub findings: Vec<Finding>,
}

impl Project {
    /// Loads what is asked for.
    ///
    /// # Errors
    /// The first fault found, with its place.
    pub fn load(request: &Request, files: &dyn Files) -> Result<Self> {
        let home = request.environment.get("HOME").cloned();
        let mut loader = Loader::new(files, &request.current, home.as_deref(), request.interpolate);
        let compose_files = compose_files(request, &mut loader)?;
        let directory = match (&request.project_directory, compose_files.first()) {
            (Some(directory), _) => loader.absolute(directory, &request.current),
            (None, Some(file)) if file.text.is_none() => parent(&file.path).to_owned(),
            _ => request.current.clone(),
        };
        let environment = environment(request, &mut loader, &directory)?;
        let name = project_name(request, &mut loader, &compose_files, &environment, &directory)?;
        let mut environment = environment;
        environment.insert("COMPOSE_PROJECT_NAME".into(), name.clone());
        let scope = Scope { directory: directory.clone(), environment };
        let mut model = loader.files(&compose_files, &scope)?;
        let top = model.span.clone();
        model.set("name", Node::string(name.clone(), &top));

        let mut findings = report::loading(&loader);
        finish::defaults(&mut model, &name);
        let mut profiles = request.profiles.clone();
        let more = scope.environment.get("COMPOSE_PROFILES").map(String::as_str).unwrap_or_default();
        profiles.extend(more.split(',').map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned));
        let disabled = finish::profiles(&mut model, &profiles);
        finish::files_of_variables(&mut model, &mut loader, &scope.environment)?;
        schema::check(&model)?;
        if request.interpolate {
            consistency::check(&model, &disabled)?;
        }
        findings.extend(report::unsupported(&model));
        Ok(Self {
            name,
            directory,
            files: compose_files.into_iter().map(|f| f.path).collect(),
            model,
            disabled,
            environment: scope.environment,
            variables: std::mem::take(&mut loader.variables),
            findings,
        })
    }

    /// Services that are on, by name.
    pub fn services(&self) -> BTreeMap<&str, &Node> {
        self.section("services")
    }

    /// Entries of a top-level section by name.
    pub fn section(&self, name: &str) -> BTreeMap<&str, &Node> {
        let entries = self.model.get(&[name]).into_iter().flat_map(Node::entries);
        entries.map(|(key, node)| (key.name.as_str(), node)).collect()
    }
}

/// The files to load: asked for, named by COMPOSE_FILE, or found.
fn compose_files(request: &Request, loader: &mut Loader<'_>) -> Result<Vec<ComposeFile>> {
    if !request.files.is_empty() {
        let absolute = |file: &ComposeFile| match file.text {
            Some(_) => file.clone(),
            None => ComposeFile { path: loader.absolute(&file.path, &request.current), text: None },
        };
        return Ok(request.files.iter().map(absolute).collect());
    }
    let near = request.project_directory.as_deref().unwrap_or(&request.current);
    let environment = environment(request, loader, &loader.absolute(near, &request.current))?;
    if let Some(listed) = environment.get("COMPOSE_FILE").filter(|l| !l.is_empty()) {
        let separator = environment.get("COMPOSE_PATH_SEPARATOR").map_or(":", String::as_str);
        let file = |path| ComposeFile { path: loader.absolute(path, near), text: None };
        return Ok(listed.split(separator).filter(|p| !p.is_empty()).map(file).collect());
    }
    let mut folder = loader.absolute(near, &request.current);
    loop {
        let join = |name: &str| format!("{}/{name}", folder.trim_end_matches('/'));
        if let Some(path) = FILE_NAMES.iter().map(|n| join(n)).find(|p| loader.exists(p)) {
            let mut found = vec![ComposeFile { path, text: None }];
            let over = FILE_NAMES.iter().map(|n| join(&n.replacen(".y", ".override.y", 1)));
            found.extend(
                over.into_iter().find(|p| loader.exists(p)).map(|path| ComposeFile { path, text: None }),
            );
            return Ok(found);
        }
        if folder == "/" {
            let message = format!(
                "no Compose file: there is no {} in {} or above; name one with -f",
                FILE_NAMES[0], request.current
            );
            return Err(Error::nowhere(message));
        }
        folder = parent(&folder).to_owned();
    }
}

/// The caller's environment on top of that of the env files.
fn environment(request: &Request, loader: &mut Loader<'_>, directory: &str) -> Result<Environment> {
    let mut listed = request.env_files.clone();
    if listed.is_empty() {
        let named = request.environment.get("COMPOSE_ENV_FILES").map(String::as_str).unwrap_or_default();
        listed.extend(named.split(',').filter(|p| !p.is_empty()).map(str::to_owned));
    }
    let mut paths: Vec<_> =
        listed.iter().map(|path| (loader.absolute(path, &request.current), None)).collect();
    if listed.is_empty() {
        let own = format!("{}/.env", directory.trim_end_matches('/'));
        if loader.exists(&own) {
            paths.push((own, None));
        }
    }
    loader.env_files(&request.environment, &paths)
}

fn project_name(
    request: &Request,
    loader: &mut Loader<'_>,
    files: &[ComposeFile],
    environment: &Environment,
    directory: &str,
) -> Result<String> {
    let asked = request.project_name.as_ref().or_else(|| environment.get("COMPOSE_PROJECT_NAME"));
    if let Some(name) = asked.filter(|n| !n.is_empty()) {
        return if is_name(name) { Ok(name.clone()) } else { Err(Error::nowhere(bad_name(name))) };
    }
    let mut found: Option<(String, Span)> = None;
    for file in files {
        let source = loader.compose_source(file, None)?;
        for document in yaml::parse(&source)? {
            let Some(node) = document.get(&["name"]) else { continue };
            let Some(text) = node.as_str() else { continue };
            let lookup = |name: &str| environment.get(name).cloned();
            let name = if request.interpolate {
                Interpolator::new(&lookup)
                    .substitute(text)
                    .map_err(|m| Error::at(&node.span, format!("{}: {m}", Path::default().join("name"))))?
            } else {
                text.to_owned()
            };
            found = Some((name, node.span.clone()));
        }
    }
    if let Some((name, span)) = found.filter(|(n, _)| !n.is_empty()) {
        return if is_name(&name) || !request.interpolate {
            Ok(name)
        } else {
            Err(Error::at(&span, bad_name(&name)))
        };
    }
    let name = normal_name(directory.rsplit('/').next().unwrap_or_default());
    if name.is_empty() {
        let message = format!("no project name can be made of {directory:?}; give one with -p or name:");
        return Err(Error::nowhere(message));
    }
    Ok(name)
}

/// Whether a text can name a project: small letters, digits, `_` and `-`, beginning with a letter or digit.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

fn bad_name(name: &str) -> String {
    format!(
        "{name:?} cannot name a project; names are small letters, digits, _ and -, and begin with a letter or digit"
    )
}

/// The project name that a folder's name makes.
pub fn normal_name(text: &str) -> String {
    let kept: String = text
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_' || *c == '-')
        .collect();
    kept.trim_start_matches(['_', '-']).to_owned()
}
