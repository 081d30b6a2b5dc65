//! The log thread: reads the containers' output, writes their logs, answers through a channel.

use super::line::{Splitter, Stream};
use super::sink::{Loss, PACE, Sink};
use super::tap::Taps;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};

/// Small: the buffers live on the heap.
const STACK: usize = 64 << 10;

/// Bytes read at once, and bytes of lines written at once.
const CHUNK: usize = 8 << 10;

/// Most bytes that a pipe holds (`fs.pipe-max-size`): what a container wrote before it ended.
const MAX_PIPE: usize = 1 << 20;

/// Orders that may wait: some for each of a hundred containers. Beyond, the thread hangs in a file system
/// that has stalled, and nothing that needs a log is begun.
const ORDERS: usize = 1024;

/// Reports that may wait before the thread does; the event thread never waits for this one. Their memory
/// is taken at once.
const REPORTS: usize = 32;

/// Bytes that are turned into lines at once: were all of them newlines, their lines would be fifty times
/// as long.
const SLICE: usize = 256;

/// Token of the wake-up in the thread's epoll set.
const WAKE: u64 = u64::MAX;

#[derive(Debug)]
enum Order {
    /// Take over a container's output; without a path it is read and dropped.
    Add {
        id: String,
        outputs: Vec<(OwnedFd, Stream)>,
        path: Option<PathBuf>,
    },
    /// Copy a container's output from now on.
    Tap {
        id: String,
        taps: Vec<(OwnedFd, Stream)>,
    },
    Reopen {
        id: String,
        ticket: u64,
    },
    /// The container ended: read what is there, then say so.
    Drain {
        id: String,
    },
    Remove {
        id: String,
    },
}

/// What the thread has to say.
#[derive(Debug)]
pub(crate) enum Report {
    /// The log of a new container is there, or cannot be opened, which its losses will tell.
    Added { id: String },
    /// The log of a reopen request is open, or why not.
    Reopened { ticket: u64, result: Result<(), String> },
    /// What a container had written when it ended is in its log.
    Drained { id: String },
    /// Lines were lost.
    Lost { id: String, lines: u64, why: String },
}

/// The event thread's handle.
#[derive(Debug)]
pub(crate) struct LogThread {
    orders: Sender<Order>,
    /// Orders that the thread has not carried out yet.
    waiting: Arc<AtomicUsize>,
    reports: Receiver<Report>,
    wake: OwnedFd,
    reported: OwnedFd,
}

impl LogThread {
    /// Starts the thread.
    pub(crate) fn start() -> Result<Self, String> {
        let failed = |what: &str, e: &dyn std::fmt::Display| format!("log thread: {what}: {e}");
        let event =
            || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| failed("eventfd", &e));
        let (wake, reported) = (event()?, event()?);
        let (orders, inbox) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let (outbox, reports) = sync_channel(REPORTS);
        let dup = |fd: &OwnedFd| fd.try_clone().map_err(|e| failed("dup", &e));
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| failed("epoll", &e))?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)
            .map_err(|e| failed("epoll", &e))?;
        let worker = Worker {
            epoll,
            wake: dup(&wake)?,
            reported: dup(&reported)?,
            inbox,
            waiting: waiting.clone(),
            outbox,
            logs: BTreeMap::new(),
            streams: BTreeMap::new(),
            taps: Taps::default(),
            next: 0,
            lines: Vec::new(),
        };
        std::thread::Builder::new()
            .name("log".into())
            .stack_size(STACK)
            .spawn(move || worker.run())
            .map_err(|e| failed("start", &e))?;
        Ok(Self { orders, waiting, reports, wake, reported })
    }

    pub(crate) fn add(&self, id: &str, stdout: OwnedFd, stderr: Option<OwnedFd>, path: Option<PathBuf>) {
        let mut outputs = vec![(stdout, Stream::Stdout)];
        outputs.extend(stderr.map(|fd| (fd, Stream::Stderr)));
        self.order(Order::Add { id: id.to_owned(), outputs, path });
    }

    pub(crate) fn tap(&self, id: &str, taps: Vec<(OwnedFd, Stream)>) {
        self.order(Order::Tap { id: id.to_owned(), taps });
    }

    pub(crate) fn reopen(&self, id: &str, ticket: u64) {
        self.order(Order::Reopen { id: id.to_owned(), ticket });
    }

    pub(crate) fn drain(&self, id: &str) {
        self.order(Order::Drain { id: id.to_owned() });
    }

    pub(crate) fn remove(&self, id: &str) {
        self.order(Order::Remove { id: id.to_owned() });
    }

    /// What the thread has to say, without waiting.
    pub(crate) fn report(&self) -> Option<Report> {
        clear(self.reported.as_fd());
        self.reports.try_recv().ok()
    }

    /// Whether the thread keeps up; `false` when it hangs in a file system that has stalled.
    pub(crate) fn keeps_up(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < ORDERS
    }

    /// Never waits. What is not bounded by [`Self::keeps_up`] is bounded by the number of containers.
    fn order(&self, order: Order) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.orders.send(order).is_err() {
            crate::note(format_args!("the log thread has ended; output is lost"));
            return;
        }
        ring(self.wake.as_fd());
    }
}

impl AsFd for LogThread {
    /// Readable when there is a report.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reported.as_fd()
    }
}

/// Takes a stream out of the epoll set. Closing alone would not: of a terminal there is another descriptor,
/// and its hang-up would be told again and again.
fn forget(epoll: &OwnedFd, source: &Source) {
    if let Err(e) = epoll::delete(epoll, &source.fd) {
        crate::note(format_args!("output of {}: epoll_ctl: {e}", source.id));
    }
}

fn ring(event: BorrowedFd<'_>) {
    // A full counter has been rung enough.
    let _full = rustix::io::write(event, &1u64.to_ne_bytes());
}

fn clear(event: BorrowedFd<'_>) {
    // Nothing to clear is fine.
    let _empty = rustix::io::read(event, &mut [0u8; 8]);
}

struct Source {
    id: String,
    fd: OwnedFd,
    stream: Stream,
    lines: Splitter,
}

struct Worker {
    epoll: OwnedFd,
    wake: OwnedFd,
    reported: OwnedFd,
    inbox: Receiver<Order>,
    waiting: Arc<AtomicUsize>,
    outbox: SyncSender<Report>,
    logs: BTreeMap<String, Option<Sink>>,
    streams: BTreeMap<u64, Source>,
    taps: Taps,
    next: u64,
    /// Lines on their way from a stream to its log; kept for its memory.
    lines: Vec<u8>,
}

impl Worker {
    fn run(mut self) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(16);
        let mut buffer = vec![0; CHUNK];
        loop {
            events.clear();
            // A disk that was full is tried again; nobody tells when it has room.
            let behind = self.logs.values().flatten().any(Sink::is_behind);
            let pace = Timespec { tv_sec: PACE.as_secs() as i64, tv_nsec: PACE.subsec_nanos().into() };
            let limit = behind.then_some(&pace);
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), limit) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => {
                    crate::note(format_args!("log thread: epoll_wait: {e}"));
                    return;
                }
            }
            let ready: Vec<u64> = events.iter().map(|e| e.data.u64()).collect();
            for token in ready {
                if token == WAKE {
                    clear(self.wake.as_fd());
                    loop {
                        match self.inbox.try_recv() {
                            Ok(order) => {
                                self.obey(order, &mut buffer);
                                self.waiting.fetch_sub(1, Ordering::Relaxed);
                            }
                            Err(TryRecvError::Empty) => break,
                            // The monitor is going down.
                            Err(TryRecvError::Disconnected) => return,
                        }
                    }
                } else {
                    self.read(token, &mut buffer, CHUNK);
                }
            }
            if behind {
                self.catch_up();
            }
        }
    }

    /// Tries again what a disk did not take, and tells what was lost.
    fn catch_up(&mut self) {
        let mut losses = Vec::new();
        for (id, sink) in &mut self.logs {
            if let Some(sink) = sink {
                sink.flush();
                losses.extend(sink.loss(false).map(|loss| (id.clone(), loss)));
            }
        }
        for (id, loss) in losses {
            self.report_loss(id, loss);
        }
    }

    fn report_loss(&self, id: String, loss: Loss) {
        self.report(Report::Lost { id, lines: loss.lines, why: loss.why });
    }

    fn obey(&mut self, order: Order, buffer: &mut [u8]) {
        match order {
            Order::Add { id, outputs, path } => {
                self.logs.insert(id.clone(), path.map(Sink::new));
                for (fd, stream) in outputs {
                    self.watch(&id, fd, stream);
                }
                self.report(Report::Added { id });
            }
            Order::Reopen { id, ticket } => {
                let result = match self.logs.get_mut(&id) {
                    Some(Some(sink)) => sink.reopen(),
                    Some(None) => Err("the container has no log".to_owned()),
                    None => Err("no such container".to_owned()),
                };
                self.report(Report::Reopened { ticket, result });
            }
            Order::Drain { id } => {
                let tokens: Vec<u64> =
                    self.streams.iter().filter(|(_, s)| s.id == id).map(|(token, _)| *token).collect();
                for token in tokens {
                    self.read(token, buffer, MAX_PIPE);
                }
                self.taps.end(&id, None);
                if let Some(Some(sink)) = self.logs.get_mut(&id) {
                    sink.flush();
                    if let Some(loss) = sink.loss(true) {
                        self.report_loss(id.clone(), loss);
                    }
                }
                self.report(Report::Drained { id });
            }
            Order::Tap { id, taps } => {
                // A stream that has ended says so at once: its pipe is closed.
                let goes_on = |stream| self.streams.values().any(|s| s.stream == stream && s.id == id);
                self.taps.add(&id, taps.into_iter().filter(|(_, stream)| goes_on(*stream)));
            }
            Order::Remove { id } => {
                self.taps.end(&id, None);
                for (_, source) in self.streams.extract_if(.., |_, s| s.id == id) {
                    forget(&self.epoll, &source);
                }
                if let Some(loss) = self.logs.remove(&id).flatten().and_then(Sink::close) {
                    self.report_loss(id, loss);
                }
            }
        }
    }

    fn watch(&mut self, id: &str, fd: OwnedFd, stream: Stream) {
        let token = self.next;
        self.next += 1;
        let watched = rustix::io::ioctl_fionbio(&fd, true)
            .and_then(|()| epoll::add(&self.epoll, &fd, EventData::new_u64(token), EventFlags::IN));
        match watched {
            Ok(()) => {
                let source = Source { id: id.to_owned(), fd, stream, lines: Splitter::new(stream) };
                self.streams.insert(token, source);
            }
            Err(e) => crate::note(format_args!("output of {id} cannot be watched: {e}")),
        }
    }

    /// Reads at most about `limit` bytes of one stream into its log.
    fn read(&mut self, token: u64, buffer: &mut [u8], limit: usize) {
        let Some(source) = self.streams.get_mut(&token) else { return };
        let mut sink = self.logs.get_mut(&source.id).and_then(Option::as_mut);
        let lines = &mut self.lines;
        let mut put = |lines: &mut Vec<u8>, count: u64| {
            if let (Some(sink), false) = (&mut sink, lines.is_empty()) {
                sink.append(lines, count);
            }
            lines.clear();
            // What a very long line needed is given back.
            lines.shrink_to(2 * CHUNK);
        };
        let mut left = limit;
        let ended = loop {
            if left == 0 {
                break false;
            }
            match rustix::io::read(&source.fd, &mut *buffer) {
                Ok(n) if n > 0 => {
                    left = left.saturating_sub(n);
                    self.taps.copy(&source.id, source.stream, &buffer[..n]);
                    let mut count = 0;
                    for slice in buffer[..n].chunks(SLICE) {
                        count += source.lines.take(slice, lines);
                        if lines.len() >= CHUNK {
                            put(lines, std::mem::take(&mut count));
                        }
                    }
                    put(lines, count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break false,
                // The end; a terminal whose other side is closed answers EIO.
                Ok(_) | Err(_) => {
                    let count = source.lines.end(lines);
                    put(lines, count);
                    break true;
                }
            }
        };
        let source = if ended { self.streams.remove(&token) } else { None };
        if let Some(source) = source {
            forget(&self.epoll, &source);
            self.taps.end(&source.id, Some(source.stream));
        }
    }

    fn report(&self, report: Report) {
        // The event thread reads its reports; a full queue means that it is about to.
        if self.outbox.send(report).is_ok() {
            ring(self.reported.as_fd());
        }
    }
}
