//! Papers in files: what is wrong with them is said, and they may be replaced.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

#[test]
fn keys_are_readable_by_their_owner_only() {
    let town = Town::new();
    let files = town.settings(1).files;
    let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&files.key_file), 0o600);
    // Also when there was one before, which was readable by all.
    fs::set_permissions(&files.key_file, fs::Permissions::from_mode(0o644)).unwrap();
    town.settings(1);
    assert_eq!(mode(&files.key_file), 0o600);
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let town = Town::new();
    let good = town.settings(1).files;
    let others = town.settings(2).files;
    let stranger = Town::new();
    let strangers = stranger.settings(1).files;
    let at = |name: &str, text: &str| {
        let file = town.papers.path().join(name);
        fs::write(&file, text).unwrap();
        file
    };
    let garbage = at("garbage", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    let cases = [
        (TlsFiles { ca_file: "/nowhere/ca".into(), ..good.clone() }, "/nowhere/ca: No such file"),
        (TlsFiles { ca_file: at("empty", ""), ..good.clone() }, "empty: holds no certificate"),
        (TlsFiles { cert_file: garbage.clone(), ..good.clone() }, "garbage: not PEM"),
        (TlsFiles { key_file: garbage, ..good.clone() }, "garbage: not PEM"),
        (TlsFiles { key_file: others.key_file.clone(), ..good.clone() }, "node-2.key: "),
        (others, "node-2.pem: the certificate must name node-1.posthorn"),
        (TlsFiles { ca_file: strangers.ca_file, ..good.clone() }, "not signed by an authority of"),
    ];
    for (files, expected) in cases {
        let loaded = Papers::load(&files, &cluster("posthorn"), NodeId(1));
        let error = loaded.unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should say {expected:?}");
    }
    assert!(Papers::load(&good, &cluster("posthorn"), NodeId(1)).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn papers_are_replaced_under_connections_that_live_on() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    one.call(&two.peer(), ECHO, "").await.unwrap();

    // All papers from another authority.
    let authority = DevAuthority::new(&cluster("posthorn")).unwrap();
    for node in [&one, &two] {
        authority.write(town.papers.path(), node.fabric.identity().node).unwrap();
        node.fabric.reload().unwrap();
    }
    one.call(&two.peer(), ECHO, "").await.unwrap();
    assert_eq!(one.fabric.stats().connections_dialed.control.get(), 1);

    one.fabric.drop_connections(NodeId(2));
    until("it was dropped", || one.fabric.stats().connections_open.control.get() == 0).await;
    call_until_answered(&one, &two.peer()).await;
    assert_eq!(one.fabric.stats().connections_dialed.control.get(), 2);

    // Who still trusts the old authority only is out.
    let before = Town { papers: tempfile::tempdir().unwrap(), ..town };
    let late = before.start(3);
    let error = late.call(&two.peer(), ECHO, "").await.unwrap_err();
    let CallError::Unreachable(DialError::Refused(away)) = error else { panic!("{error}") };
    assert_eq!(away.cause, RefusalCause::UntrustedCertificate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn papers_that_are_wrong_leave_the_old_ones_in_force() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    fs::write(&one.fabric.common.settings.files.cert_file, "nonsense").unwrap();
    let error = one.fabric.reload().unwrap_err().to_string();
    assert!(error.contains("node-1.pem: holds no certificate"), "{error}");
    one.call(&two.peer(), ECHO, "").await.unwrap();
    two.call(&one.peer(), ECHO, "").await.unwrap();
}

/// A connection that was just lost may be waited for.
async fn call_until_answered(node: &Node, to: &Peer) {
    within(async {
        while node.call(to, ECHO, "").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
