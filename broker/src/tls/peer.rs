//! What a client shows of itself.

use rustls::ServerConnection;
use webpki::EndEntityCert;

/// The DNS names in its certificate, which the handshake found to be good, in lower case. There are none
/// if it showed none.
pub fn client_names(connection: &ServerConnection) -> Vec<String> {
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let parsed = certificate.and_then(|own| EndEntityCert::try_from(own).ok());
    let names = parsed.iter().flat_map(|own| own.valid_dns_names());
    names.map(str::to_ascii_lowercase).collect()
}
