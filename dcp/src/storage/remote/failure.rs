//! What a store's errors mean here.

use crate::error::Error;
use object_store::Error as StoreError;

/// An error of a request: what was being done to which object.
pub(super) fn failure(object: &str, action: &'static str, error: StoreError) -> Error {
    let object = object.to_owned();
    match error {
        StoreError::NotFound { .. } => Error::NotFound { object },
        StoreError::AlreadyExists { .. } => Error::AlreadyExists { object },
        // The object was replaced between two reads, which nothing that keeps to the rules does.
        StoreError::Precondition { .. } => Error::Changed { object },
        StoreError::PermissionDenied { source, .. } | StoreError::Unauthenticated { source, .. } => {
            Error::NoAccess { object, action, source }
        }
        error => Error::Io { object, action, source: std::io::Error::other(error) },
    }
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
