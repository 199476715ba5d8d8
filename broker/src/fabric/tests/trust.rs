//! Who is worked with, and who is turned away and how.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_than_the_one_addressed_is_refused() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let wrong = peer(3, two.fabric.local_address());
    let error = one.call(&wrong, ECHO, "").await.unwrap_err();
    assert_eq!(refused_by_us(error).cause, RefusalCause::AnotherNode);
    assert_eq!(one.fabric.stats().refused(RefusalCause::AnotherNode), 1);
    assert_eq!(one.fabric.stats().dials_failed.get(), 1);
    assert!(two.service.froms.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_of_the_cluster_is_at_a_name_answers_and_nobody_else() {
    let (town, elsewhere) = (Town::new(), Town::new());
    let (one, two, stranger) = (town.start(1), town.start(2), elsewhere.start(2));
    let namesake = of_other_name(&town, 3);
    let ask = async |at: &Node| {
        let (address, question) = (at.peer().address, Bytes::from_static(b"who?"));
        let told = one.fabric.ask_all_at(&address, ECHO, question, PATIENCE);
        let told = within(told).await.unwrap();
        told.into_iter().map(|(who, answer)| (who.node, answer)).collect::<Vec<_>>()
    };
    assert_eq!(ask(&two).await, [(NodeId(2), Bytes::from_static(b"who?"))]);
    assert_eq!(ask(&stranger).await, []);
    assert_eq!(ask(&namesake).await, []);
    assert_eq!(ask(&one).await, [], "we ourselves");
    assert!(one.fabric.ask_all_at("nowhere", ECHO, Bytes::new(), PATIENCE).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_authority_is_refused_by_who_dials() {
    let (town, other) = (Town::new(), Town::new());
    let (one, two) = (town.start(1), other.start(2));
    let error = one.call(&two.peer(), ECHO, "").await.unwrap_err();
    assert_eq!(refused_by_us(error).cause, RefusalCause::UntrustedCertificate);
    assert_eq!(one.fabric.stats().refused(RefusalCause::UntrustedCertificate), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_authority_is_refused_by_who_accepts() {
    let (town, other) = (Town::new(), Town::new());
    let two = town.start(2);
    // It trusts us; we do not trust it.
    let settings = other.settings(1);
    let both = town.authority.certificate().to_owned() + other.authority.certificate();
    std::fs::write(&settings.files.ca_file, both).unwrap();
    let one = Node::start(settings);
    let error = one.call(&two.peer(), ECHO, "").await.unwrap_err();
    let CallError::Unreachable(DialError::RefusedByPeer(None, _)) = error else {
        panic!("{error}")
    };
    let refused = || two.fabric.stats().refused(RefusalCause::UntrustedCertificate);
    until("it was counted", || refused() == 1).await;
    assert!(two.service.froms.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_cluster_with_another_name_is_refused() {
    let town = Town::new();
    let one = town.start(1);
    let two = of_other_name(&town, 2);
    let error = one.call(&two.peer(), ECHO, "").await.unwrap_err();
    assert_eq!(refused_by_us(error).cause, RefusalCause::AnotherClusterName);
    assert_eq!(one.fabric.stats().refused(RefusalCause::AnotherClusterName), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_protocol_version_in_common_both_sides_know_why() {
    let town = Town::new();
    let mut settings = town.settings(1);
    settings.versions = ProtocolVersions { min: 2, max: 3 };
    let (one, two) = (Node::start(settings), town.start(2));
    let error = one.call(&two.peer(), ECHO, "").await.unwrap_err();
    let CallError::Unreachable(DialError::RefusedByPeer(cause, reason)) = error else {
        panic!("{error}")
    };
    assert_eq!(cause, Some(RefusalCause::Version));
    assert_eq!(reason, "no protocol version in common: node 2 speaks 1 to 1, node 1 speaks 2 to 3");
    until("it was counted", || two.fabric.stats().refused(RefusalCause::Version) == 1).await;

    // The next release still speaks the last one's protocol.
    let mut settings = town.settings(3);
    settings.versions = ProtocolVersions { min: 1, max: 3 };
    let three = Node::start(settings);
    three.call(&two.peer(), ECHO, "").await.unwrap();
    three.call(&one.peer(), ECHO, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_refused() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    one.fabric.set_cluster_id([1; 16]);
    two.fabric.set_cluster_id([2; 16]);
    let error = one.call(&two.peer(), ECHO, "").await.unwrap_err();
    let CallError::Unreachable(DialError::RefusedByPeer(cause, reason)) = error else {
        panic!("{error}")
    };
    assert_eq!(cause, Some(RefusalCause::AnotherCluster));
    assert_eq!(reason, "node 1 belongs to another cluster");
    until("it was counted", || two.fabric.stats().refused(RefusalCause::AnotherCluster) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_turns_out_to_be_of_another_cluster_is_dropped() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    two.fabric.set_cluster_id([2; 16]);
    one.call(&two.peer(), ECHO, "").await.unwrap();
    two.call(&one.peer(), ECHO, "").await.unwrap();
    let open = || one.fabric.stats().connections_open.control.get();
    assert_eq!(open(), 2);
    one.fabric.set_cluster_id([2; 16]);
    one.call(&two.peer(), ECHO, "").await.unwrap();
    assert_eq!(open(), 2);

    let three = town.start(3);
    three.call(&two.peer(), ECHO, "").await.unwrap();
    three.fabric.set_cluster_id([3; 16]);
    let error = || async { three.call(&two.peer(), ECHO, "").await.unwrap_err() };
    until("it was dropped", || three.fabric.stats().connections_open.control.get() == 0).await;
    let error = error().await;
    assert!(matches!(error, CallError::Unreachable(_)), "{error}");
}

fn of_other_name(town: &Town, node: u32) -> Node {
    let name = cluster("other");
    let params = rcgen::CertificateParams::new(vec![name.node_name(NodeId(node))]).unwrap();
    let NodePapers { certificate, key } = town.authority.sign(params).unwrap();
    let file = |ending: &str| town.papers.path().join(format!("other-{node}.{ending}"));
    let files = TlsFiles {
        ca_file: town.settings(node).files.ca_file,
        cert_file: file("pem"),
        key_file: file("key"),
    };
    std::fs::write(&files.cert_file, certificate).unwrap();
    std::fs::write(&files.key_file, key).unwrap();
    Node::start(settings(node, name, files))
}

fn refused_by_us(error: CallError) -> TurnedAway {
    match error {
        CallError::Unreachable(DialError::Refused(away)) => away,
        other => panic!("{other}"),
    }
}
