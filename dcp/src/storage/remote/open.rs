//! From a URL and the environment to a store: one function for each scheme.

use super::store::RemoteStore;
use super::uploads::Uploads;
use crate::error::{Error, Result};
use crate::storage::environment::Environment;
use crate::storage::{Key, Place};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::multipart::MultipartStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use std::sync::Arc;
use std::time::Duration;

/// A part of 64 MiB must go through within this, at 0.6 MB/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A request is tried again for so long, less than signatures and credentials are good for.
const RETRY_TIMEOUT: Duration = Duration::from_secs(180);

/// Variables that `docs/stores.md` names; misspelling one is an error.
const AWS_VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ALLOW_HTTP",
    "AWS_SKIP_SIGNATURE",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_REQUEST_PAYER",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_TIMEOUT",
    "AWS_CONNECT_TIMEOUT",
    MAX_ATTEMPTS,
];
/// How often a request is made at most, by the name that the AWS SDKs have for it.
const MAX_ATTEMPTS: &str = "AWS_MAX_ATTEMPTS";
const GOOGLE_VARIABLES: &[&str] = &[
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_BASE_URL",
];
const AZURE_VARIABLES: &[&str] = &[
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
];

/// `s3://bucket/prefix`.
pub fn open_s3(rest: &str, environment: &Environment) -> Result<Place> {
    let (bucket, key) = bucket_and_key("s3", rest)?;
    if environment.get("AWS_PROFILE").is_some() && environment.get("AWS_ACCESS_KEY_ID").is_none() {
        return Err(Error::BadSetting {
            name: "AWS_PROFILE".to_owned(),
            why: "profiles of ~/.aws are not read; export the credentials first: \
                  eval \"$(aws configure export-credentials --format env)\""
                .to_owned(),
        });
    }
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_retry(s3_retry(environment)?)
        // Free to compute, and the server then refuses what the network changed.
        .with_checksum_algorithm(Checksum::CRC64NVME);
    // The AWS SDKs reach any endpoint that is named; a plain-text one is meant.
    let endpoint = environment.get("AWS_ENDPOINT_URL_S3").or(environment.get("AWS_ENDPOINT_URL"));
    let endpoint = endpoint.or(environment.get("AWS_ENDPOINT"));
    let mut client =
        client().with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")));
    for (key, value) in environment.settings::<AmazonS3ConfigKey>("AWS_", AWS_VARIABLES)? {
        match key {
            AmazonS3ConfigKey::Client(key) => client = client.with_config(key, value),
            key => builder = builder.with_config(key, value),
        }
    }
    let skips_signature = builder.get_config_value(&AmazonS3ConfigKey::SkipSignature);
    let store = builder.with_client_options(client.clone()).build();
    let store = Arc::new(store.map_err(|error| bad_url("s3", rest, &error))?);
    let uploads = match skips_signature.as_deref() {
        None | Some("false") => {
            Ok(Uploads::new(store.clone(), &client).map_err(|error| bad_url("s3", rest, &error))?)
        }
        Some(_) => Err("its requests are not signed (AWS_SKIP_SIGNATURE), and only a signed one may ask"),
    };
    Ok(place(format!("s3://{bucket}"), key, store, uploads))
}

/// `gs://bucket/prefix`.
pub fn open_google(rest: &str, environment: &Environment) -> Result<Place> {
    let (bucket, key) = bucket_and_key("gs", rest)?;
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_client_options(client())
        .with_retry(retry());
    for (key, value) in environment.settings::<GoogleConfigKey>("GOOGLE_", GOOGLE_VARIABLES)? {
        builder = builder.with_config(key, value);
    }
    let store = builder.build().map_err(|error| bad_url("gs", rest, &error))?;
    let uploads = Err("Google Cloud Storage is asked for them by another protocol; \
                       give the bucket a lifecycle rule with AbortIncompleteMultipartUpload");
    Ok(place(format!("gs://{bucket}"), key, Arc::new(store), uploads))
}

/// `az://container/prefix`; the account comes from the environment.
pub fn open_azure(rest: &str, environment: &Environment) -> Result<Place> {
    let (container, key) = bucket_and_key("az", rest)?;
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(container)
        .with_client_options(client())
        .with_retry(retry());
    for (key, value) in environment.settings::<AzureConfigKey>("AZURE_", AZURE_VARIABLES)? {
        builder = builder.with_config(key, value);
    }
    let store = builder.build().map_err(|error| bad_url("az", rest, &error))?;
    let uploads =
        Err("Azure keeps no list of them; it drops blocks that are not committed within a week by itself");
    Ok(place(format!("az://{container}"), key, Arc::new(store), uploads))
}

fn place(
    url: String,
    key: Key,
    store: Arc<impl ObjectStore + MultipartStore>,
    uploads: Result<Uploads, &'static str>,
) -> Place {
    Place { store: Arc::new(RemoteStore::new(url, store.clone(), Some(store), uploads)), key }
}

/// `https://host/path`, for reading.
pub fn open_https(rest: &str, _environment: &Environment) -> Result<Place> {
    open_web("https", rest)
}

/// `http://host/path`, for reading.
pub fn open_http(rest: &str, _environment: &Environment) -> Result<Place> {
    open_web("http", rest)
}

fn open_web(scheme: &str, rest: &str) -> Result<Place> {
    let (host, key) = bucket_and_key(scheme, rest)?;
    let url = format!("{scheme}://{host}");
    let builder = HttpBuilder::new().with_url(&url).with_retry(retry());
    let builder = builder.with_client_options(client().with_allow_http(scheme == "http"));
    let store = Arc::new(builder.build().map_err(|error| bad_url(scheme, rest, &error))?);
    let uploads = Err("it is a web server, and nothing is written to it");
    Ok(Place { store: Arc::new(RemoteStore::new(url, store, None, uploads)), key })
}

/// Splits what follows the scheme. A key is taken as it is: stores show it so, and nothing in it is encoded.
fn bucket_and_key<'a>(scheme: &str, rest: &'a str) -> Result<(&'a str, Key)> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        let why = format!("a bucket follows {scheme}://, as in {scheme}://bucket/run/step-1000");
        return Err(Error::BadUrl { url: format!("{scheme}://{rest}"), why });
    }
    Ok((bucket, Key::new(key.trim_end_matches('/'))?))
}

fn bad_url(scheme: &str, rest: &str, error: &object_store::Error) -> Error {
    Error::BadUrl { url: format!("{scheme}://{rest}"), why: error.to_string() }
}

fn client() -> ClientOptions {
    ClientOptions::new().with_timeout(REQUEST_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT)
}

fn s3_retry(environment: &Environment) -> Result<RetryConfig> {
    let Some(value) = environment.get(MAX_ATTEMPTS) else { return Ok(retry()) };
    match value.parse::<usize>().ok().and_then(|attempts| attempts.checked_sub(1)) {
        Some(max_retries) => Ok(RetryConfig { max_retries, ..retry() }),
        None => Err(Error::BadSetting {
            name: MAX_ATTEMPTS.to_owned(),
            why: format!("`{value}` is no number of attempts; give 1 or more"),
        }),
    }
}

fn retry() -> RetryConfig {
    RetryConfig { retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() }
}
