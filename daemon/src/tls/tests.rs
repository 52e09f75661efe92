//! Real handshakes on loopback: the certificate table of what is refused, and what each side says about it.

use super::*;
use crate::spiffe::{Role, SpiffeId};
use api::{bytes::ClusterUuid, name::ClusterName};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use std::{
    error::Error as StdError,
    fs,
    net::SocketAddr,
    time::{Duration, SystemTime},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};
use tonic::{codegen::http, transport::Server};
use tower::ServiceExt;

const WEST: ClusterUuid = ClusterUuid([0x11; 16]);
const EAST: ClusterUuid = ClusterUuid([0x22; 16]);

#[tokio::test]
async fn a_node_and_its_apiserver_know_each_other() {
    let west = Ca::new("west");
    let server = west.serve(&west.issue(WEST, Role::Cluster, "west"), &[]).await;
    let node = west.issue(WEST, Role::Node, "w1").tls(Role::Node);
    let connection = connect(&node, &server.at, &Expected::cluster_of(WEST)).await.expect("a connection");
    call(&connection).await.expect("an answer");
    assert_eq!(connection.server.to_string(), format!("spiffe://{WEST}/cluster/west"));
    assert_eq!(server.verdicts().await, format!("spiffe://{WEST}/node/w1"));
}

#[tokio::test]
async fn a_stranger_comes_in_only_where_strangers_are_let_in_and_believes_only_its_bundle() {
    let (west, evil) = (Ca::new("west"), Ca::new("evil"));
    let identity = west.issue(WEST, Role::Cluster, "west").tls(Role::Cluster);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let at = listener.local_addr().expect("bound").to_string();
    let arrive = async |acceptor: Acceptor, bundle: String| {
        let arriving = async {
            let (tcp, from) = listener.accept().await.expect("somebody");
            match acceptor.accept(Box::new(tcp), Origin::Address(from)).await {
                Ok(Arrival::Known(accepted)) => accepted.peer().id.to_string(),
                Ok(Arrival::Stranger(_)) => "a stranger".to_owned(),
                Err(error) => chain(&error),
            }
        };
        let dialing = async { connect_as_stranger(&bundle, &at).await.map(|connection| connection.server) };
        tokio::join!(arriving, dialing)
    };
    let strict = Acceptor::new(identity);
    let open = strict.clone().with_strangers();
    let (arrived, dialed) = arrive(open.clone(), west.pem()).await;
    assert_eq!(arrived, "a stranger");
    assert_eq!(dialed.expect("let in").to_string(), format!("spiffe://{WEST}/cluster/west"));
    let (arrived, _) = arrive(strict, west.pem()).await;
    assert!(arrived.contains("peer sent no certificates"), "{arrived}");
    let (_, dialed) = arrive(open, evil.pem()).await;
    let refused = chain(&dialed.expect_err("of another CA"));
    assert!(refused.contains("not signed by a CA in the trust bundle of our own cluster"), "{refused}");
}

#[tokio::test]
async fn a_peers_apiserver_is_known_by_its_own_ca_in_both_directions() {
    let (west, east) = (Ca::new("west"), Ca::new("east"));
    let server = west.serve(&west.issue(WEST, Role::Cluster, "west"), &[(EAST, "east", &east)]).await;
    let client = east.issue(EAST, Role::Cluster, "east").tls(Role::Cluster);
    client.trust().add_peer(WEST, name("west"), &west.pem()).expect("a bundle");
    let connection =
        connect(&client, &server.at, &Expected::cluster(WEST, name("west"))).await.expect("a connection");
    call(&connection).await.expect("an answer");
    assert_eq!(server.verdicts().await, format!("spiffe://{EAST}/cluster/east"));
}

/// What a client shows to west's apiserver, what the server says about it, and what the client reads.
#[tokio::test]
async fn a_client_that_must_not_come_in_is_refused_and_both_sides_say_why() {
    let (west, east, evil) = (Ca::new("west"), Ca::new("east"), Ca::new("evil"));
    let server = west.serve(&west.issue(WEST, Role::Cluster, "west"), &[(EAST, "east", &east)]).await;
    let day = Duration::from_secs(86_400);
    let long_ago = SystemTime::now() - 10 * day;
    let expired = west.issue_at(WEST, Role::Node, "w1", long_ago, long_ago + day);
    let early = west.issue_at(WEST, Role::Node, "w1", SystemTime::now() + day, SystemTime::now() + 2 * day);
    let table = [
        (expired, "it expired on", "expired or not yet valid"),
        (early, "`timedatectl` shows", "expired or not yet valid"),
        (
            evil.issue(WEST, Role::Node, "w1"),
            "not signed by a CA in the trust bundle of our own cluster",
            "has signed it",
        ),
        (
            east.issue(WEST, Role::Operator, "admin"),
            "not signed by a CA in the trust bundle of our own",
            "has signed it",
        ),
        (east.issue(EAST, Role::Operator, "admin"), "this is role `operator`, name `admin`", "role or name"),
        (east.issue(EAST, Role::Node, "e1"), "this is role `node`, name `e1`", "role or name"),
        (east.issue(EAST, Role::Cluster, "north"), "this is role `cluster`, name `north`", "role or name"),
        (
            evil.issue(EAST, Role::Cluster, "east"),
            "not signed by a CA in the trust bundle of peer east",
            "has signed it",
        ),
        (
            evil.issue(ClusterUuid([3; 16]), Role::Cluster, "evil"),
            "is neither ours nor a peer's",
            "has signed it",
        ),
    ];
    for (shown, server_says, client_reads) in table {
        let id = shown.id.clone();
        let client = shown.tls_unchecked(&west);
        let error = match connect(&client, &server.at, &Expected::cluster_of(WEST)).await {
            Ok(connection) => call(&connection).await.expect_err("refused"),
            Err(error) => chain(&error),
        };
        let verdict = server.verdicts().await;
        assert!(verdict.contains(&format!("the client's certificate {id}")), "{verdict}");
        assert!(verdict.contains(server_says), "{verdict}");
        assert!(error.contains(&format!("refuses our own certificate {id}")), "{error}");
        assert!(error.contains(client_reads), "{error}");
    }
}

/// What a server shows to a node of west, and what the node says about it.
#[tokio::test]
async fn a_server_that_is_not_the_one_we_mean_is_refused_by_name() {
    let (west, east) = (Ca::new("west"), Ca::new("east"));
    let long_ago = SystemTime::now() - Duration::from_secs(10 * 86_400);
    let table = [
        (
            west.issue(WEST, Role::Node, "w2"),
            "expected spiffe://11111111-1111-1111-1111-111111111111/cluster/*",
        ),
        (
            east.issue(WEST, Role::Cluster, "west"),
            "not signed by a CA in the trust bundle of our own cluster",
        ),
        (east.issue(EAST, Role::Cluster, "east"), "is neither ours nor a peer's"),
        (
            west.issue_at(WEST, Role::Cluster, "west", long_ago, long_ago + Duration::from_secs(60)),
            "it expired on",
        ),
    ];
    for (shown, says) in table {
        let server = west.serve(&shown, &[]).await;
        let node = west.issue(WEST, Role::Node, "w1").tls(Role::Node);
        let error = connect(&node, &server.at, &Expected::cluster_of(WEST)).await.expect_err("refused");
        let error = chain(&error);
        assert!(error.contains(&format!("the server's certificate {}", shown.id)), "{error}");
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_peer_of_the_right_domain_and_another_name_is_not_the_one_we_mean() {
    let west = Ca::new("west");
    let server = west.serve(&west.issue(WEST, Role::Cluster, "west"), &[]).await;
    let node = west.issue(WEST, Role::Node, "w1").tls(Role::Node);
    let error =
        connect(&node, &server.at, &Expected::cluster(WEST, name("south"))).await.expect_err("refused");
    assert!(chain(&error).contains("/cluster/south"), "{}", chain(&error));
}

#[tokio::test]
async fn a_peer_that_was_removed_cannot_come_back() {
    let (west, east) = (Ca::new("west"), Ca::new("east"));
    let server = west.serve(&west.issue(WEST, Role::Cluster, "west"), &[(EAST, "east", &east)]).await;
    let client = east.issue(EAST, Role::Cluster, "east").tls(Role::Cluster);
    client.trust().add_peer(WEST, name("west"), &west.pem()).expect("a bundle");
    let expected = Expected::cluster(WEST, name("west"));
    call(&connect(&client, &server.at, &expected).await.expect("a connection")).await.expect("an answer");
    server.verdicts().await;
    let changes = server.tls.trust().changes();
    let peer: SpiffeId = format!("spiffe://{EAST}/cluster/east").parse().expect("an ID");
    assert!(server.tls.trust().believes(&peer));
    server.tls.trust().remove_peer(EAST);
    assert!(!server.tls.trust().believes(&peer) && changes.has_changed().expect("alive"));
    if let Ok(connection) = connect(&client, &server.at, &expected).await {
        call(&connection).await.expect_err("refused");
    }
    assert!(server.verdicts().await.contains("is neither ours nor a peer's"));
}

#[test]
fn our_own_certificate_is_refused_at_load_by_name_and_reason() {
    let (west, evil) = (Ca::new("west"), Ca::new("evil"));
    let node = west.issue(WEST, Role::Node, "w1");
    let says = |issued: &Issued, role, now| {
        let error = Identity::load_at(&issued.paths(), role, now).expect_err("refused");
        chain(&error)
    };
    let now = SystemTime::now();
    let later = now + Duration::from_secs(400 * 86_400);
    let own = format!("our own certificate spiffe://{WEST}/node/w1");
    for (text, reason) in [
        (says(&node, Role::Cluster, now), "needs role `cluster`, and it is for role `node`"),
        (says(&node, Role::Node, later), "it expired on"),
        (
            says(&node, Role::Node, SystemTime::UNIX_EPOCH),
            "this host's clock shows Jan  1 00:00:00 1970 +00:00: if that is wrong, set it",
        ),
        (says(&evil.issue(WEST, Role::Node, "w1").with_bundle(&west), Role::Node, now), "not signed by a CA"),
        (
            says(&node.with_key(&west.issue(WEST, Role::Node, "w2")), Role::Node, now),
            "the private key does not belong",
        ),
    ] {
        assert!(text.contains(reason), "{text}");
        assert!(text.contains(&own), "{text}");
    }
    let missing = IdentityPaths { bundle: "/nonexistent/bundle.pem".into(), ..node.paths() };
    let error = chain(&Identity::load(&missing, Role::Node).expect_err("refused"));
    assert!(error.starts_with("cannot read the trust bundle in /nonexistent/bundle.pem: "), "{error}");
}

#[test]
fn a_process_takes_a_renewed_certificate_and_never_becomes_another() {
    let west = Ca::new("west");
    let tls = west.issue(WEST, Role::Node, "w1").tls(Role::Node);
    let before = tls.identity().certificate().serial.clone();
    tls.renew(west.issue(WEST, Role::Node, "w1").identity(Role::Node)).expect("renewed");
    assert_ne!(tls.identity().certificate().serial, before);
    assert!(tls.renew(west.issue(WEST, Role::Node, "w2").identity(Role::Node)).is_err());
}

#[test]
fn our_own_trust_domain_is_never_a_peers() {
    let (west, east) = (Ca::new("west"), Ca::new("east"));
    let tls = west.issue(WEST, Role::Node, "w1").tls(Role::Node);
    tls.trust().add_peer(WEST, name("east"), &east.pem()).expect("it parses");
    assert!(matches!(tls.trust().voucher(WEST), Some(trust::Voucher::Own(_))));
}

// ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

fn name(text: &str) -> ClusterName {
    text.parse().expect("a name")
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// One call that the server answers with "unimplemented": it got through.
async fn call(connection: &Connection) -> Result<(), String> {
    let request =
        http::Request::post("http://mesh/no.Service/Method").body(tonic::body::Body::empty()).expect("valid");
    connection.channel.clone().oneshot(request).await.map(drop).map_err(|error| chain(&error))
}

struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its files.
struct Issued {
    id: SpiffeId,
    dir: TempDir,
}

struct Running {
    at: String,
    tls: Tls,
    said: tokio::sync::Mutex<mpsc::Receiver<String>>,
}

impl Running {
    /// What the server found out about the next client.
    async fn verdicts(&self) -> String {
        self.said.lock().await.recv().await.expect("the server runs")
    }
}

impl Ca {
    fn new(common_name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, domain: ClusterUuid, role: Role, name: &str) -> Issued {
        let now = SystemTime::now();
        self.issue_at(domain, role, name, now - Duration::from_secs(60), now + Duration::from_secs(86_400))
    }

    fn issue_at(
        &self,
        domain: ClusterUuid,
        role: Role,
        name: &str,
        from: SystemTime,
        to: SystemTime,
    ) -> Issued {
        let id = SpiffeId::new(domain, role, name).expect("a valid name");
        let mut params = CertificateParams::new([]).expect("no names");
        params.not_before = from.into();
        params.not_after = to.into();
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().expect("ASCII"))];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("signed");
        let dir = TempDir::new().expect("a directory");
        fs::write(dir.path().join("cert.pem"), cert.pem()).expect("written");
        fs::write(dir.path().join("key.pem"), key.serialize_pem()).expect("written");
        fs::write(dir.path().join("bundle.pem"), self.pem()).expect("written");
        Issued { id, dir }
    }

    /// A server that shows `issued` and believes this CA and the peers.
    async fn serve(&self, issued: &Issued, peers: &[(ClusterUuid, &str, &Self)]) -> Running {
        let tls = issued.tls_unchecked(self);
        for (uuid, peer, ca) in peers {
            tls.trust().add_peer(*uuid, name(peer), &ca.pem()).expect("a bundle");
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let at: SocketAddr = listener.local_addr().expect("bound");
        let acceptor = Acceptor::new(tls.clone());
        let (say, said) = mpsc::channel(64);
        let (give, incoming) = mpsc::channel::<Result<Accepted, std::io::Error>>(64);
        tokio::spawn(async move {
            while let Ok((tcp, from)) = listener.accept().await {
                let text = match acceptor.accept(Box::new(tcp), Origin::Address(from)).await {
                    Ok(Arrival::Stranger(_)) => "a stranger".to_owned(),
                    Ok(Arrival::Known(accepted)) => {
                        let text = accepted.peer().id.to_string();
                        give.send(Ok(accepted)).await.expect("the server runs");
                        text
                    }
                    Err(error) => chain(&error),
                };
                say.send(text).await.expect("the test runs");
            }
        });
        let incoming = futures_of(incoming);
        tokio::spawn(
            Server::builder().add_routes(tonic::service::Routes::default()).serve_with_incoming(incoming),
        );
        Running { at: at.to_string(), tls, said: tokio::sync::Mutex::new(said) }
    }
}

fn futures_of<T>(receiver: mpsc::Receiver<T>) -> tokio_stream::wrappers::ReceiverStream<T> {
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

impl Issued {
    fn paths(&self) -> IdentityPaths {
        let at = |file: &str| self.dir.path().join(file);
        IdentityPaths { cert: at("cert.pem"), key: at("key.pem"), bundle: at("bundle.pem") }
    }

    fn identity(&self, role: Role) -> Identity {
        Identity::load(&self.paths(), role).expect("valid")
    }

    fn tls(&self, role: Role) -> Tls {
        Tls::new(self.identity(role))
    }

    /// As a process would be that does not check its own certificate and says that it belongs to `home`.
    fn tls_unchecked(&self, home: &Ca) -> Tls {
        let honest = home.issue(WEST, Role::Cluster, "west");
        let mut identity = honest.identity(Role::Cluster);
        identity.replace_for_test(&self.paths());
        Tls::new(identity)
    }

    fn with_bundle(self, of: &Ca) -> Self {
        fs::write(self.dir.path().join("bundle.pem"), of.pem()).expect("written");
        self
    }

    fn with_key(&self, of: &Self) -> Self {
        let dir = TempDir::new().expect("a directory");
        for (file, from) in [("cert.pem", self), ("key.pem", of), ("bundle.pem", self)] {
            fs::copy(from.dir.path().join(file), dir.path().join(file)).expect("copied");
        }
        Self { id: self.id.clone(), dir }
    }
}

impl Identity {
    /// Shows another chain than was checked.
    fn replace_for_test(&mut self, paths: &IdentityPaths) {
        let chain = fs::read(&paths.cert).expect("there");
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(&fs::read(&paths.key).expect("there")).expect("PEM");
        let certificate = Certificate::read(&chain[0]).expect("X.509");
        let key = CertifiedKey::from_der(chain, key, &provider()).expect("a pair");
        self.show_for_test(certificate, key);
    }
}
