//! Whom a node connects to for integrations, authorizers and keys: judged by the address that a name
//! leads to, each time that it connects. A name that is led elsewhere in between gains nothing.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::config::reach::DeniedAddresses;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Who may be connected to.
#[derive(Clone, Default)]
pub struct Reach(Arc<Rules>);

#[derive(Default)]
struct Rules {
    denied: DeniedAddresses,
    own_listeners: Vec<SocketAddr>,
}

/// Connects to whom may be connected to.
#[derive(Clone)]
pub(super) struct Connector {
    reach: Reach,
    look_up: LookUp,
}

/// The addresses of a host, each with the port.
type LookUp = Arc<dyn Fn(String, u16) -> Pending<io::Result<Vec<SocketAddr>>> + Send + Sync>;
type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is among integrations.denied_addresses")]
struct Denied(SocketAddr);

impl Reach {
    /// `own_listeners` are where this node listens to TCP.
    pub fn new(denied: DeniedAddresses, own_listeners: Vec<SocketAddr>) -> Reach {
        Reach(Arc::new(Rules { denied, own_listeners }))
    }

    pub(super) fn connector(&self) -> Connector {
        let look_up: LookUp = Arc::new(|host, port| {
            Box::pin(
                async move { Ok(tokio::net::lookup_host((host, port)).await?.collect::<Vec<_>>()) },
            )
        });
        Connector { reach: self.clone(), look_up }
    }

    fn is_denied(&self, address: SocketAddr) -> bool {
        let Rules { denied, own_listeners } = &*self.0;
        let ip = address.ip().to_canonical();
        let is_own = |listener: &SocketAddr| {
            listener.port() == address.port()
                && (listener.ip() == ip || listener.ip().is_unspecified() && is_of_this_host(ip))
        };
        denied.contains(ip) || denied.own_listeners && own_listeners.iter().any(is_own)
    }

    /// Those of the addresses that may be connected to. An error if there were only others.
    fn allowed(&self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Error> {
        let first = addresses.first().copied().ok_or("the host has no address")?;
        let allowed = addresses.into_iter().filter(|address| !self.is_denied(*address));
        let allowed: Vec<_> = allowed.collect();
        if allowed.is_empty() { Err(Denied(first).into()) } else { Ok(allowed) }
    }
}

/// Only what is can be bound. Unspecified addresses lead to this host as well.
fn is_of_this_host(ip: IpAddr) -> bool {
    ip.is_loopback() || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Error;
    type Future = Pending<Result<TokioIo<TcpStream>, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Connector { reach, look_up } = self.clone();
        Box::pin(async move {
            let host = uri.host().ok_or("there is no host to connect to")?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let is_https = uri.scheme_str() == Some("https");
            let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
            let addresses = match host.parse::<IpAddr>() {
                Ok(ip) => vec![SocketAddr::new(ip, port)],
                Err(_) => look_up(host.to_owned(), port).await?,
            };
            let allowed = Allowed(reach.allowed(addresses)?);
            let mut http = HttpConnector::new_with_resolver(allowed);
            http.enforce_http(false);
            http.set_nodelay(true);
            http.set_connect_timeout(Some(CONNECT_TIMEOUT));
            Ok(http.call(uri).await?)
        })
    }
}

/// Answers with what was judged.
#[derive(Clone)]
struct Allowed(Vec<SocketAddr>);

impl Service<Name> for Allowed {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        std::future::ready(Ok(self.0.clone().into_iter()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_name_is_judged_by_where_it_leads_each_time_that_it_is_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let good = listener.local_addr().expect("an address");
        let bad = SocketAddr::from(([169, 254, 169, 254], 80));
        let mapped: SocketAddr = "[::ffff:169.254.169.254]:80".parse().expect("an address");
        let turn = AtomicU32::new(0);
        // As a server of names answers who wants a node to talk to itself.
        let look_up: LookUp = Arc::new(move |host, port| {
            assert_eq!((&*host, port), ("rebound.test", 80));
            let addresses = match turn.fetch_add(1, Ordering::Relaxed) {
                0 => vec![good],
                1 => vec![bad],
                2 => vec![mapped, bad],
                3 => vec![bad, good],
                _ => Vec::new(),
            };
            Box::pin(std::future::ready(Ok(addresses)))
        });
        let reach = Reach::new(DeniedAddresses::default(), Vec::new());
        let mut connector = Connector { look_up, ..reach.connector() };
        let mut dial = async || {
            let uri = Uri::from_static("http://rebound.test/");
            connector.call(uri).await.map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(dial().await, Ok(()));
        let denied = |address: SocketAddr| Err(Denied(address).to_string());
        assert_eq!(dial().await, denied(bad));
        assert_eq!(dial().await, denied(mapped));
        assert_eq!(dial().await, Ok(()), "another address of it is not denied");
        assert_eq!(dial().await, Err("the host has no address".to_owned()));
    }

    #[tokio::test]
    async fn an_address_is_itself_however_it_is_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
        let mut denied: DeniedAddresses = "10.0.0.0/8".parse().expect("a block");
        denied.own_listeners = true;
        let reach = Reach::new(denied, vec![everywhere]);
        for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "[::1]", "localhost", "2130706433", "127.1"]
        {
            let uri = format!("http://{host}:{port}/").parse().expect("it is a URI");
            let error = reach.connector().call(uri).await.expect_err(host).to_string();
            assert!(error.ends_with("is among integrations.denied_addresses"), "{host}: {error}");
        }
        let uri = Uri::from_static("http://10.1.2.3/");
        let error = reach.connector().call(uri).await.expect_err("it is denied").to_string();
        assert_eq!(error, "10.1.2.3:80 is among integrations.denied_addresses");
        let allowing = Reach::new(DeniedAddresses::none(), vec![everywhere]);
        let uri = format!("http://127.0.0.1:{port}/").parse().expect("it is a URI");
        allowing.connector().call(uri).await.expect("nothing is denied");
    }
}
