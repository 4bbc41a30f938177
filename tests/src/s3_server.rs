//! An S3 server in this process, for tests: s3s over a folder, behind a layer that makes conditional writes atomic,
//! lists unfinished uploads and injects faults.
//!
//! What it cannot show: latency and limits of a real bucket, access policies, versions, more than one node.

mod faults;
mod uploads;

pub use faults::Faults;

use faults::Fault;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use uploads::Uploads;

/// The only bucket.
pub const BUCKET: &str = "bucket";
const ACCESS_KEY: &str = "test";
const SECRET_KEY: &str = "secret";

/// What kind of server it is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Faults it injects.
    pub faults: Faults,
    /// Whether a conditional write overwrites all the same, as of some stores.
    pub ignores_conditions: bool,
    /// Entries of a page of unfinished uploads, or of their parts.
    pub page_len: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { faults: Faults::default(), ignores_conditions: false, page_len: 1000 }
    }
}

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    outage: Arc<AtomicU64>,
    faults: Arc<RwLock<Faults>>,
    counts: Arc<Counters>,
    _runtime: Runtime,
    _folder: TempDir,
}

/// What a server has seen so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Requests, those that met a fault included.
    pub requests: u64,
    /// Requests that met a fault.
    pub faults: u64,
    /// Requests to read an object or to list.
    pub gets: u64,
    /// Bytes of the replies to those.
    pub get_bytes: u64,
    /// Bytes of objects and parts that were put.
    pub put_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    faults: AtomicU64,
    gets: AtomicU64,
    get_bytes: AtomicU64,
    /// Of the bodies of requests that would put something.
    offered_bytes: AtomicU64,
    /// Of those that did.
    put_bytes: AtomicU64,
    /// Requests that are being carried out.
    under_way: AtomicU64,
}

/// One of the requests under way, until it is dropped.
struct UnderWay<'a>(&'a AtomicU64);

impl<'a> UnderWay<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        UnderWay(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl S3Server {
    /// Starts a server with an empty bucket on a free port of the loopback device.
    ///
    /// Errors: what the folder, the threads or the port give.
    pub fn start(faults: Faults) -> io::Result<Self> {
        Self::start_with(Options { faults, ..Options::default() })
    }

    /// The same, of any kind.
    pub fn start_with(options: Options) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join(BUCKET))?;
        let files =
            s3s_fs::FileSystem::new(folder.path()).map_err(|error| io::Error::other(format!("{error:?}")))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(s3s::auth::SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let layer = Arc::new(Layer {
            service: builder.build(),
            folder: folder.path().to_owned(),
            conditional: Mutex::new(()),
            options,
            uploads: Uploads::default(),
            outage: Arc::new(AtomicU64::new(u64::MAX)),
            faults: Arc::new(RwLock::new(options.faults)),
            counts: Arc::default(),
        });
        let runtime = Runtime::new()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let (outage, faults, counts) = (layer.outage.clone(), layer.faults.clone(), layer.counts.clone());
        runtime.spawn(serve(listener, layer));
        Ok(S3Server { address, outage, faults, counts, _runtime: runtime, _folder: folder })
    }

    /// The variables that point a program at it.
    pub fn environment(&self) -> [(String, String); 4] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
    }

    /// Injects other faults from now on.
    pub fn inject(&self, faults: Faults) {
        *self.faults.write().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Refuses every request from the one on that would put more than so many bytes, counted from now; `None` ends that.
    pub fn refuse_after(&self, put_bytes: Option<u64>) {
        let offered = self.counts.offered_bytes.load(Ordering::Relaxed);
        self.outage.store(put_bytes.map_or(u64::MAX, |more| offered.saturating_add(more)), Ordering::Relaxed);
    }

    /// Waits until nothing has been under way for a while: what a client that is gone had asked for is done.
    pub fn settle(&self) {
        let (mut quiet, mut seen) = (0, 0);
        while quiet < 20 {
            std::thread::sleep(Duration::from_millis(5));
            let requests = self.counts().requests;
            let busy = self.counts.under_way.load(Ordering::Relaxed) > 0 || requests != seen;
            (quiet, seen) = (if busy { 0 } else { quiet + 1 }, requests);
        }
    }

    /// What it has seen so far.
    pub fn counts(&self) -> Counts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            requests: count(&self.counts.requests),
            faults: count(&self.counts.faults),
            gets: count(&self.counts.gets),
            get_bytes: count(&self.counts.get_bytes),
            put_bytes: count(&self.counts.put_bytes),
        }
    }
}

async fn serve(listener: TcpListener, layer: Arc<Layer>) {
    while let Ok((stream, _)) = listener.accept().await {
        // Otherwise an answer in two packets waits for the first to be acknowledged, 40 ms each.
        let _ = stream.set_nodelay(true);
        let layer = layer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let layer = layer.clone();
                async move { layer.answer(request).await }
            });
            // A connection that a fault closed is an error here, and meant to be.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

struct Layer {
    service: S3Service,
    folder: PathBuf,
    /// s3s-fs looks whether a key exists and then writes it: without this lock two writers could both be first.
    conditional: Mutex<()>,
    options: Options,
    uploads: Uploads,
    /// Bytes offered after which every request is refused; 0 while all are.
    outage: Arc<AtomicU64>,
    faults: Arc<RwLock<Faults>>,
    counts: Arc<Counters>,
}

impl Layer {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<s3s::Body>> {
        let number = self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let (method, headers) = (request.method(), request.headers());
        let (is_get, is_put) = (method == Method::GET, method == Method::PUT);
        let faults = *self.faults.read().unwrap_or_else(PoisonError::into_inner);
        let fault = faults.of(number, is_get, is_put && is_conditional(headers));
        self.counts.faults.fetch_add(u64::from(fault.is_some()), Ordering::Relaxed);
        match fault {
            Some(Fault::SlowDown) => return Ok(failure(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
            Some(Fault::Reset) => return Err(io::Error::other("an injected reset")),
            Some(Fault::Conflict) => return Ok(failure(StatusCode::CONFLICT, "ConditionalRequestConflict")),
            Some(Fault::NoBucket) => return Ok(failure(StatusCode::NOT_FOUND, "NoSuchBucket")),
            Some(Fault::Skewed) => return Ok(faults::skewed(method == Method::HEAD)),
            Some(Fault::Slow) => tokio::time::sleep(Duration::from_millis(faults.delay_ms)).await,
            _ => {}
        }
        // s3s-fs makes the folder of any bucket that something is put into.
        if request.uri().path().trim_start_matches('/').split('/').next() != Some(BUCKET) {
            return Ok(failure(StatusCode::NOT_FOUND, "NoSuchBucket"));
        }
        let length = if is_put { content_length(headers) } else { 0 };
        let offered = self.counts.offered_bytes.fetch_add(length, Ordering::Relaxed) + length;
        let limit = self.outage.load(Ordering::Relaxed);
        if limit == 0 || offered > limit {
            self.outage.store(0, Ordering::Relaxed);
            return Ok(failure(StatusCode::FORBIDDEN, "AccessDenied"));
        }
        // In a task of its own: what was begun is carried out, as by S3, when the client is gone before it is answered.
        let carried_out = tokio::spawn(self.clone().carry_out(request, length));
        let response = carried_out.await.map_err(io::Error::other)??;
        if is_get {
            self.counts.gets.fetch_add(1, Ordering::Relaxed);
            self.counts.get_bytes.fetch_add(content_length(response.headers()), Ordering::Relaxed);
        }
        match fault {
            Some(Fault::DoneBut500) => Ok(failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
            Some(Fault::LostReply) => Err(io::Error::other("an injected loss")),
            Some(Fault::Truncated) => faults::truncated(response).await,
            _ => Ok(response),
        }
    }
}

impl Layer {
    async fn carry_out(
        self: Arc<Self>,
        request: Request<Incoming>,
        length: u64,
    ) -> io::Result<Response<s3s::Body>> {
        let _under_way = UnderWay::new(&self.counts.under_way);
        let guard = match request.method() == Method::PUT && is_conditional(request.headers()) {
            true => Some(self.conditional.lock().await),
            false => None,
        };
        if matches!(*request.method(), Method::GET | Method::HEAD) && self.is_folder(request.uri().path()) {
            return Ok(failure(StatusCode::NOT_FOUND, "NoSuchKey"));
        }
        if guard.is_some() && self.options.ignores_conditions {
            self.forget(request.uri().path());
        }
        let seen = uploads::Seen::of(&request);
        if !self.uploads.knows(&seen) {
            return Ok(failure(StatusCode::NOT_FOUND, "NoSuchUpload"));
        }
        let response = self.service.call(request.map(s3s::Body::from)).await;
        drop(guard);
        let response = response.map_err(|error| io::Error::other(format!("{error:?}")))?;
        let response = self.uploads.note(seen, response, self.options.page_len).await?;
        if response.status().is_success() {
            self.counts.put_bytes.fetch_add(length, Ordering::Relaxed);
        }
        Ok(response)
    }

    /// Whether a key of the bucket is a folder of s3s-fs, which answers 500 where S3 has no such key.
    fn is_folder(&self, path: &str) -> bool {
        let key = path.trim_start_matches('/');
        key.trim_end_matches('/') != BUCKET && self.folder.join(key).is_dir()
    }

    /// Removes an object, so that a condition on its absence holds: the signature covers the header, which can therefore
    /// not be left out. What is not there needs no removing.
    fn forget(&self, path: &str) {
        let _ = std::fs::remove_file(self.folder.join(path.trim_start_matches('/')));
    }
}

fn is_conditional(headers: &HeaderMap) -> bool {
    headers.contains_key("if-none-match") || headers.contains_key("if-match")
}

/// The length that a message's headers announce.
fn content_length(headers: &HeaderMap) -> u64 {
    headers.get("content-length").and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)
}

fn failure(status: StatusCode, code: &str) -> Response<s3s::Body> {
    let mut response = Response::new(s3s::Body::from(format!("<Error><Code>{code}</Code></Error>")));
    *response.status_mut() = status;
    response
}

/// SplitMix64 (Steele, Lea and Flood 2014) of the pair.
pub(crate) fn draw(seed: u64, number: u64) -> u64 {
    let mut bits = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
