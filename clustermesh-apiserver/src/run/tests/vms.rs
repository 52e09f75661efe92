//! A VM's whole life with a real apiserver: added, invited, joined, renewed, removed.

use super::*;
use api::{
    bytes::{Instance, Secret},
    external_workload,
    record::{Presence, Vm},
    token::{Invited, Token},
};
use daemon::tls::{IdentityPem, bundle_pem, connect_as_stranger};
use rcgen::{CertificateParams, KeyPair};
use rpc::{
    etcdserverpb::{
        PutRequest, WatchCreateRequest, WatchRequest, kv_client::KvClient, watch_client::WatchClient,
        watch_request::RequestUnion,
    },
    mesh::{
        admin::v1::{
            AddVmRequest, InviteVmRequest, ListVmsRequest, Presence as Seen, RemoveVmRequest,
            admin_client::AdminClient,
        },
        enrolment::v1::{EnrolVmRequest, enrolment_client::EnrolmentClient},
    },
};
use serde_json::json;
use tonic::{Code, Status, transport::Channel};

const SHOP: &str = "\
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop, annotations: {service.cilium.io/global: 'true'}}
spec: {clusterIP: 10.101.0.10, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: bank, annotations: {service.cilium.io/global: 'true'}}
spec: {clusterIP: 10.101.0.11, ports: [{name: http, port: 80}]}
";

/// A machine outside: it holds its key, and what it is given.
struct Machine {
    key: KeyPair,
    token: Token,
}

impl Machine {
    fn new(line: &str) -> Self {
        Self { key: KeyPair::generate().expect("a key"), token: line.parse().expect("a token") }
    }

    fn bundle(&self) -> String {
        bundle_pem(&self.token.ca)
    }

    async fn join(&self, at: &str, name: &str, secret: Option<&Secret>) -> Result<Identity, Status> {
        let channel = connect_as_stranger(&self.bundle(), at).await.expect("its CA is the token's").channel;
        let request = CertificateParams::default().serialize_request(&self.key).expect("a request");
        let request = EnrolVmRequest {
            name: name.to_owned(),
            secret: secret.map(|secret| secret.bytes().to_vec().into()).unwrap_or_default(),
            certificate_request: request.pem().expect("PEM"),
        };
        let enrolled = EnrolmentClient::new(channel).enrol_vm(request).await?.into_inner();
        assert_eq!(enrolled.endpoints, ["127.0.0.1:2379"], "as the cluster advertises itself");
        let pem = IdentityPem {
            cert: enrolled.certificate.into_bytes(),
            key: self.key.serialize_pem().into_bytes(),
            bundle: self.bundle().into_bytes(),
        };
        Ok(Identity::issued(&pem, "what the apiserver issued", Role::Vm).expect("an identity"))
    }
}

async fn channel(identity: Identity, at: &str) -> Channel {
    let tls = Tls::new(identity);
    let expected = Expected::cluster_of(tls.trust().own());
    connect(&tls, at, &expected).await.expect("connected").channel
}

async fn keys(channel: &Channel, prefix: &str) -> Vec<String> {
    let range = RangeRequest {
        key: prefix.to_owned().into(),
        range_end: format!("{}0", prefix.trim_end_matches('/')).into(),
        limit: 2,
        ..Default::default()
    };
    let mut keys = Vec::new();
    let mut from = range.key.clone();
    loop {
        let request = RangeRequest { key: from.clone(), ..range.clone() };
        let page = KvClient::new(channel.clone()).range(request).await.expect("listed").into_inner();
        keys.extend(page.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()));
        let Some(last) = page.kvs.last().filter(|_| page.more) else { return keys };
        from = [&last.key[..], &[0]].concat().into();
    }
}

#[tokio::test]
async fn a_vm_joins_by_its_token_sees_what_concerns_it_and_is_out_when_it_is_removed() {
    let dir = cluster();
    std::fs::write(dir.path().join("manifests/shop.yaml"), SHOP).expect("written");
    let running = Running::start(dir.path());
    running.until_ready().await;
    let at = running.args.listen.to_string();
    let operator = Identity::load(&Layout::new(dir.path()).admin(), Role::Operator).expect("an operator");
    let mut admin = AdminClient::new(channel(operator, &at).await);

    let workload = json!({
        "apiVersion": API_VERSION,
        "kind": external_workload::KIND,
        "metadata": {"name": "web-1", "namespace": "shop"},
        "spec": {"labels": {"app": "web"}, "serve": [{"service": "cart", "port": 8080}]},
    });
    let add = |workload: &serde_json::Value| AddVmRequest { workload: workload.to_string() };
    admin.add_vm(add(&workload)).await.expect("added");
    let taken = admin.add_vm(add(&workload)).await.expect_err("the name is taken");
    assert_eq!(taken.code(), Code::AlreadyExists, "{taken}");
    let mut unknown = workload.clone();
    unknown["spec"]["lables"] = json!({});
    let refused = admin.add_vm(add(&unknown)).await.expect_err("no such field");
    assert!(refused.message().starts_with("not a ExternalWorkload: spec.lables"), "{refused}");
    let mut twice = workload.clone();
    twice["metadata"]["name"] = "web-2".into();
    twice["spec"]["programs"] =
        json!([{"name": "a", "unit": "a.service"}, {"name": "b", "unit": "a.service"}]);
    let refused = admin.add_vm(add(&twice)).await.expect_err("a process of two identities");
    let why = "web-2 is no valid ExternalWorkload: spec.programs[1]: a is the unit a.service, too: a process has one identity";
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, why));
    let written = std::fs::read_dir(dir.path().join("manifests")).expect("the directory").count();
    assert_eq!(written, 2, "what is refused is not written");

    let invite = InviteVmRequest { name: "web-1".to_owned() };
    let line = admin.invite_vm(invite.clone()).await.expect("a token").into_inner().token;
    let first = Machine::new(&line);
    assert_eq!(first.token.invites, Invited::Vm("web-1".parse().expect("a name")));
    let secret = first.token.secret.clone();
    let wrong = first.join(&at, "web-2", Some(&secret)).await.expect_err("another name");
    assert_eq!(wrong.code(), Code::NotFound, "{wrong}");
    let none = first.join(&at, "web-1", None).await.expect_err("no token, no known key");
    assert_eq!(none.code(), Code::PermissionDenied, "{none}");

    // Redeemed twice at once: one is enrolled.
    let second = Machine::new(&line);
    let (one, other) =
        tokio::join!(first.join(&at, "web-1", Some(&secret)), second.join(&at, "web-1", Some(&secret)));
    assert!(one.is_ok() != other.is_ok(), "{:?} {:?}", one.is_ok(), other.is_ok());
    let (winner, loser) = if one.is_ok() { (&first, &second) } else { (&second, &first) };
    let refused = loser.join(&at, "web-1", Some(&secret)).await.expect_err("too late");
    assert!(refused.message().contains("was used already, by another key"), "{refused}");
    winner.join(&at, "web-1", Some(&secret)).await.expect("the same key may repeat");
    let identity = winner.join(&at, "web-1", None).await.expect("renewed by the key alone");
    assert_eq!(identity.id().to_string(), format!("spiffe://{}/vm/web-1", identity.id().trust_domain()));

    let vm = channel(identity, &at).await;
    let seen = keys(&vm, "mesh/v1/").await;
    assert!(seen.contains(&"mesh/v1/west/nodes/web-1".to_owned()), "{seen:?}");
    assert!(seen.contains(&"mesh/v1/west/services/shop/cart".to_owned()), "{seen:?}");
    let hidden = ["services/bank", "west/identities", "west/endpoints", "heartbeat"];
    assert!(!seen.iter().any(|key| hidden.iter().any(|part| key.contains(part))), "{seen:?}");
    assert_eq!(keys(&vm, "mesh-local/v1/").await, ["mesh-local/v1/vms/web-1"]);
    let grant = RangeRequest { key: "mesh-local/v1/vms/web-1".into(), ..Default::default() };
    let grant = KvClient::new(vm.clone()).range(grant).await.expect("its own").into_inner();
    let grant = Vm::decode(&grant.kvs[0].value).expect("a grant");
    assert_eq!(grant.serve[0].ports[0].port, 8080);

    // It says that it is there, and what it serves is ready.
    let presence =
        Presence { instance: Instance([1; 16]), sequence: 1, serve: vec![], agent_version: "0.1.0".into() };
    let put = PutRequest {
        key: "mesh-local/v1/presence/web-1".into(),
        value: presence.encode().into(),
        ..Default::default()
    };
    KvClient::new(vm.clone()).put(put.clone()).await.expect("its own record");
    let other = PutRequest { key: "mesh-local/v1/presence/web-2".into(), ..put };
    assert_eq!(
        KvClient::new(vm.clone()).put(other).await.expect_err("not its own").code(),
        Code::PermissionDenied
    );
    let listed = async |admin: &mut AdminClient<Channel>| {
        admin.list_vms(ListVmsRequest {}).await.expect("listed").into_inner().vms
    };
    until(async || listed(&mut admin.clone()).await.first().is_some_and(|vm| vm.presence() == Seen::Present))
        .await;

    // Removed: its stream ends at once, and its certificate opens nothing any more.
    let (watch, requests) = tokio::sync::mpsc::channel(1);
    let create = WatchCreateRequest {
        key: "mesh/v1/west/".into(),
        range_end: "mesh/v1/west0".into(),
        ..Default::default()
    };
    watch
        .send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })
        .await
        .expect("sent");
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut events = WatchClient::new(vm.clone()).watch(requests).await.expect("watching").into_inner();
    assert!(events.message().await.expect("created").expect("an answer").created);
    let removed = admin.remove_vm(RemoveVmRequest { name: "web-1".to_owned() }).await.expect("removed");
    assert!(removed.into_inner().removed);
    let ended = async {
        loop {
            match events.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a reason"),
                Err(status) => return status,
            }
        }
    };
    let ended = timeout(PATIENCE, ended).await.expect("ended in time");
    assert_eq!(ended.message(), "etcdserver: permission denied: no longer a VM of this cluster");
    let range = RangeRequest { key: "mesh/v1/west/cluster".into(), ..Default::default() };
    let refused = KvClient::new(vm.clone()).range(range.clone()).await.expect_err("it still calls");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    until(async || {
        !keys(&admin_channel(dir.path(), &at).await, "mesh-local/v1/")
            .await
            .iter()
            .any(|key| key.contains("web-1"))
    })
    .await;

    // The name anew is another VM: the old key is not its.
    admin.add_vm(add(&workload)).await.expect("added again");
    assert_eq!(
        KvClient::new(vm).range(range).await.expect_err("the old certificate").code(),
        Code::PermissionDenied
    );
    let refused = winner.join(&at, "web-1", None).await.expect_err("the old key");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    running.end().await.expect("ended well");
}

#[tokio::test]
async fn who_has_joined_is_let_in_after_a_restart_and_an_open_token_still_counts() {
    let dir = cluster();
    let running = Running::start(dir.path());
    running.until_ready().await;
    let at = running.args.listen.to_string();
    let mut admin = AdminClient::new(admin_channel(dir.path(), &at).await);
    let mut machines = Vec::new();
    for name in ["web-1", "web-2"] {
        let workload =
            json!({"apiVersion": API_VERSION, "kind": "ExternalWorkload", "metadata": {"name": name}});
        admin.add_vm(AddVmRequest { workload: workload.to_string() }).await.expect("added");
        let invited = admin.invite_vm(InviteVmRequest { name: name.to_owned() }).await.expect("a token");
        machines.push(Machine::new(&invited.into_inner().token));
    }
    machines[0].join(&at, "web-1", Some(&machines[0].token.secret)).await.expect("joined");
    running.end().await.expect("ended well");

    let running = Running::start(dir.path());
    running.until_ready().await;
    let at = running.args.listen.to_string();
    let identity = machines[0].join(&at, "web-1", None).await.expect("known by its key");
    assert!(keys(&channel(identity, &at).await, "mesh/v1/").await.len() > 2);
    machines[1].join(&at, "web-2", Some(&machines[1].token.secret)).await.expect("its token still counts");
    running.end().await.expect("ended well");
}

async fn admin_channel(dir: &Path, at: &str) -> Channel {
    channel(Identity::load(&Layout::new(dir).admin(), Role::Operator).expect("an operator"), at).await
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let reached = async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, reached).await.expect("in time");
}
