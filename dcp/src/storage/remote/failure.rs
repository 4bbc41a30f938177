//! What a store's errors mean here, and which requests are worth another try.

use crate::error::Error;
use object_store::Error as StoreError;
use object_store::client::{HttpError, HttpErrorKind};
use std::error::Error as StdError;
use std::time::Duration;

/// Waited before each further try of a request that the client itself gives up at once.
pub(super) const PAUSES: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1), Duration::from_secs(3)];

/// Where the client asks for the role of a machine, when it is given no credentials.
const METADATA_SERVICES: [&str; 2] = ["169.254.169.254", "metadata.google.internal"];
const NO_CREDENTIALS: &str = "no credentials were given, and this machine has no role of its own; set \
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (S3), GOOGLE_APPLICATION_CREDENTIALS (gs) or AZURE_STORAGE_ACCOUNT_KEY \
    (az), or AWS_SKIP_SIGNATURE=true for a public bucket";

/// An error of a request: what was being done to which object.
pub(super) fn failure(object: &str, action: &'static str, error: StoreError) -> Error {
    let object = object.to_owned();
    let text = said(&error);
    let code = element(&text, "Code");
    if lacks_credentials(&error) {
        return Error::NoAccess { object, action, why: NO_CREDENTIALS.to_owned() };
    }
    match (&error, code) {
        (_, Some("NoSuchBucket")) => Error::NoBucket { object, action },
        (_, Some("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired"))
        | (StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. }, _) => {
            Error::NoAccess { object, action, why: refusal(&text) }
        }
        (StoreError::NotFound { .. }, _) => Error::NotFound { object },
        (StoreError::AlreadyExists { .. }, _) => Error::AlreadyExists { object },
        // The object was replaced between two reads, which nothing that keeps to the rules does.
        (StoreError::Precondition { .. }, _) => Error::Changed { object },
        _ => match kind(&error) {
            Some(HttpErrorKind::Connect) => Error::Unreachable { object, action, why: root_cause(&error) },
            Some(HttpErrorKind::Timeout) => Error::NoAnswer { object, action },
            _ => io_failure(object, action, &error),
        },
    }
}

/// Whether the client has asked the machine for a role of its own, which it does where it was given no credentials.
pub(super) fn lacks_credentials(error: &StoreError) -> bool {
    let text = said(error);
    METADATA_SERVICES.iter().any(|service| text.contains(service))
}

/// An error without a meaning of its own.
pub(super) fn io_failure(object: String, action: &'static str, error: &StoreError) -> Error {
    Error::Io { object, action, source: std::io::Error::other(shortened(&said(error))) }
}

/// Whether a request that ended so may have been carried out all the same: a reply can be lost, and a second try within
/// the client then meets the work of the first.
pub(super) fn is_uncertain(error: &StoreError) -> bool {
    !matches!(
        error,
        StoreError::PermissionDenied { .. }
            | StoreError::Unauthenticated { .. }
            | StoreError::NotImplemented { .. }
            | StoreError::NotSupported { .. }
            | StoreError::InvalidPath { .. }
    )
}

/// Whether the connection was closed before the reply had come whole. The client tries again only where the request
/// went unanswered and may be repeated, which leaves out listings that break off and creation.
pub(super) fn is_broken_off(error: &StoreError) -> bool {
    matches!(kind(error), Some(HttpErrorKind::Interrupted | HttpErrorKind::Request | HttpErrorKind::Decode))
}

/// Makes a request that may be repeated, again where its reply breaks off.
pub(super) async fn tried<T>(request: impl AsyncFn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    for pause in PAUSES {
        match request().await {
            Err(error) if is_broken_off(&error) => tokio::time::sleep(pause).await,
            outcome => return outcome,
        }
    }
    request().await
}

/// Whether a refusal comes without the store's reason, as every reply to a HEAD does.
pub(super) fn is_unexplained(error: &StoreError) -> bool {
    let text = said(error);
    let refused = matches!(error, StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. })
        || text.contains("400 Bad Request");
    refused && element(&text, "Code").is_none()
}

/// What the connection did.
fn kind(error: &StoreError) -> Option<HttpErrorKind> {
    causes(error).find_map(|cause| cause.downcast_ref::<HttpError>()).map(HttpError::kind)
}

fn causes(error: &StoreError) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}

fn root_cause(error: &StoreError) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The whole text of an error: each of its causes has it too, so that it is to be shown once.
fn said(error: &StoreError) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The text with the store's XML replaced by what it says.
fn shortened(text: &str) -> String {
    let (Some(code), Some(at)) = (element(text, "Code"), text.find('<')) else { return text.to_owned() };
    let message = element(text, "Message").map_or_else(String::new, |message| format!(" ({message})"));
    format!("{}{code}{message}", &text[..at])
}

/// The text of an element of the store's XML.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (found, _) = rest.split_once(&format!("</{name}>"))?;
    Some(found.trim()).filter(|found| !found.is_empty())
}

/// Why a request was refused, from a text with the store's XML, and what to do.
pub(super) fn refusal(text: &str) -> String {
    let Some(code) = element(text, "Code") else {
        return "the store gives no reason; check the credentials and what they allow".to_owned();
    };
    let advice = match code {
        "RequestTimeTooSkewed" | "RequestExpired" => {
            "the clock of this machine differs from the store's by more than it admits, 15 minutes as a rule: set it"
        }
        "InvalidAccessKeyId" => "the store does not know the access key; check it and the endpoint",
        "SignatureDoesNotMatch" => "the secret key is not that of the access key; check both, and the region",
        "ExpiredToken" | "TokenRefreshRequired" => "the session has expired; get new credentials",
        "InvalidToken" => "the session token is not valid; it belongs to its access key, so set both anew",
        _ => "check the credentials and what they allow",
    };
    let message = element(text, "Message").map_or_else(String::new, |message| format!(" ({message})"));
    format!("{code}{message}; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> StoreError {
        StoreError::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn without_credentials_it_says_which_to_give() {
        let text = "Error performing PUT http://169.254.169.254/latest/api/token in 3.1ms - 403 Forbidden";
        let error = failure("s3://b/o", "listing", generic(text));
        assert!(error.to_string().contains("set AWS_ACCESS_KEY_ID"), "{error}");
        assert!(lacks_credentials(&generic(text)) && !lacks_credentials(&generic("503 SlowDown")));
    }

    #[test]
    fn the_text_of_a_store_is_said_once_and_without_its_xml() {
        let xml = "Server returned 503: <?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Reduce</Message></Error>";
        let Error::Io { source, .. } = failure("s3://b/o", "writing", generic(xml)) else { panic!("not Io") };
        assert_eq!(source.to_string(), "Server returned 503: SlowDown (Reduce)");
        assert!(source.source().is_none());
        let Error::Io { source, .. } = failure("s3://b/o", "writing", generic("a < b")) else {
            panic!("not Io")
        };
        assert_eq!(source.to_string(), "a < b");
    }

    #[test]
    fn codes_have_their_meaning_whatever_the_status() {
        let text = |code: &str| generic(&format!("400 Bad Request: <Error><Code>{code}</Code></Error>"));
        let error = failure("s3://b/o", "reading", text("ExpiredToken")).to_string();
        assert!(error.ends_with("ExpiredToken; the session has expired; get new credentials"), "{error}");
        let error = failure("s3://b/o", "reading", text("InvalidToken")).to_string();
        assert!(error.contains("s3://b/o: reading was refused: InvalidToken; the session token"), "{error}");
        let unknown = StoreError::PermissionDenied {
            path: "o".to_owned(),
            source: "403 Forbidden: <Error><Code>InvalidAccessKeyId</Code></Error>".into(),
        };
        let error = failure("s3://b/o", "reading", unknown).to_string();
        assert!(
            error.ends_with("the store does not know the access key; check it and the endpoint"),
            "{error}"
        );
        assert!(matches!(failure("o", "reading", text("NoSuchBucket")), Error::NoBucket { .. }));
        assert!(matches!(failure("o", "reading", text("Other")), Error::Io { .. }));
        assert!(is_unexplained(&generic("400 Bad Request: ")) && !is_unexplained(&text("Other")));
    }
}
