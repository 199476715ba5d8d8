//! Handshakes in memory.

use std::fs;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;
use crate::config::tls::CertificateFiles;

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

/// An authority and the files that it signed.
struct Office {
    folder: TempDir,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

struct Papers {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

#[tokio::test]
async fn each_name_gets_its_certificate_and_every_other_the_first() {
    let office = Office::new();
    let first = office.write("first", &["one.example"]);
    let second = office.write("second", &["two.example", "*.two.example"]);
    let more_certificates = vec![CertificateFiles {
        cert_file: office.file("second.pem"),
        key_file: office.file("second.key"),
    }];
    let settings = TlsSettings { more_certificates, ..office.settings("first") };
    let tls = ServerTls::load(&settings, &["http/1.1"]).unwrap();
    for (name, expected) in [
        ("one.example", &first),
        ("two.example", &second),
        ("TWO.example", &second),
        ("a.two.example", &second),
    ] {
        let shown = shake_hands(&tls, name, office.client(None, BOTH)).await;
        assert_eq!(shown.as_ref(), Ok(expected), "{name}");
    }
    for name in ["a.b.two.example", "example", "192.0.2.1"] {
        let error = shake_hands(&tls, name, office.client(None, BOTH)).await.unwrap_err();
        assert!(error.contains("not valid for name"), "{name}: {error}");
    }
}

#[tokio::test]
async fn both_versions_are_spoken_and_the_protocol_above_is_agreed_upon() {
    let office = Office::new();
    let own = office.write("own", &["own.example"]);
    let tls = ServerTls::load(&office.settings("own"), &["h2", "http/1.1"]).unwrap();
    for version in BOTH {
        let mut client = office.client(None, &[version]);
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        assert_eq!(shake_hands(&tls, "own.example", client).await, Ok(own.clone()));
    }
    let mut client = office.client(None, BOTH);
    client.alpn_protocols = vec![b"spdy".to_vec()];
    let error = shake_hands(&tls, "own.example", client).await.unwrap_err();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
}

#[tokio::test]
async fn clients_are_believed_by_their_authority_alone() {
    let (office, other) = (Office::new(), Office::new());
    office.write("own", &["own.example"]);
    let ca_file = office.file("clients.pem");
    fs::copy(office.file("ca.pem"), &ca_file).unwrap();
    let with = |certificate| {
        let clients = Some(ClientTrust { ca_file: ca_file.clone(), certificate });
        ServerTls::load(&TlsSettings { clients, ..office.settings("own") }, &[]).unwrap()
    };
    let required = with(ClientCertificate::Required);
    let optional = with(ClientCertificate::Optional);
    let mut params = CertificateParams::new(vec!["late.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let late = || office.sign(&params);
    let good = || office.papers(&["client.example"]);
    let strange = || other.papers(&["client.example"]);
    for version in BOTH {
        for (what, tls, papers, is_let_in) in [
            ("none, required", &required, None, false),
            ("none, optional", &optional, None, true),
            ("good, required", &required, Some(good()), true),
            ("good, optional", &optional, Some(good()), true),
            ("of another authority, required", &required, Some(strange()), false),
            ("of another authority, optional", &optional, Some(strange()), false),
            ("expired, required", &required, Some(late()), false),
        ] {
            let client = office.client(papers, &[version]);
            let shaken = shake_hands(tls, "own.example", client).await;
            assert_eq!(shaken.is_ok(), is_let_in, "{what}: {shaken:?}");
        }
    }
}

#[test]
fn it_is_known_when_the_first_certificate_expires() {
    let office = Office::new();
    let mut params = CertificateParams::new(vec!["own.example".to_owned()]).unwrap();
    let expiry = |certificates: &[&CertificateDer<'static>]| {
        first_expiry(&certificates.iter().copied().cloned().collect::<Vec<_>>())
    };
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    let later = office.sign(&params).certificate;
    params.not_after = rcgen::date_time_ymd(2039, 1, 1);
    let sooner = office.sign(&params).certificate;
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let long_ago = office.sign(&params).certificate;
    params.not_after = rcgen::date_time_ymd(9999, 12, 31) + time::Duration::seconds(86_399);
    let never = office.sign(&params).certificate;
    assert_eq!(expiry(&[&later]), Some(2_208_988_800));
    assert_eq!(expiry(&[&never, &later, &sooner]), Some(2_177_452_800));
    assert_eq!(expiry(&[&sooner, &long_ago]), Some(1_577_836_800));
    assert_eq!(expiry(&[&never]), None);
}

#[tokio::test]
async fn what_is_wrong_with_new_files_leaves_the_old_ones_in_force() {
    let office = Office::new();
    let old = office.write("own", &["own.example"]);
    let tls = ServerTls::load(&office.settings("own"), &[]).unwrap();
    let shown = || shake_hands(&tls, "own.example", office.client(None, BOTH));
    fs::write(office.file("own.pem"), "nonsense").unwrap();
    let error = tls.reload().unwrap_err().to_string();
    assert!(error.contains("own.pem: holds no certificate"), "{error}");
    assert_eq!(shown().await, Ok(old.clone()));

    let key = fs::read(office.file("own.key")).unwrap();
    let new = office.write("own", &["own.example"]);
    fs::write(office.file("own.key"), key).unwrap();
    let error = tls.reload().unwrap_err().to_string();
    assert!(error.contains("own.key: "), "the key is another certificate's: {error}");
    assert_eq!(shown().await, Ok(old));

    assert_ne!(office.write("own", &["own.example"]), new);
    tls.reload().unwrap();
    let newest = CertificateDer::from_pem_file(office.file("own.pem")).unwrap();
    assert_eq!(shown().await, Ok(newest));
}

impl Office {
    fn new() -> Office {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let certificate = certificate.der().clone();
        Office { folder, certificate, issuer: Issuer::new(params, key) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a certificate for the names, and its key.
    fn write(&self, stem: &str, names: &[&str]) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let certificate = params.unwrap().signed_by(&key, &self.issuer).unwrap();
        fs::write(self.file(&format!("{stem}.pem")), certificate.pem()).unwrap();
        fs::write(self.file(&format!("{stem}.key")), key.serialize_pem()).unwrap();
        certificate.der().clone()
    }

    fn papers(&self, names: &[&str]) -> Papers {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        self.sign(&CertificateParams::new(names).unwrap())
    }

    fn sign(&self, params: &CertificateParams) -> Papers {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Papers { certificate, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
    }

    fn settings(&self, stem: &str) -> TlsSettings {
        TlsSettings {
            cert_file: self.file(&format!("{stem}.pem")),
            key_file: self.file(&format!("{stem}.key")),
            more_certificates: Vec::new(),
            clients: None,
        }
    }

    fn client(
        &self,
        papers: Option<Papers>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match papers {
            None => builder.with_no_client_auth(),
            Some(Papers { certificate, key }) => {
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        }
    }
}

/// The certificate that the client was shown, after a byte went each way; or what went wrong.
async fn shake_hands(
    tls: &ServerTls,
    name: &str,
    client: ClientConfig,
) -> Result<CertificateDer<'static>, String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let acceptor = tls.acceptor();
    let server = tokio::spawn(async move {
        let mut stream = acceptor.accept(far).await?;
        let byte = stream.read_u8().await?;
        stream.write_u8(byte).await?;
        stream.flush().await
    });
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = async {
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, near).await?;
        stream.write_u8(7).await?;
        stream.flush().await?;
        stream.read_u8().await?;
        let (_, session) = stream.get_ref();
        assert!(matches!(
            session.protocol_version(),
            Some(ProtocolVersion::TLSv1_2 | ProtocolVersion::TLSv1_3)
        ));
        Ok::<_, std::io::Error>(session.peer_certificates().unwrap()[0].clone())
    };
    let shown = client.await;
    server.abort();
    shown.map_err(|error| error.to_string())
}
