//! Who is not who he must be does not get in, and is told which certificate is refused, why and by whom.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use e2e::{A, B, only};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};

use crate::story::{SHOWN, Story, eventually};

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_certificate_that_is_expired_of_another_role_or_of_the_wrong_ca_is_refused_and_named() {
    let story = Story::connected("certificates");
    let (uuid_a, uuid_b) = (uuid(&story, A.name), uuid(&story, B.name));
    let now = SystemTime::now();
    let good = (now - DAY, now + DAY);
    let id = |uuid: &str, who: &str| format!("spiffe://{uuid}/{who}");

    // At the apiserver's door, by a client that does not look at its own certificate first.
    let door = [
        ("cluster-a", id(&uuid_a, "operator/late"), (now - 3 * DAY, now - DAY), "expired"),
        ("cluster-b", id(&uuid_b, "operator/theirs"), good, "role"),
        ("cluster-b", id(&uuid_b, "node/b1"), good, "role"),
        ("cluster-b", id(&uuid_a, "operator/minted"), good, "sign"),
        ("cluster-a", id(&uuid_b, "cluster/cluster-b"), good, "sign"),
    ];
    for (ca, id, validity, because) in door {
        let identity = mint(&story, ca, &id, validity);
        let (code, said) = knock(&story, &identity);
        assert_ne!(code, 0, "{id} by the CA of {ca} was let in: {said}");
        eventually("the apiserver names certificate, reason and side", SHOWN, || {
            let log = story.log("cluster-a/host/control/apiserver");
            let refusal = format!("the client's certificate {id} (");
            match log.lines().find(|line| line.contains(&refusal)) {
                Some(line) if line.contains("Refused") && line.contains(because) => Ok(()),
                Some(line) => Err(format!("{because}: {line}")),
                None => Err(format!("no line names {id}")),
            }
        });
    }
    let identity = mint(&story, "cluster-a", &id(&uuid_a, "operator/fine"), good);
    let (code, said) = knock(&story, &identity);
    assert_eq!(code, 0, "the proof that the others were refused for their certificates: {said}");

    // By the agent itself, which does not start with what cannot be right.
    let agent = [
        ("cluster-a", id(&uuid_a, "operator/admin"), good, "cluster-a", "role"),
        ("cluster-a", id(&uuid_a, "node/a1"), (now - 3 * DAY, now - DAY), "cluster-a", "expired"),
        ("cluster-b", id(&uuid_b, "node/b1"), good, "cluster-a", "not signed by a CA in the trust bundle"),
    ];
    for (ca, id, validity, bundle, because) in agent {
        let identity = mint(&story, ca, &id, validity);
        let (code, stdout, stderr) =
            story.sh("host/admin", &format!("timeout 20 {}", run_agent(&story, &identity, bundle)));
        assert_eq!(code, 1, "{id}: {stdout}{stderr}");
        for part in ["our own certificate", &id, "is refused", because] {
            assert!(stderr.contains(part), "{id}: `{part}` is missing in: {stderr}");
        }
    }

    // A whole identity of another cluster: its owner does not believe the server.
    let identity = mint(&story, "cluster-b", &id(&uuid_b, "node/b1"), good);
    let agent = run_agent(&story, &identity, "cluster-b");
    let said = story.said("host/admin", &format!("timeout 20 grep -m1 'is refused' < <({agent} 2>&1)"));
    assert!(said.contains("the server's certificate") && said.contains(&uuid_a), "{said}");

    story.carts("cluster-a/pod/client", &A, |answers| !only(answers, &B));
    story.well();
}

/// Signs a certificate with a cluster's CA key, whatever it says, and puts it on the lab's disk.
fn mint(story: &Story, ca: &str, id: &str, (from, until): (SystemTime, SystemTime)) -> PathBuf {
    let of_ca = |file: &str| fs::read_to_string(story.dir().join(ca).join("data/ca").join(file)).unwrap();
    let ca_key = KeyPair::from_pem(&of_ca("key.pem")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&of_ca("cert.pem"), ca_key).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.to_owned().try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (from.into(), until.into());
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    let dir = story.dir().join("minted");
    fs::create_dir_all(&dir).unwrap();
    let dir = dir.join(fs::read_dir(&dir).unwrap().count().to_string());
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("cert.pem"), cert.pem()).unwrap();
    fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    dir
}

/// Speaks TLS to cluster-a's apiserver with a client certificate; 0 is an answer, of whatever kind.
fn knock(story: &Story, identity: &Path) -> (i32, String) {
    let identity = identity.display();
    let (code, stdout, stderr) = story.sh(
        "host/admin",
        &format!(
            "curl -sSk --max-time 5 --cert {identity}/cert.pem --key {identity}/key.pem https://{}/",
            A.apiserver
        ),
    );
    (code, format!("{stdout}{stderr}"))
}

fn run_agent(story: &Story, identity: &Path, bundle: &str) -> String {
    format!(
        "{}/mesh-node-agent --apiserver {} --cert {identity}/cert.pem --key {identity}/key.pem --bundle {}",
        story.lab.state().unwrap().bin.display(),
        A.apiserver,
        story.dir().join(bundle).join("data/ca/cert.pem").display(),
        identity = identity.display(),
    )
}

/// A cluster's trust domain, from its operator's context.
fn uuid(story: &Story, cluster: &str) -> String {
    let context = story.dir().join(cluster).join("data/admin/config.yaml");
    let text = fs::read_to_string(context).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("uuid: "));
    line.expect("a context names its cluster's UUID").to_owned()
}
