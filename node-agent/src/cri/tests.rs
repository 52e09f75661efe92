//! A runtime of our own on a Unix socket, and a pod that is a namespace of its own.

use super::*;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use rpc::runtime::v1::{
    LinuxPodSandboxStatus, ListPodSandboxResponse, NamespaceOption, PodIp, PodSandbox,
    PodSandboxNetworkStatus, PodSandboxStatus,
    runtime_service_server::{RuntimeService, RuntimeServiceServer},
};
use std::{
    process::Command,
    sync::{Arc, Mutex, mpsc},
    thread,
};
use tokio::net::UnixListener;
use tonic::{Request, Response, Status};

/// What the runtime says of each sandbox, and how often it was asked for one.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<(BTreeMap<String, PodSandboxStatusResponse>, usize)>>);

#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn list_pod_sandbox(
        &self,
        _: Request<ListPodSandboxRequest>,
    ) -> Result<Response<ListPodSandboxResponse>, Status> {
        let state = |id: &str| match id {
            "ended" => PodSandboxState::SandboxNotready,
            _ => PodSandboxState::SandboxReady,
        };
        let sandboxes = self.0.lock().unwrap();
        let items = sandboxes.0.keys().map(|id| PodSandbox { id: id.clone(), state: state(id).into() });
        Ok(Response::new(ListPodSandboxResponse { items: items.collect() }))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Result<Response<PodSandboxStatusResponse>, Status> {
        let mut sandboxes = self.0.lock().unwrap();
        sandboxes.1 += 1;
        let request = request.into_inner();
        let found = sandboxes.0.get(&request.pod_sandbox_id).filter(|_| request.verbose);
        found.cloned().map(Response::new).ok_or_else(|| Status::not_found("no such sandbox"))
    }
}

/// An answer with these addresses, the first of which stands apart, and this report of the runtime's own.
fn answer(id: &str, addresses: &[&str], mode: NamespaceMode, info: &str) -> PodSandboxStatusResponse {
    let mut addresses = addresses.iter().map(|ip| (*ip).to_owned());
    let network = PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| PodIp { ip }).collect(),
    };
    let options = NamespaceOption { network: mode.into() };
    let namespaces = rpc::runtime::v1::Namespace { options: Some(options) };
    PodSandboxStatusResponse {
        status: Some(PodSandboxStatus {
            id: id.to_owned(),
            state: PodSandboxState::SandboxReady.into(),
            network: Some(network),
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(namespaces) }),
        }),
        info: [("info".to_owned(), info.to_owned())].into(),
    }
}

#[test]
fn an_answer_names_addresses_and_a_namespace_or_says_why_not() {
    let spec = r#"{"pid":7,"runtimeSpec":{"ociVersion":"1.0","linux":{"namespaces":[{"type":"pid"},
        {"type":"network","path":"/var/run/netns/cni-1"}]}}}"#;
    let (pod, node) = (NamespaceMode::Pod, NamespaceMode::Node);
    let told = |addresses: &[&str], mode, info: &str| match sandbox(answer("c1", addresses, mode, info)) {
        Ok(Some(sandbox)) => format!("{:?} {}", sandbox.addresses, sandbox.namespace.display()),
        Ok(None) => "none".to_owned(),
        Err(error) => error.to_string(),
    };
    let no_report = "cannot read the runtime's own report: EOF while parsing a list at line 1 column 1";
    let nothing = "the runtime tells neither a network namespace nor a process of it";
    let cases: [(&[&str], _, _, _); 7] = [
        (&["10.1.1.5", "fd00::5"], pod, spec, "{10.1.1.5, fd00::5} /var/run/netns/cni-1"),
        (&["10.1.1.5"], pod, r#"{"pid":7}"#, "{10.1.1.5} /proc/7/ns/net"),
        (&["192.0.2.1"], node, spec, "none"),
        (&[], pod, spec, "none"),
        (&["10.1.1"], pod, spec, "`10.1.1` is no address"),
        (&["10.1.1.5"], pod, "{}", nothing),
        (&["10.1.1.5"], pod, "[", no_report),
    ];
    for (addresses, mode, info, expected) in cases {
        assert_eq!(told(addresses, mode, info), expected, "{addresses:?} {info}");
    }
}

#[test]
fn pods_are_told_by_a_socket_each_is_asked_for_once_and_a_runtime_that_is_gone_takes_nothing_away() {
    // The host is this thread, the pod another one: both namespaces end with them.
    let host = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: root is needed");
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let pod = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(gettid()).unwrap();
            // Lives until the other end is dropped.
            let _ = ended.recv();
        });
        let pid = told.recv().unwrap();
        for arguments in [
            "link add veth1 type veth peer name eth0 address 0a:58:0a:01:01:05".to_owned(),
            format!("link set eth0 netns {pid}"),
        ] {
            assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "{arguments}");
        }
        // One thread, so that all of it is in the host's namespace; blocking work is started from here, too.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(told_by_a_socket(&format!("/proc/{}/task/{pid}/ns/net", std::process::id())));
        drop(end);
        pod.join().unwrap();
    });
    host.join().unwrap();
}

async fn told_by_a_socket(namespace: &str) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("cri.sock");
    let fake = Fake::default();
    let report = |path: &str| {
        format!(r#"{{"runtimeSpec":{{"linux":{{"namespaces":[{{"type":"network","path":"{path}"}}]}}}}}}"#)
    };
    for (id, mode, path) in [
        ("c1", NamespaceMode::Pod, namespace),
        ("c2", NamespaceMode::Node, namespace),
        ("c3", NamespaceMode::Pod, "/nowhere"),
        ("ended", NamespaceMode::Pod, namespace),
    ] {
        let answer = answer(id, &["10.1.1.5", "fd00::5"], mode, &report(path));
        fake.0.lock().unwrap().0.insert(id.to_owned(), answer);
    }
    let listener = UnixListener::bind(&socket).unwrap();
    let incoming = futures::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let server = tonic::transport::Server::builder().add_service(RuntimeServiceServer::new(fake.clone()));
    let serving = tokio::spawn(server.serve_with_incoming(incoming));

    let mut runtime = Runtime::at(&socket);
    let first = runtime.look().await;
    let [(sandbox, inside)] = first.pods.as_slice() else { panic!("{first:?}") };
    assert_eq!((sandbox.id.as_str(), sandbox.addresses.len()), ("c1", 2));
    assert_eq!(inside.mac, [0x0a, 0x58, 0x0a, 1, 1, 5]);
    let [problem] = first.problems.as_slice() else { panic!("{first:?}") };
    assert!(problem.starts_with("sandbox c3: cannot enter the network namespace /nowhere"), "{problem}");
    assert_eq!(fake.0.lock().unwrap().1, 3, "the one that has ended is not asked for");
    assert_eq!(runtime.look().await, first);
    assert_eq!(fake.0.lock().unwrap().1, 4, "only the one that failed is asked for again");

    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    std::fs::remove_file(&socket).unwrap();
    // An open connection may outlive its server: a new client has none.
    let mut runtime = Runtime { known: runtime.known, ..Runtime::at(&socket) };
    let without = runtime.look().await;
    assert_eq!(without.pods, first.pods);
    let [problem] = without.problems.as_slice() else { panic!("{without:?}") };
    assert!(problem.starts_with("cannot list the pods of the container runtime at "), "{problem}");
    assert!(problem.contains("No such file") && problem.ends_with("(--cri-socket)"), "{problem}");
}
