//! A systemd that is played by the test, at the other end of a socket.

use super::*;
use futures::StreamExt as _;
use std::os::unix::net::UnixStream;

/// What the other side does with a call.
#[derive(Debug, Clone, Copy)]
enum Play {
    /// Takes the job, tells of another one, and ends it so.
    Ends(&'static str),
    /// Refuses with an error of this name.
    Refuses(&'static str),
    /// Takes the job and says nothing more.
    Forgets,
    /// Hangs up without an answer.
    HangsUp,
}

const JOB: &str = "/org/freedesktop/systemd1/job/7";

/// A client whose systemd plays `play` for one call; what it was asked comes back.
async fn with(play: Play, limit: Duration) -> (Systemd, tokio::task::JoinHandle<(String, Vec<String>)>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Builder::unix_stream(theirs).server(zbus::Guid::generate()).p2p().build();
    let client = Builder::unix_stream(ours).p2p().build();
    let (server, client) = tokio::join!(server, client);
    let (server, client) = (server.unwrap(), client.unwrap());
    let mut calls = MessageStream::from(&server);
    let actor = tokio::spawn(async move {
        let call = calls.next().await.unwrap().unwrap();
        let header = call.header();
        let member = header.member().unwrap().to_string();
        let job = OwnedObjectPath::try_from(JOB).unwrap();
        let end = |job: OwnedObjectPath, result: &'static str| {
            let (server, body) = (server.clone(), (7u32, job, unit_of(&call), result));
            async move { server.emit_signal(None::<&str>, OBJECT, MANAGER, "JobRemoved", &body).await.unwrap() }
        };
        match play {
            Play::Ends(result) => {
                // Before its own answer, which is allowed; and first a job of somebody else.
                end(OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/6").unwrap(), "failed").await;
                end(job.clone(), result).await;
                server.reply(&header, &job).await.unwrap();
            }
            Play::Refuses(name) => server.reply_error(&header, name, &"its own words").await.unwrap(),
            Play::Forgets => server.reply(&header, &job).await.unwrap(),
            Play::HangsUp => {}
        }
        let names = properties_of(&call);
        if matches!(play, Play::Forgets) {
            // Until the client gives up.
            server.closed().await;
        }
        (member, names)
    });
    (Systemd { limit, connection: Mutex::new(Some(client)) }, actor)
}

fn unit_of(call: &Message) -> String {
    let body = call.body();
    let structure: zbus::Structure<'_> = body.deserialize().unwrap();
    String::try_from(structure.fields()[0].try_clone().unwrap()).unwrap()
}

/// Names of the properties that a call to start a unit brings.
fn properties_of(call: &Message) -> Vec<String> {
    type Start<'a> = (String, String, Vec<(String, Variant<'a>)>, Vec<(String, Vec<(String, Variant<'a>)>)>);
    let body = call.body();
    body.deserialize::<Start<'_>>().map_or_else(|_| Vec::new(), |s| s.2.into_iter().map(|(n, _)| n).collect())
}

async fn start(systemd: &Systemd) -> Result<()> {
    let slice = Slice::parse("a-b.slice").unwrap();
    let limits = Limits::default();
    let scope = Scope { name: "x.scope", description: "x", slice: &slice, pid: 42, limits: &limits };
    systemd.start_scope(&scope).await
}

#[tokio::test]
async fn a_scope_is_started_when_its_own_job_is_done() {
    let (systemd, actor) = with(Play::Ends("done"), LIMIT).await;
    start(&systemd).await.unwrap();
    let (member, names) = actor.await.unwrap();
    assert_eq!(member, "StartTransientUnit");
    for name in ["Slice", "PIDs", "Delegate", "MemoryAccounting", "TasksMax", "CollectMode"] {
        assert!(names.iter().any(|n| n == name), "{name} is not among {names:?}");
    }
}

#[tokio::test]
async fn a_job_that_does_not_succeed_is_an_error() {
    let (systemd, _) = with(Play::Ends("dependency"), LIMIT).await;
    let error = start(&systemd).await.unwrap_err();
    assert!(matches!(&error, Error::Job { result, .. } if result == "dependency"), "{error}");
    assert!(error.to_string().contains("StartTransientUnit x.scope"), "{error}");
}

#[tokio::test]
async fn a_unit_that_is_not_there_is_stopped() {
    let (systemd, actor) = with(Play::Refuses(NO_SUCH_UNIT), LIMIT).await;
    systemd.stop("x.scope").await.unwrap();
    assert_eq!(actor.await.unwrap().0, "StopUnit");
}

#[tokio::test]
async fn a_refusal_has_systemds_words() {
    for name in ["org.freedesktop.systemd1.UnitExists", "org.freedesktop.DBus.Error.AccessDenied"] {
        let (systemd, _) = with(Play::Refuses(name), LIMIT).await;
        let error = start(&systemd).await.unwrap_err().to_string();
        assert!(error.contains("its own words") && error.contains(name), "{error}");
    }
}

#[tokio::test]
async fn a_systemd_that_says_nothing_is_not_waited_for() {
    let (systemd, actor) = with(Play::Forgets, Duration::from_millis(100)).await;
    let error = start(&systemd).await.unwrap_err();
    assert!(matches!(error, Error::Silent { call: "StartTransientUnit", .. }), "{error}");
    drop(systemd);
    actor.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_is_forgotten() {
    let (systemd, actor) = with(Play::HangsUp, LIMIT).await;
    let error = systemd.attempt("StopUnit", "x.scope", &("x.scope", "replace")).await.unwrap_err();
    actor.await.unwrap();
    assert!(matches!(error, Error::Broken { .. }), "{error}");
    assert!(systemd.known().is_none());
}
