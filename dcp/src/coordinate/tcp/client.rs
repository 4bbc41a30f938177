//! The store's end that connects: a connection for each call under way, kept for the next.
//!
//! Every operation may be carried out twice with the same result, so one whose connection broke is sent again on a new
//! one.

use super::super::table::HELD_BYTES_MAX;
use super::protocol::{self, Operation, Reply, Request, VERSION, Verdict};
use super::server::WAIT_MAX;
use crate::error::{Error, Result};
use crate::threads::lock;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long to try to connect to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server may take to answer, beyond what it was asked to wait.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server that has been there may be out of reach.
const LOST_MAX: Duration = Duration::from_secs(10);
/// The least, with a deadline that is near or past: a connection that was cut is made again.
const LOST_MIN: Duration = Duration::from_millis(500);
/// How long an unused connection is kept: firewalls forget idle ones without a word.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The pause between tries to connect, at first and at most.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// A handle on a store elsewhere.
#[derive(Debug)]
pub(super) struct Client {
    address: String,
    job: String,
    idle: Mutex<Vec<(TcpStream, Instant)>>,
}

/// Why a try failed.
enum Failure {
    /// Worth another try.
    Lost(io::Error),
    Final(Error),
}

impl Client {
    pub(super) fn connect(address: &str, job: &str, timeout: Duration) -> Result<Self> {
        let client = Client { address: address.to_owned(), job: job.to_owned(), idle: Mutex::default() };
        let connection = client.persist(timeout, "connecting", || client.open())?;
        client.keep(connection);
        Ok(client)
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result<()> {
        loop {
            match self.call(Operation::Set(value), key, deadline)? {
                Reply::Done => return Ok(()),
                Reply::NoRoom if Instant::now() < deadline => {}
                Reply::NoRoom => return Err(Error::StoreFull { room_bytes: HELD_BYTES_MAX as u64 }),
                other => return Err(self.unexpected(&other)),
            }
        }
    }

    pub(super) fn wait(&self, key: &str, deadline: Instant) -> Result<Option<Vec<u8>>> {
        loop {
            // Read before asking: with a deadline already past, the store is asked once.
            let is_last = Instant::now() + WAIT_MAX >= deadline;
            match self.call(Operation::Wait, key, deadline)? {
                Reply::Value(value) => return Ok(Some(value)),
                Reply::NotThere if is_last => return Ok(None),
                Reply::NotThere => {}
                other => return Err(self.unexpected(&other)),
            }
        }
    }

    pub(super) fn remove(&self, key: &str, deadline: Instant) -> Result<()> {
        match self.call(Operation::Remove, key, deadline)? {
            Reply::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// One request and its reply. The server waits no longer than [`WAIT_MAX`], whatever the deadline, and a server out of
    /// reach is looked for until the deadline, from
    /// [`LOST_MIN`] to [`LOST_MAX`].
    fn call(&self, operation: Operation<'_>, key: &str, deadline: Instant) -> Result<Reply<Vec<u8>>> {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = WAIT_MAX.min(left);
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let frame = Request { operation, key, wait_ms }.encode();
        let reply = self.persist(left.clamp(LOST_MIN, LOST_MAX), "reaching the store of rank 0", || {
            let connection = self.idle_connection().map_or_else(|| self.open(), Ok)?;
            let reply = exchange(&connection, &frame).map_err(|error| {
                // The others are likely as dead.
                lock(&self.idle).clear();
                Failure::Lost(error)
            })?;
            self.keep(connection);
            Ok(reply)
        })?;
        Reply::decode(reply).map_err(|why| self.not_a_peer(why))
    }

    /// Tries until it works, fails for good, or has been failing for so long.
    fn persist<T>(
        &self,
        lost_max: Duration,
        action: &'static str,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T> {
        let start = Instant::now();
        let mut pause = TRY_AGAIN.0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Lost(source)) if start.elapsed() >= lost_max => {
                    return Err(Error::Io { object: self.address.clone(), action, source });
                }
                Err(Failure::Lost(_)) => {}
            }
            std::thread::sleep(pause.min(lost_max));
            pause = TRY_AGAIN.1.min(pause * 2);
        }
    }

    fn keep(&self, connection: TcpStream) {
        lock(&self.idle).push((connection, Instant::now()));
    }

    fn idle_connection(&self) -> Option<TcpStream> {
        let mut idle = lock(&self.idle);
        idle.retain(|(_, since)| since.elapsed() < IDLE_MAX);
        idle.pop().map(|(connection, _)| connection)
    }

    /// A new connection, on which both sides have said who they are.
    fn open(&self) -> Result<TcpStream, Failure> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
        for address in self.address.to_socket_addrs().map_err(Failure::Lost)? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(connection) => return self.greet(connection),
                Err(error) => last = error,
            }
        }
        Err(Failure::Lost(last))
    }

    fn greet(&self, connection: TcpStream) -> Result<TcpStream, Failure> {
        let set_up = || {
            connection.set_nodelay(true)?;
            connection.set_read_timeout(Some(WAIT_MAX + REPLY_TIMEOUT))?;
            connection.set_write_timeout(Some(REPLY_TIMEOUT))?;
            protocol::write_hello(&connection, &self.job)?;
            protocol::read_answer(&connection)
        };
        let why = match set_up().map_err(Failure::Lost)? {
            Ok((Verdict::Welcome, VERSION)) => return Ok(connection),
            Ok((Verdict::OtherJob, _)) => {
                format!("it serves another job than `{}`; give each job its own port", self.job)
            }
            Ok((_, version)) => {
                format!("it speaks version {version}, this program {VERSION}; run the same one on all ranks")
            }
            Err(why) => format!("{why}; something else listens there, check host and port"),
        };
        Err(Failure::Final(self.not_a_peer(why)))
    }

    fn not_a_peer(&self, why: String) -> Error {
        Error::NotAPeer { address: self.address.clone(), why }
    }

    fn unexpected(&self, reply: &Reply<Vec<u8>>) -> Error {
        self.not_a_peer(match reply {
            Reply::Refused(why) => format!("it refuses a request: {why}"),
            Reply::Value(bytes) => format!("it answers a request with {} bytes", bytes.len()),
            Reply::Done | Reply::NotThere | Reply::NoRoom => format!("it answers a request with {reply:?}"),
        })
    }
}

fn exchange(connection: &TcpStream, frame: &[u8]) -> io::Result<Vec<u8>> {
    protocol::write_frame(connection, frame)?;
    let byte_len = protocol::read_frame_len(connection)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    protocol::read_frame(connection, byte_len)
}

#[cfg(test)]
impl Client {
    /// What a network does to connections that nobody uses.
    pub(super) fn break_idle_connections(&self) {
        for (connection, _) in lock(&self.idle).iter() {
            connection.shutdown(std::net::Shutdown::Both).expect("connected");
        }
    }
}
