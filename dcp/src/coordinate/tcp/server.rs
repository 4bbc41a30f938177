//! The store's end that others connect to: a thread for each connection, asleep while nothing is asked.

use super::super::table::{Table, Taken};
use super::protocol::{self, Operation, Reply, Request, Verdict};
use crate::error::{Error, Result};
use crate::threads::lock;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections at a time: a few for each rank of the largest jobs.
const CONNECTIONS_MAX: usize = 1 << 16;
/// The stack of a connection's thread, whose buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;
/// How long a connection may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent between requests: longer than clients keep one that they do not use.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a connection may stand still inside a request or reply.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest wait in one request. Clients ask again, so a client that is gone is noticed.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long the end of the server waits for replies under way.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait after the system refused a connection, for lack of descriptors or threads.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

/// A running server; it ends when dropped.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    table: Table,
    job: String,
    stopping: AtomicBool,
    open: Mutex<HashMap<u64, TcpStream>>,
    closed_one: Condvar,
}

impl Server {
    pub(super) fn start(address: &str, job: &str) -> Result<Self> {
        let failed = |action| {
            let object = address.to_owned();
            move |source| Error::Io { object, action, source }
        };
        let listener = TcpListener::bind(address).map_err(failed("listening"))?;
        let local = listener.local_addr().map_err(failed("listening"))?;
        let shared = Arc::new(Shared {
            table: Table::new(),
            job: job.to_owned(),
            stopping: AtomicBool::new(false),
            open: Mutex::default(),
            closed_one: Condvar::new(),
        });
        let accepting = {
            let shared = shared.clone();
            thread("ranks-accept", move || shared.accept(&listener)).map_err(failed("starting a thread"))?
        };
        Ok(Server { shared, address: local, accepting: Some(accepting) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn table(&self) -> &Table {
        &self.shared.table
    }
}

impl Drop for Server {
    /// What was asked is answered: a rank whose last word has arrived learns so.
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.table.close();
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        // A connection wakes the thread that accepts them; without one, it sleeps on and is left to itself.
        let woken = TcpStream::connect_timeout(&(ip, self.address.port()).into(), LEAVE_TIMEOUT);
        if let (Ok(_), Some(accepting)) = (woken, self.accepting.take()) {
            let _ = accepting.join();
        }
        let mut open = lock(&self.shared.open);
        for connection in open.values() {
            let _ = connection.shutdown(Shutdown::Read);
        }
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        while !open.is_empty() && Instant::now() < deadline {
            let timeout = deadline.saturating_duration_since(Instant::now());
            let waited = self.shared.closed_one.wait_timeout(open, timeout);
            open = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for (id, accepted) in (0..).zip(listener.incoming()) {
            if self.stopping.load(Ordering::SeqCst) {
                break;
            }
            let started = accepted.and_then(|connection| self.clone().start(id, connection));
            if started.is_err() {
                std::thread::sleep(REFUSED_PAUSE);
            }
        }
    }

    fn start(self: Arc<Self>, id: u64, connection: TcpStream) -> io::Result<()> {
        let handle = connection.try_clone()?;
        {
            let mut open = lock(&self.open);
            if open.len() >= CONNECTIONS_MAX {
                return Err(io::Error::other("too many connections"));
            }
            open.insert(id, handle);
        }
        let leaving = Leaving { shared: self.clone(), id };
        // An error ends the connection, which is all that can be said to the other side.
        let serve = move || drop((self.serve(&connection), leaving));
        thread("ranks-connection", serve).map(drop)
    }

    fn serve(&self, connection: &TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        connection.set_write_timeout(Some(STALL_TIMEOUT))?;
        connection.set_read_timeout(Some(HELLO_TIMEOUT))?;
        let Some(verdict) = protocol::read_hello(connection, &self.job)? else { return Ok(()) };
        protocol::write_answer(connection, verdict)?;
        if verdict != Verdict::Welcome {
            return Ok(());
        }
        while !self.stopping.load(Ordering::SeqCst) {
            connection.set_read_timeout(Some(IDLE_TIMEOUT))?;
            let Some(byte_len) = protocol::read_frame_len(connection)? else { break };
            connection.set_read_timeout(Some(STALL_TIMEOUT))?;
            let frame = protocol::read_frame(connection, byte_len)?;
            let request = Request::decode(&frame);
            let reply = match &request {
                Ok(request) => self.answer(request),
                Err(why) => Reply::Refused(why.clone()),
            };
            protocol::write_frame(connection, &reply.encode())?;
            if request.is_err() {
                break;
            }
        }
        Ok(())
    }

    fn answer(&self, request: &Request<'_>) -> Reply<Arc<[u8]>> {
        let deadline = Instant::now() + WAIT_MAX.min(Duration::from_millis(request.wait_ms.into()));
        match request.operation {
            Operation::Set(value) => match self.table.offer(request.key, value, deadline) {
                Ok(Taken::Yes) => Reply::Done,
                Ok(Taken::Full) => Reply::NoRoom,
                Err(error) => Reply::Refused(error.to_string()),
            },
            Operation::Wait => match self.table.await_value(request.key, deadline) {
                Some(value) => Reply::Value(value),
                None => Reply::NotThere,
            },
            Operation::Remove => {
                self.table.take_out(request.key);
                Reply::Done
            }
        }
    }
}

/// Takes a connection off the list, however its thread ends.
struct Leaving {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        lock(&self.shared.open).remove(&self.id);
        self.shared.closed_one.notify_all();
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(body)
}
