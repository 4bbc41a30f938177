//! A key-value store over TCP: rank 0 serves it from memory, the others connect.
//!
//! For jobs without a store of their own, and for tests with real processes. It trusts its network, as PyTorch's
//! TCPStore does: whoever knows a job's name can join it.

mod client;
mod protocol;
mod server;
#[cfg(test)]
mod tests;

pub use protocol::JOB_BYTES_MAX;

use super::{KeyValue, Peers};
use crate::error::{Error, Result};
use client::Client;
use server::Server;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One process's end of the store. Rank 0's is the store itself: it lives until the job needs it no more, and dropping
/// it answers what has been asked, then ends all connections.
#[derive(Debug)]
pub struct TcpStore(End);

#[derive(Debug)]
enum End {
    Here(Server),
    There(Client),
}

impl TcpStore {
    /// Serves at `host:port`; port 0 is any free one. Two jobs on a machine have different ports, and `job` names keep
    /// a rank of one from joining the other by mistake.
    ///
    /// Errors: [`Error::Io`] where the port is taken.
    pub fn serve(address: &str, job: &str) -> Result<Self> {
        check_job(job)?;
        Server::start(address, job).map(|server| TcpStore(End::Here(server)))
    }

    /// Connects to `host:port`, again and again for as long as `timeout` while nobody serves there yet.
    ///
    /// Errors: [`Error::NotAPeer`] where something else answers, another version of this program, or another job.
    pub fn connect(address: &str, job: &str, timeout: Duration) -> Result<Self> {
        check_job(job)?;
        Client::connect(address, job, timeout).map(|client| TcpStore(End::There(client)))
    }

    /// Where the store is: `host:port`, with the true port.
    pub fn address(&self) -> String {
        match &self.0 {
            End::Here(server) => server.address().to_string(),
            End::There(client) => client.address().to_owned(),
        }
    }

    /// How many keys have a value, as far as this end knows: rank 0's knows.
    #[cfg(any(test, feature = "testing"))]
    pub fn key_count(&self) -> Option<usize> {
        match &self.0 {
            End::Here(server) => Some(server.table().key_count()),
            End::There(_) => None,
        }
    }
}

/// This rank of a job whose rank 0 serves at `host:port`. `timeout` is how long a rank waits for another.
pub fn over_tcp(address: &str, job: &str, rank: u32, ranks: u32, timeout: Duration) -> Result<Peers> {
    let store = match rank {
        0 => TcpStore::serve(address, job)?,
        _ => TcpStore::connect(address, job, timeout)?,
    };
    Peers::new(Arc::new(store), rank, ranks, timeout)
}

impl KeyValue for TcpStore {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result<()> {
        match &self.0 {
            End::Here(server) => server.table().set(key, value, deadline),
            End::There(client) => client.set(key, value, deadline),
        }
    }

    fn wait(&self, key: &str, deadline: Instant) -> Result<Option<Vec<u8>>> {
        match &self.0 {
            End::Here(server) => server.table().wait(key, deadline),
            End::There(client) => client.wait(key, deadline),
        }
    }

    fn remove(&self, key: &str, deadline: Instant) -> Result<()> {
        match &self.0 {
            End::Here(server) => server.table().remove(key, deadline),
            End::There(client) => client.remove(key, deadline),
        }
    }
}

fn check_job(job: &str) -> Result<()> {
    if job.is_empty() || job.len() > JOB_BYTES_MAX {
        let found = job.len();
        return Err(Error::Usage(format!("a job's name of {found} bytes; expected 1 to {JOB_BYTES_MAX}")));
    }
    Ok(())
}
