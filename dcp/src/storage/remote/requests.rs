//! Requests that the `object_store` crate has no call for: it signs them, and they are sent and tried again here.

use super::runtime::wait;
use crate::error::{Error, Result};
use futures_util::StreamExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpRequest, HttpRequestBody, HttpResponse, ReqwestConnector,
};
use object_store::path::Path;
use object_store::signer::{Method, SignedUrlOptions, Signer};
use object_store::{ClientOptions, Error as StoreError};
use std::sync::Arc;
use std::time::Duration;

/// A signature is made for each try, and good for a slow one.
const SIGNATURE_LIFETIME: Duration = Duration::from_secs(600);
/// A request is tried so often, and the pause doubled each time: one minute in all.
const TRIES: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A page of a listing has a thousand entries of at most a few kilobytes each.
const REPLY_BYTES_MAX: usize = 16 << 20;
/// Of an answer that says no, so much is shown.
const REFUSAL_BYTES_SHOWN: usize = 300;

/// Signed `GET` requests.
#[derive(Debug)]
pub(super) struct Requests {
    signer: Arc<dyn Signer>,
    client: HttpClient,
}

/// How one try ended, where it gave no page.
enum Failure {
    /// It may go better next time.
    Again(std::io::Error),
    /// Nothing is there by this name.
    NotFound,
    Final(Error),
}

impl Requests {
    pub(super) fn new(signer: Arc<dyn Signer>, options: &ClientOptions) -> object_store::Result<Self> {
        Ok(Requests { signer, client: ReqwestConnector::default().connect(options)? })
    }

    /// The reply to a query about a key; `None` where the store answers 404.
    pub(super) fn get(
        &self,
        object: &str,
        action: &'static str,
        path: &Path,
        query: &[(&str, &str)],
    ) -> Result<Option<Vec<u8>>> {
        wait(async {
            let mut pause = FIRST_PAUSE;
            for tried in 1.. {
                let source = match self.attempt(object, action, path, query).await {
                    Ok(page) => return Ok(Some(page)),
                    Err(Failure::NotFound) => return Ok(None),
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::Again(source)) => source,
                };
                if tried == TRIES {
                    return Err(Error::Io { object: object.to_owned(), action, source });
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            unreachable!("the last try returns")
        })?
    }

    async fn attempt(
        &self,
        object: &str,
        action: &'static str,
        path: &Path,
        query: &[(&str, &str)],
    ) -> Result<Vec<u8>, Failure> {
        let options = SignedUrlOptions::default().with_query(query.iter().copied());
        let signed = self.signer.signed_url_opts(Method::GET, path, SIGNATURE_LIFETIME, &options).await;
        let url = signed.map_err(|error| match error {
            error @ StoreError::Generic { .. } if !super::failure::lacks_credentials(&error) => {
                Failure::Again(std::io::Error::other(error))
            }
            error => Failure::Final(super::failure::failure(object, action, error)),
        })?;
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() =
            url.as_str().parse().map_err(|error| Failure::Again(std::io::Error::other(error)))?;
        let response = self.client.execute(request).await;
        let response = response.map_err(|error| Failure::Again(std::io::Error::other(error)))?;
        let status = response.status();
        let body = body(response).await?;
        match status.as_u16() {
            200..300 => Ok(body),
            404 => Err(Failure::NotFound),
            401 | 403 => {
                let why = super::failure::refusal(&refusal(status.as_str(), &body));
                Err(Failure::Final(Error::NoAccess { object: object.to_owned(), action, why }))
            }
            408 | 429 | 500 | 502..=504 => {
                Err(Failure::Again(std::io::Error::other(refusal(status.as_str(), &body))))
            }
            _ => {
                let source = std::io::Error::other(refusal(status.as_str(), &body));
                Err(Failure::Final(Error::Io { object: object.to_owned(), action, source }))
            }
        }
    }
}

async fn body(response: HttpResponse) -> Result<Vec<u8>, Failure> {
    let again = |error| Failure::Again(error);
    let mut stream = response.into_body().bytes_stream();
    let mut whole = Vec::new();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.map_err(|error| again(std::io::Error::other(error)))?;
        if whole.len() + bytes.len() > REPLY_BYTES_MAX {
            return Err(again(std::io::Error::other("the reply is longer than any page of a listing")));
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(whole)
}

fn refusal(status: &str, body: &[u8]) -> String {
    let body = String::from_utf8_lossy(&body[..body.len().min(REFUSAL_BYTES_SHOWN)]);
    format!("the store answers {status}: {body}")
}
