//! The public keys of those who issue tokens: fetched, kept, and fetched anew in time.
//!
//! Everybody who names the same source shares one cache of it.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Request, Uri};
use parking_lot::Mutex;
use posthorn_core::auth::jwt::key_cache::{Advice, KeyCache};
use posthorn_core::auth::jwt::{self, Claims, KEY_SET_BYTES_MAX, KeySet, TokenError};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::jwt::KeySource;
use crate::integration::http::{HttpClient, USER_AGENT};

/// Who needs keys waits no longer than this for them.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long keys are kept if their issuer does not say.
const AGE_DEFAULT: Duration = Duration::from_secs(10 * 60);
/// Whatever the issuer says.
const AGE_MIN: Duration = Duration::from_secs(60);
const AGE_MAX: Duration = Duration::from_secs(60 * 60);
/// A file is read anew this often, so that one that was replaced is noticed.
const FILE_AGE: Duration = Duration::from_secs(10);

/// All that a node knows of issuers.
#[derive(Clone)]
pub struct KeySets {
    client: HttpClient,
    /// Of a source that nobody names any more, the cache is gone.
    known: Arc<Mutex<Vec<Weak<IssuerKeys>>>>,
}

/// The keys of one issuer.
pub struct IssuerKeys {
    source: KeySource,
    client: HttpClient,
    cache: Mutex<KeyCache>,
    /// How many fetches are over.
    fetched: watch::Sender<u64>,
}

/// Why a token is not believed.
#[derive(Debug, thiserror::Error)]
pub enum NotVerified {
    #[error("{0}")]
    Token(#[from] TokenError),
    /// Nothing is said of the token: the issuer's keys cannot be had just now.
    #[error("the keys of {0} cannot be had")]
    NoKeys(KeySource),
}

impl KeySets {
    pub fn new(client: HttpClient) -> KeySets {
        KeySets { client, known: Arc::default() }
    }

    pub fn of(&self, source: &KeySource) -> Arc<IssuerKeys> {
        let mut known = self.known.lock();
        let mut held = known.iter().filter_map(Weak::upgrade);
        if let Some(keys) = held.find(|keys| keys.source == *source) {
            return keys;
        }
        known.retain(|keys| keys.strong_count() > 0);
        let keys = Arc::new(IssuerKeys {
            source: source.clone(),
            client: self.client.clone(),
            cache: Mutex::new(KeyCache::new(Instant::now())),
            fetched: watch::Sender::new(0),
        });
        known.push(Arc::downgrade(&keys));
        keys
    }
}

impl IssuerKeys {
    /// The claims of a token that this issuer signed.
    pub async fn verify(self: &Arc<IssuerKeys>, token: &str) -> Result<Claims, NotVerified> {
        let no_keys = || NotVerified::NoKeys(self.source.clone());
        let keys = self.follow(|cache, now| cache.ask(now)).await.ok_or_else(no_keys)?;
        match jwt::verify(token, &keys) {
            Err(TokenError::UnknownKey) => {
                let newer = self.follow(|cache, now| cache.ask_for_newer(now, &keys)).await;
                let newer = newer.ok_or(TokenError::UnknownKey)?;
                Ok(jwt::verify(token, &newer)?)
            }
            verified => Ok(verified?),
        }
    }

    async fn follow(
        self: &Arc<IssuerKeys>,
        ask: impl FnOnce(&mut KeyCache, Instant) -> Advice,
    ) -> Option<Arc<KeySet>> {
        // Before asking, so that a fetch that ends meanwhile is noticed.
        let mut fetched = self.fetched.subscribe();
        let advice = ask(&mut self.cache.lock(), Instant::now());
        match advice {
            Advice::Use(keys) => return Some(keys),
            Advice::UseAndFetch(keys) => {
                tokio::spawn(self.clone().fetch());
                return Some(keys);
            }
            Advice::None => return None,
            // Not by us: a client that leaves must not end it.
            Advice::Fetch => drop(tokio::spawn(self.clone().fetch())),
            Advice::Wait => (),
        }
        // A fetch always ends, and its sender lives as long as we do.
        let _ = fetched.changed().await;
        self.cache.lock().latest(Instant::now())
    }

    async fn fetch(self: Arc<IssuerKeys>) {
        let read = async {
            match &self.source {
                KeySource::Uri(uri) => self.get(uri).await,
                KeySource::File(file) => read(file).await,
            }
        };
        let read = tokio::time::timeout(FETCH_TIMEOUT, read).await;
        let read = read.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let parsed = read.and_then(|(bytes, age_max)| {
            let keys = KeySet::parse(&bytes).map_err(|error| error.to_string())?;
            Ok((keys, age_max))
        });
        match parsed {
            Ok((keys, age_max)) => {
                let (usable, skipped) = keys.counts();
                info!(source = %self.source, usable, skipped, "fetched the keys of an issuer");
                self.cache.lock().on_fetched(Instant::now(), keys, age_max);
            }
            Err(error) => {
                warn!(source = %self.source, %error, "cannot fetch the keys of an issuer");
                self.cache.lock().on_failed(Instant::now());
            }
        }
        self.fetched.send_modify(|count| *count += 1);
    }

    async fn get(&self, uri: &Uri) -> Result<(Bytes, Duration), String> {
        let request = Request::get(uri.clone())
            .header("accept", "application/jwk-set+json, application/json")
            .header("user-agent", USER_AGENT)
            .body(Full::default())
            .map_err(|error| error.to_string())?;
        let answer = self.client.send_for(request, KEY_SET_BYTES_MAX).await;
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status {
            200 => Ok((answer.body, age_max(&answer.headers))),
            status => Err(format!("it answered {status}")),
        }
    }
}

async fn read(file: &Path) -> Result<(Bytes, Duration), String> {
    let length = tokio::fs::metadata(file).await.map_err(|error| error.to_string())?.len();
    if length > KEY_SET_BYTES_MAX as u64 {
        return Err(format!("it has more than {KEY_SET_BYTES_MAX} bytes"));
    }
    let bytes = tokio::fs::read(file).await.map_err(|error| error.to_string())?;
    Ok((bytes.into(), FILE_AGE))
}

/// RFC 9111 section 5.2.2.1, within our own limits.
fn age_max(headers: &HeaderMap) -> Duration {
    let directives = headers.get_all("cache-control").iter();
    let directives = directives.filter_map(|value| value.to_str().ok());
    let mut directives = directives.flat_map(|value| value.split(',')).map(str::trim);
    let seconds = directives.find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse().ok())?
    });
    seconds.map_or(AGE_DEFAULT, Duration::from_secs).clamp(AGE_MIN, AGE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integration::reach::Reach;

    #[test]
    fn an_issuer_says_how_long_its_keys_are_kept_within_limits() {
        let age = |value: &'static str| {
            let value = hyper::header::HeaderValue::from_static(value);
            age_max(&HeaderMap::from_iter([(hyper::header::CACHE_CONTROL, value)])).as_secs()
        };
        assert_eq!(age("public, max-age=300"), 300);
        assert_eq!(age("Max-Age=\"120\""), 120);
        assert_eq!(age("max-age=0, no-store"), 60);
        assert_eq!(age("max-age=999999999"), 3600);
        assert_eq!(age("max-age=soon"), 600);
        assert_eq!(age_max(&HeaderMap::new()), AGE_DEFAULT);
    }

    #[tokio::test]
    async fn sources_are_shared_and_fail_closed() {
        let sets = KeySets::new(HttpClient::new(&Reach::default()));
        let folder = tempfile::TempDir::new().expect("a folder can be made");
        let source = KeySource::File(folder.path().join("keys.json"));
        let keys = sets.of(&source);
        assert!(Arc::ptr_eq(&keys, &sets.of(&source)));
        let verified = keys.verify("a.b.c").await;
        assert!(matches!(verified, Err(NotVerified::NoKeys(_))), "{verified:?}");
        std::fs::write(folder.path().join("keys.json"), r#"{"keys":[]}"#).expect("a file");
        let verified = keys.verify("a.b.c").await;
        assert!(matches!(verified, Err(NotVerified::Token(TokenError::Malformed))));
    }
}
