//! What can go wrong with a request, and how that looks.

use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// How many of a hundred requests meet a fault of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Answered 503 SlowDown, not carried out.
    pub slow_down: u64,
    /// Connection closed before the request is looked at.
    pub reset: u64,
    /// Carried out, and answered 500.
    pub done_but_500: u64,
    /// Carried out, and the connection closed instead of an answer.
    pub lost_reply: u64,
    /// A conditional write answered 409 ConditionalRequestConflict, not carried out. Others are not hit.
    pub conflict: u64,
    /// Of the body of a reply to a GET, the second half never comes, and the connection is closed. Others are not hit.
    pub truncated: u64,
    /// Answered 403 RequestTimeTooSkewed, not carried out.
    pub skewed: u64,
    /// Answered 404 NoSuchBucket, not carried out.
    pub no_bucket: u64,
    /// Answered so late.
    pub slow: u64,
    /// How late, in milliseconds.
    pub delay_ms: u64,
    /// Which requests: the same seed meets the same faults, as far as requests come in the same order.
    pub seed: u64,
}

impl Faults {
    /// A few of each kind that passes by itself.
    pub const FEW: Faults = Faults {
        slow_down: 3,
        reset: 2,
        done_but_500: 2,
        lost_reply: 1,
        conflict: 5,
        truncated: 5,
        skewed: 0,
        no_bucket: 0,
        slow: 5,
        delay_ms: 50,
        seed: 1,
    };
}

/// What happens to one request; see [`Faults`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    SlowDown,
    Reset,
    DoneBut500,
    LostReply,
    Conflict,
    Truncated,
    Skewed,
    NoBucket,
    Slow,
}

impl Faults {
    /// What request `number` meets.
    pub(super) fn of(&self, number: u64, is_get: bool, is_conditional: bool) -> Option<Fault> {
        let shares = [
            (self.slow_down, Fault::SlowDown),
            (self.reset, Fault::Reset),
            (self.done_but_500, Fault::DoneBut500),
            (self.lost_reply, Fault::LostReply),
            (self.skewed, Fault::Skewed),
            (self.no_bucket, Fault::NoBucket),
            (self.slow, Fault::Slow),
            (if is_conditional { self.conflict } else { 0 }, Fault::Conflict),
            (if is_get { self.truncated } else { 0 }, Fault::Truncated),
        ];
        let mut drawn = super::draw(self.seed, number) % 100;
        for (share, fault) in shares {
            match drawn.checked_sub(share) {
                None => return Some(fault),
                Some(rest) => drawn = rest,
            }
        }
        None
    }
}

/// As S3 answers who signs with another time; a HEAD gets no body.
pub(super) fn skewed(is_head: bool) -> Response<s3s::Body> {
    let mut response = Response::new(match is_head {
        true => s3s::Body::empty(),
        false => s3s::Body::from(
            "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the \
             current time is too large.</Message></Error>"
                .to_owned(),
        ),
    });
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

/// The reply with the second half of its body missing, announced at its whole length.
pub(super) async fn truncated(response: Response<s3s::Body>) -> io::Result<Response<s3s::Body>> {
    let (mut head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| io::Error::other(format!("{error:?}")))?.to_bytes();
    head.headers.insert("content-length", body.len().into());
    let half = Half { bytes: Some(body.slice(..body.len() / 2)), polls: 0 };
    Ok(Response::from_parts(head, s3s::Body::http_body_unsync(half)))
}

/// A body that breaks off.
struct Half {
    bytes: Option<Bytes>,
    polls: u32,
}

impl Body for Half {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.polls += 1;
        match self.bytes.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            // What came before goes out only while there is something to wait for.
            None if self.polls < 5 => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(Some(Err(io::Error::other("an injected truncation")))),
        }
    }
}
