//! Somebody who issues JSON Web Tokens and publishes the keys that they are signed with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub struct Issuer {
    address: SocketAddr,
    desk: Arc<Desk>,
    server: JoinHandle<()>,
}

struct Desk {
    /// None while the issuer is broken.
    published: Mutex<Option<Value>>,
    asked: AtomicU32,
}

/// A private key with a name.
pub struct SigningKey {
    id: String,
    pair: Ed25519KeyPair,
}

impl Issuer {
    pub async fn start(keys: &[&SigningKey]) -> Issuer {
        let published = Mutex::new(Some(key_set(keys)));
        let desk = Arc::new(Desk { published, asked: AtomicU32::new(0) });
        let router = Router::new().route("/keys", get(publish)).with_state(desk.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a listener has an address");
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the keys are served");
        });
        Issuer { address, desk, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// How often it was asked for its keys.
    pub fn asked(&self) -> u32 {
        self.desk.asked.load(Ordering::SeqCst)
    }

    pub fn publish(&self, keys: &[&SigningKey]) {
        self.set(Some(key_set(keys)));
    }

    /// From now on it answers that it is broken.
    pub fn break_down(&self) {
        self.set(None);
    }

    fn set(&self, published: Option<Value>) {
        let mut place = self.desk.published.lock().unwrap_or_else(PoisonError::into_inner);
        *place = published;
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn publish(State(desk): State<Arc<Desk>>) -> (StatusCode, String) {
    desk.asked.fetch_add(1, Ordering::SeqCst);
    let published = desk.published.lock().unwrap_or_else(PoisonError::into_inner);
    match &*published {
        Some(keys) => (StatusCode::OK, keys.to_string()),
        None => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
    }
}

/// The JWK Set of some keys.
pub fn key_set(keys: &[&SigningKey]) -> Value {
    let keys: Vec<_> = keys.iter().map(|key| key.public()).collect();
    json!({ "keys": keys })
}

impl SigningKey {
    pub fn new(id: &str) -> SigningKey {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("it is one");
        SigningKey { id: id.to_owned(), pair }
    }

    fn public(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.id, "x": x })
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.id });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}
