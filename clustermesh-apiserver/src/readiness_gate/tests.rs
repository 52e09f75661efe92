use super::*;
use crate::stand_in::ApiServer;

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn said(written_ms: u64, programmed: bool) -> BTreeMap<NodeName, Applied> {
    BTreeMap::from([(name("n1"), Applied { written_ms, programmed, ..Applied::default() })])
}

#[test]
fn a_node_is_due_when_its_agent_says_so_after_the_taint_was_seen() {
    let (one, none) = (BTreeSet::from([name("n1")]), BTreeSet::new());
    let mut gate = Gate::default();
    assert_eq!(gate.due(&one, &BTreeMap::new()), none, "no agent yet");
    assert_eq!(gate.due(&one, &said(10, false)), none, "not programmed yet");
    assert_eq!(gate.due(&one, &said(11, true)), one);
    assert_eq!(gate.due(&one, &said(11, true)), one, "until the taint is gone");

    assert_eq!(gate.due(&none, &said(11, true)), none);
    assert_eq!(gate.due(&one, &said(11, true)), none, "tainted anew: that was its earlier life");
    assert_eq!(gate.due(&one, &said(7, true)), one, "a clock that went back counts, too");
}

#[tokio::test]
async fn only_our_taint_is_taken_off_and_only_once() {
    let server = ApiServer::new();
    let taints = json!([
        {"key": "dedicated", "value": "db", "effect": "NoSchedule"},
        {"key": TAINT, "effect": "NoExecute"},
        {"key": TAINT, "effect": "NoSchedule"},
    ]);
    server.put("nodes", json!({"metadata": {"name": "n1"}, "spec": {"taints": taints}}));
    open(&server.client(), &name("n1")).await.expect("opened");
    let held = || async {
        let api: Api<Node> = Api::all(server.client());
        let node = api.get("n1").await.expect("there");
        let keys: Vec<_> = node.spec.unwrap().taints.unwrap().into_iter().map(|taint| taint.key).collect();
        (keys, node.metadata.resource_version)
    };
    let (keys, version) = held().await;
    assert_eq!(keys, ["dedicated"]);
    open(&server.client(), &name("n1")).await.expect("nothing to do");
    assert_eq!(held().await.1, version, "nothing was written");
    open(&server.client(), &name("n2")).await.expect("a node that is gone needs nothing");
}
