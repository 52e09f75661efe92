use super::*;
use clap::Parser;
use expect_test::expect;

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: VmCommand,
}

fn added(line: &str) -> Result<String, String> {
    let line = Line::try_parse_from(["vm", "add"].into_iter().chain(line.split(' ')));
    match line.map_err(|error| error.to_string())?.command {
        VmCommand::Add(args) => Ok(serde_saphyr::to_string(&workload(&args)).unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_line_becomes_the_object_that_somebody_could_have_written() {
    let line =
        "web-1 --namespace shop --labels app=web,env=legacy --read db --serve cart:8080 --serve shop:http:81";
    expect![[r#"
        apiVersion: clustermesh.io/v1alpha1
        kind: ExternalWorkload
        metadata:
          name: web-1
          namespace: shop
        spec:
          labels:
            app: web
            env: legacy
          namespaces:
          - db
          serve:
          - service: cart
            port: 8080
          - service: shop
            portName: http
            port: 81
    "#]]
    .assert_eq(&added(line).unwrap());
}

#[test]
fn what_is_wrong_with_a_line_is_named() {
    for (line, says) in [
        ("web_1", "invalid value 'web_1'"),
        ("web-1 --labels app", "it is of the form KEY=VALUE"),
        ("web-1 --serve cart", "it is of the form SERVICE:PORT or SERVICE:PORTNAME:PORT"),
        ("web-1 --serve cart:0", "`0` is not a port"),
        ("web-1 --read db --read-all", "cannot be used with"),
    ] {
        let error = added(line).unwrap_err();
        assert!(error.contains(says), "{line}: {error}");
    }
}

fn vm(name: &str, key: &str, presence: Presence) -> Vm {
    Vm {
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec!["100.64.1.7".into(), "fd64:1::7".into()],
        key: key.into(),
        presence: presence.into(),
        ..Vm::default()
    }
}

#[test]
fn the_list_says_how_far_each_has_come() {
    let vms = [
        Vm { token_until_s: 1_000, ..vm("asked", "", Presence::Unknown) },
        Vm { token_until_s: 999, ..vm("late", "", Presence::Unknown) },
        Vm { silent_ms: Some(2_100), ..vm("web-1", "aa", Presence::Present) },
        Vm {
            silent_ms: Some(90_000),
            problem: "two machines speak".into(),
            ..vm("web-2", "bb", Presence::Lapsed)
        },
    ];
    expect![[r#"
        NAME   NAMESPACE  STATE       SEEN        ADDRESSES
        asked  shop       invited     -           100.64.1.7 fd64:1::7
        late   shop       not joined  -           100.64.1.7 fd64:1::7
        web-1  shop       present     2.1 s ago   100.64.1.7 fd64:1::7
        web-2  shop       lapsed      90.0 s ago  100.64.1.7 fd64:1::7
         ✗ web-2: two machines speak
    "#]]
    .assert_eq(&list(&vms, Output::Table, 999).unwrap());
}

#[test]
fn the_status_is_well_only_when_it_is_there_and_every_tunnel_carries() {
    let present = Vm { silent_ms: Some(2_100), ..vm("web-1", "aa", Presence::Present) };
    let tunnel = |node: &str, rtt_us| Tunnel {
        cluster: "core".parse().unwrap(),
        node: node.parse().unwrap(),
        mtu_bytes: 1_420,
        handshake_age_ms: None,
        rtt_us,
        probe_age_ms: None,
        probe_failed: false,
        rx_bytes: 0,
        tx_bytes: 0,
        endpoint: String::new(),
        relay: String::new(),
    };
    let facts = |tunnels: Vec<Tunnel>| {
        let applied = Applied {
            tunnels,
            datapath: "wireguard-kernel".into(),
            packet_hook: "tcx".into(),
            balancer: "nftables".into(),
            ..Applied::default()
        };
        let key = LocalKey::Applied("web-1".parse().unwrap());
        let listed = crate::session::Listed {
            key: api::key::Key::from(key).to_string().into_bytes(),
            value: applied.encode(),
            revision: 7,
        };
        Facts::new("core".parse().unwrap(), 7, 0, vec![listed])
    };
    let (text, well) = status(&present, &facts(vec![tunnel("n1", Some(1_200)), tunnel("n2", Some(3_400))]));
    expect![[r#"
        web-1 in shop of core
          addresses  100.64.1.7 fd64:1::7
          present    seen 2.1 s ago
          tunnels    2/2 carry, rtt at most 3.4 ms (wireguard-kernel, tcx)
          balancer   nftables
    "#]]
    .assert_eq(&text);
    assert!(well);
    let (text, well) = status(&present, &facts(vec![tunnel("n1", Some(1_200)), tunnel("n2", None)]));
    assert!(text.contains(" ✗ the tunnel to core/n2 is silent") && !well, "{text}");
    let (text, well) = status(&vm("web-1", "", Presence::Unknown), &facts(vec![]));
    assert!(text.contains("meshctl vm token web-1") && !well, "{text}");
}

#[test]
fn the_status_names_each_program_with_its_address_and_says_which_is_not_told_apart() {
    let present = Vm { silent_ms: Some(2_100), ..vm("web-1", "aa", Presence::Present) };
    let program = |name: &str, processes, address: &str| record::Program {
        name: name.parse().unwrap(),
        processes,
        addresses: vec![address.parse().unwrap()],
        serve: vec![],
    };
    let unit = |slice: Option<&str>| record::Processes::Unit {
        unit: "billing.service".parse().unwrap(),
        slice: slice.map(|slice| slice.parse().unwrap()),
    };
    let told = record::Vm {
        namespace: "shop".parse().unwrap(),
        namespaces: [].into(),
        serve: vec![],
        programs: vec![
            program("billing", unit(None), "100.64.1.8"),
            program("card", unit(Some("pay.slice")), "100.64.1.9"),
            program("jobs", record::Processes::User("jobs".parse().unwrap()), "100.64.1.10"),
        ],
    };
    let found = |name: &str, running| AppliedProgram { name: name.parse().unwrap(), running };
    let applied =
        Applied { programs: vec![found("billing", true), found("card", false)], ..Applied::default() };
    let name: NodeName = "web-1".parse().unwrap();
    let listed = |key: LocalKey, value| crate::session::Listed {
        key: api::key::Key::from(key).to_string().into_bytes(),
        value,
        revision: 7,
    };
    let records = vec![
        listed(LocalKey::Vm(name.clone()), told.encode()),
        listed(LocalKey::Applied(name), applied.encode()),
    ];
    let (text, well) = status(&present, &Facts::new("core".parse().unwrap(), 7, 0, records));
    expect![[r#"
        web-1 in shop of core
          addresses  100.64.1.7 fd64:1::7
          present    seen 2.1 s ago
          program    billing at 100.64.1.8 (unit billing.service)
          program    card at 100.64.1.9 (unit billing.service in pay.slice, not running)
          program    jobs at 100.64.1.10 (user jobs, not told apart yet)
          tunnels    0/0 carry (, )
         ✗ its agent does not tell the program jobs apart: is it of this version, and has it read its record?
    "#]]
    .assert_eq(&text);
    assert!(!well);
}
