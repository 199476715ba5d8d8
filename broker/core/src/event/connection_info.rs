//! What must be known of a connection after its handshake: for its events, and for its `$disconnect`
//! even if its node is gone.
//!
//! The encoding is what every node holds of every connection in the directory, so it is small: the
//! connection's ID is not in it, since the directory's key is that.
//!
//! ```text
//! info    = version flags source_ip connected_at_ms api_id stage domain_name host
//!           [user_agent] [api_key api_key_id] [principal_id count *(key value)]
//!           [account_id access_key user user_arn]
//! version = 1 byte, flags = 1 byte, source_ip = 4 or 16 bytes
//! number  = 7 bits a byte, the lowest first, the high bit set where another byte follows
//! text    = its length as a number, and its bytes
//! ```

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::event::phrases;
use crate::ids::ConnectionId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    pub connection: ConnectionId,
    pub api_id: Arc<str>,
    pub stage: Arc<str>,
    /// The host that the client connected to, without a port.
    pub domain_name: Arc<str>,
    /// The `Host` header.
    pub host: Arc<str>,
    pub source_ip: IpAddr,
    /// The `User-Agent` header, if the client sent one.
    pub user_agent: Option<Box<str>>,
    pub connected_at_ms: u64,
    pub api_key: Option<ApiKey>,
    pub authorized: Option<Authorized>,
    pub signer: Option<Signer>,
}

/// Who signed a handshake that `AWS_IAM` asked to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Twelve digits.
    pub account_id: Box<str>,
    /// The access key ID.
    pub access_key: Box<str>,
    /// At AWS an ID beginning with `AIDA`.
    pub user: Box<str>,
    pub user_arn: Box<str>,
}

/// The key that a client was let in with.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// A secret: events show it, as API Gateway's do; nothing else does.
    pub value: Box<str>,
    pub id: Box<str>,
}

/// What an authorizer said of the client it let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorized {
    pub principal_id: Box<str>,
    /// Numbers and truth values as text, in the authorizer's order.
    pub context: Vec<(Box<str>, Box<str>)>,
}

/// Bytes that no encoding of ours has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionInfoError {
    /// Written by a newer release.
    #[error("version {0} of connection information is not known")]
    UnknownVersion(u8),
    #[error("connection information is damaged")]
    Damaged,
}

const VERSION: u8 = 1;

const IP_V6: u8 = 1;
/// `host` begins with the domain name, which is left out of it.
const HOST_BEGINS_WITH_DOMAIN: u8 = 1 << 1;
const USER_AGENT: u8 = 1 << 2;
/// The user agent is made of phrases.
const USER_AGENT_SHORTENED: u8 = 1 << 3;
const API_KEY: u8 = 1 << 4;
const AUTHORIZED: u8 = 1 << 5;
const SIGNER: u8 = 1 << 6;
const FLAGS: u8 = IP_V6
    | HOST_BEGINS_WITH_DOMAIN
    | USER_AGENT
    | USER_AGENT_SHORTENED
    | API_KEY
    | AUTHORIZED
    | SIGNER;

impl ConnectionInfo {
    pub fn encode(&self) -> Vec<u8> {
        let ConnectionInfo {
            connection: _,
            api_id,
            stage,
            domain_name,
            host,
            source_ip,
            user_agent,
            connected_at_ms,
            api_key,
            authorized,
            signer,
        } = self;
        let mut bytes = vec![VERSION, 0];
        let mut flags = 0;
        match source_ip {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => {
                flags |= IP_V6;
                bytes.extend(ip.octets());
            }
        }
        put_number(&mut bytes, *connected_at_ms);
        put_text(&mut bytes, api_id);
        put_text(&mut bytes, stage);
        put_text(&mut bytes, domain_name);
        match host.strip_prefix(&**domain_name) {
            Some(behind) => {
                flags |= HOST_BEGINS_WITH_DOMAIN;
                put_text(&mut bytes, behind);
            }
            None => put_text(&mut bytes, host),
        }
        if let Some(user_agent) = user_agent {
            flags |= USER_AGENT;
            match phrases::shorten(user_agent) {
                Some(short) => {
                    flags |= USER_AGENT_SHORTENED;
                    put_bytes(&mut bytes, &short);
                }
                None => put_text(&mut bytes, user_agent),
            }
        }
        if let Some(ApiKey { value, id }) = api_key {
            flags |= API_KEY;
            put_text(&mut bytes, value);
            put_text(&mut bytes, id);
        }
        if let Some(authorized) = authorized {
            flags |= AUTHORIZED;
            authorized.encode(&mut bytes);
        }
        if let Some(Signer { account_id, access_key, user, user_arn }) = signer {
            flags |= SIGNER;
            for text in [account_id, access_key, user, user_arn] {
                put_text(&mut bytes, text);
            }
        }
        bytes[1] = flags;
        bytes
    }

    /// Takes no more memory than a small multiple of the bytes.
    pub fn decode(
        connection: ConnectionId,
        bytes: &[u8],
    ) -> Result<ConnectionInfo, ConnectionInfoError> {
        match bytes {
            [VERSION, flags, rest @ ..] => decode_version_1(connection, *flags, Reader(rest))
                .ok_or(ConnectionInfoError::Damaged),
            [] | [VERSION] => Err(ConnectionInfoError::Damaged),
            [version, ..] => Err(ConnectionInfoError::UnknownVersion(*version)),
        }
    }

    /// API and stage alone, read in place.
    pub fn peek_stage(bytes: &[u8]) -> Option<(&str, &str)> {
        let [VERSION, flags, rest @ ..] = bytes else { return None };
        let mut reader = Reader(rest);
        if flags & IP_V6 != 0 {
            reader.array::<16>()?;
        } else {
            reader.array::<4>()?;
        }
        reader.number()?;
        Some((reader.text()?, reader.text()?))
    }
}

impl Authorized {
    fn encode(&self, bytes: &mut Vec<u8>) {
        let Authorized { principal_id, context } = self;
        put_text(bytes, principal_id);
        put_number(bytes, context.len() as u64);
        for (key, value) in context {
            put_text(bytes, key);
            put_text(bytes, value);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Authorized> {
        let principal_id = reader.text()?.into();
        let count = reader.number()?;
        // An entry is two bytes at least: a count that lies runs out of them.
        let mut context = Vec::new();
        for _ in 0..count {
            context.push((reader.text()?.into(), reader.text()?.into()));
        }
        Some(Authorized { principal_id, context })
    }
}

fn decode_version_1(
    connection: ConnectionId,
    flags: u8,
    mut reader: Reader<'_>,
) -> Option<ConnectionInfo> {
    let has = |flag: u8| flags & flag != 0;
    if flags & !FLAGS != 0 {
        return None;
    }
    let source_ip = if has(IP_V6) {
        IpAddr::from(reader.array::<16>()?)
    } else {
        IpAddr::from(reader.array::<4>()?)
    };
    let connected_at_ms = reader.number()?;
    let api_id = reader.text()?.into();
    let stage = reader.text()?.into();
    let domain_name: Arc<str> = reader.text()?.into();
    let host = match reader.text()? {
        "" if has(HOST_BEGINS_WITH_DOMAIN) => domain_name.clone(),
        behind if has(HOST_BEGINS_WITH_DOMAIN) => format!("{domain_name}{behind}").into(),
        host => host.into(),
    };
    let user_agent = match (has(USER_AGENT), has(USER_AGENT_SHORTENED)) {
        (false, false) => None,
        (true, false) => Some(reader.text()?.into()),
        (true, true) => Some(phrases::lengthen(reader.bytes()?)?.into()),
        (false, true) => return None,
    };
    let api_key = if has(API_KEY) {
        Some(ApiKey { value: reader.text()?.into(), id: reader.text()?.into() })
    } else {
        None
    };
    let authorized = if has(AUTHORIZED) { Some(Authorized::decode(&mut reader)?) } else { None };
    let signer = if has(SIGNER) {
        Some(Signer {
            account_id: reader.text()?.into(),
            access_key: reader.text()?.into(),
            user: reader.text()?.into(),
            user_arn: reader.text()?.into(),
        })
    } else {
        None
    };
    reader.0.is_empty().then_some(ConnectionInfo {
        connection,
        api_id,
        stage,
        domain_name,
        host,
        source_ip,
        user_agent,
        connected_at_ms,
        api_key,
        authorized,
        signer,
    })
}

fn put_number(bytes: &mut Vec<u8>, number: u64) {
    let mut rest = number;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

fn put_bytes(bytes: &mut Vec<u8>, put: &[u8]) {
    put_number(bytes, put.len() as u64);
    bytes.extend_from_slice(put);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_bytes(bytes, text.as_bytes());
}

/// What is still to be read. Every method takes from its front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const LENGTH: usize>(&mut self) -> Option<[u8; LENGTH]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        str::from_utf8(self.bytes()?).ok()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let plain = ConnectionInfo {
            connection: ConnectionId::from_random([7; 16]),
            api_id: "chat".into(),
            stage: "prod".into(),
            domain_name: "localhost".into(),
            host: "localhost:8080".into(),
            source_ip: IpAddr::from([127, 0, 0, 1]),
            user_agent: None,
            connected_at_ms: 1_790_000_000_000,
            api_key: None,
            authorized: None,
            signer: None,
        };
        let signer = Signer {
            account_id: "123456789012".into(),
            access_key: "AKIDADA".into(),
            user: "ada".into(),
            user_arn: "arn:aws:iam::123456789012:user/ada".into(),
        };
        let authorized = Authorized {
            principal_id: "ada".into(),
            context: vec![("plan".into(), "free".into()), ("level".into(), "7".into())],
        };
        let full = ConnectionInfo {
            source_ip: IpAddr::from([1; 16]),
            user_agent: Some("Mozilla/5.0 (X11; Linux x86_64)".into()),
            api_key: Some(ApiKey { value: "secret".into(), id: "key".into() }),
            authorized: Some(authorized),
            signer: Some(signer),
            ..plain.clone()
        };
        for info in [plain, full] {
            let bytes = info.encode();
            assert_eq!(ConnectionInfo::decode(info.connection, &bytes).as_ref(), Ok(&info));
            for length in 0..bytes.len() {
                assert!(ConnectionInfo::decode(info.connection, &bytes[..length]).is_err());
            }
        }
    }
}
