//! Starting and stopping units over D-Bus (org.freedesktop.systemd1(5)).

use crate::{Error, Property, Result, Slice, properties};
use futures::TryStreamExt as _;
use gantry_cgroup::Limits;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zbus::conn::Builder;
use zbus::message::Type;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath, Variant};

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// How long a call and its job may take.
const LIMIT: Duration = Duration::from_secs(30);

/// How long systemd waits between asking what is in a stopped scope to end, and killing it. Gantry has
/// killed everything before it stops a scope; this is for what systemd stops by itself, at shutdown.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Signals that may wait to be read; only those of one unit come.
const QUEUE: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// A scope to start.
#[derive(Debug)]
pub struct Scope<'a> {
    /// Name of the unit, ending with `.scope`.
    pub name: &'a str,
    /// What `systemctl status` says it is.
    pub description: &'a str,
    /// The slice in which it is made; systemd makes the slice when it is not there.
    pub slice: &'a Slice,
    /// The process that it starts with; the scope ends with the last process in it.
    pub pid: u32,
    /// Its limits.
    pub limits: &'a Limits,
}

/// A connection to systemd, made at the first call and anew after it broke. All methods may run at once.
#[derive(Debug)]
pub struct Systemd {
    limit: Duration,
    connection: Mutex<Option<Connection>>,
}

impl Default for Systemd {
    fn default() -> Self {
        Self::new()
    }
}

impl Systemd {
    /// The systemd of this host. Nothing is connected yet.
    pub fn new() -> Self {
        Self { limit: LIMIT, connection: Mutex::default() }
    }

    /// Starts a scope that is given away to the caller (`Delegate=yes`), with every controller accounting
    /// for it, and waits until the process is in it.
    ///
    /// # Errors
    ///
    /// [`Error::Silent`] when systemd does not do it within 30 s: the scope may come to be all the same,
    /// stop it. [`Error::Refused`], [`Error::Job`] with systemd's reason.
    pub async fn start_scope(&self, scope: &Scope<'_>) -> Result<()> {
        let yes = || Variant::from(true);
        let mut all: Vec<Property> = vec![
            ("Description", scope.description.to_owned().into()),
            ("Slice", scope.slice.name().to_owned().into()),
            ("PIDs", vec![scope.pid].into()),
            ("Delegate", yes()),
            ("CPUAccounting", yes()),
            ("IOAccounting", yes()),
            ("MemoryAccounting", yes()),
            ("TasksAccounting", yes()),
            // Nothing of it is kept when it fails.
            ("CollectMode", "inactive-or-failed".to_owned().into()),
            ("TimeoutStopUSec", (STOP_LIMIT.as_micros() as u64).into()),
        ];
        all.extend(properties::of(scope.limits)?);
        let none: Vec<(&str, Vec<Property>)> = Vec::new();
        self.job("StartTransientUnit", scope.name, &(scope.name, "fail", all, none)).await
    }

    /// Stops a unit and waits until it is stopped. Succeeds when there is none of that name.
    ///
    /// # Errors
    ///
    /// [`Error::Silent`] when systemd does not do it within 30 s; [`Error::Job`] when processes survive.
    pub async fn stop(&self, unit: &str) -> Result<()> {
        match self.job("StopUnit", unit, &(unit, "replace")).await {
            Err(Error::Refused { name, .. }) if name == NO_SUCH_UNIT => Ok(()),
            other => other,
        }
    }

    /// Runs `call`, which answers with a job, and waits for the end of that job.
    async fn job<B>(&self, call: &'static str, unit: &str, body: &B) -> Result<()>
    where
        B: zbus::export::serde::Serialize + zbus::DynamicType + Sync,
    {
        let work = async {
            match self.attempt(call, unit, body).await {
                // An idle connection may have died with its bus. A unit that the first attempt made after
                // all makes the second one fail, not double.
                Err(Error::Broken { .. }) => self.attempt(call, unit, body).await,
                other => other,
            }
        };
        tokio::time::timeout(self.limit, work).await.unwrap_or_else(|_| {
            let seconds = self.limit.as_secs();
            Err(Error::Silent { call, unit: unit.to_owned(), seconds })
        })
    }

    async fn attempt<B>(&self, call: &'static str, unit: &str, body: &B) -> Result<()>
    where
        B: zbus::export::serde::Serialize + zbus::DynamicType + Sync,
    {
        let connection = self.connection().await?;
        let failed = |source: zbus::Error| match source {
            zbus::Error::MethodError(name, message, _) => Error::Refused {
                call,
                unit: unit.to_owned(),
                name: name.to_string(),
                message: message.unwrap_or_default(),
            },
            zbus::Error::FDO(error) => Error::Refused {
                call,
                unit: unit.to_owned(),
                name: zbus::DBusError::name(&*error).to_string(),
                message: zbus::DBusError::description(&*error).unwrap_or_default().to_owned(),
            },
            source => {
                self.forget();
                Error::Broken { call, unit: unit.to_owned(), source }
            }
        };
        // Before the call: the job may end before its answer is read.
        let mut ends = job_ends(&connection, unit).await.map_err(failed)?;
        let answer = connection.call_method(Some(SERVICE), OBJECT, Some(MANAGER), call, body).await;
        let job: OwnedObjectPath = answer.and_then(|a| a.body().deserialize()).map_err(failed)?;
        while let Some(message) = ends.try_next().await.map_err(failed)? {
            match result_of(&message, &job) {
                None => {}
                Some(result) if result == "done" => return Ok(()),
                Some(result) => return Err(Error::Job { call, unit: unit.to_owned(), result }),
            }
        }
        let end = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        Err(failed(zbus::Error::InputOutput(end.into())))
    }

    async fn connection(&self) -> Result<Connection> {
        let known = self.known().clone();
        if let Some(connection) = known.filter(|c| !c.is_closed()) {
            return Ok(connection);
        }
        let connection = Builder::system().build().await.map_err(Error::Unreachable)?;
        // systemd sends no signals to a bus where nobody asked for them.
        let subscribed = connection.call_method(Some(SERVICE), OBJECT, Some(MANAGER), "Subscribe", &()).await;
        subscribed.map_err(Error::Unreachable)?;
        *self.known() = Some(connection.clone());
        Ok(connection)
    }

    fn known(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self) {
        *self.known() = None;
    }
}

/// The ends of jobs of `unit`, from now on.
async fn job_ends(connection: &Connection, unit: &str) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SERVICE)
        .path(OBJECT)
        .interface(MANAGER)
        .member("JobRemoved")
        .arg(2, unit)
        .build()?;
    MessageStream::for_match_rule(rule.to_owned(), connection, Some(QUEUE)).await
}

/// How `job` ended, if that is what `signal` tells.
fn result_of(signal: &Message, job: &OwnedObjectPath) -> Option<String> {
    let body = signal.body();
    let (_, ended, _, result): (u32, OwnedObjectPath, String, String) = body.deserialize().ok()?;
    (ended == *job).then_some(result)
}

#[cfg(test)]
mod tests;
