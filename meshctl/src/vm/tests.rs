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
fn each_program_of_a_line_becomes_one_of_the_object() {
    let line = "web-1 --program billing=unit:billing.service,serve=invoices:9001,serve=shop:http:81,label=app=billing,\
                label=tier=,service-account=billing --program card=unit:card@1.service,slice=pay.slice --program jobs=user:1000";
    expect![[r#"
        apiVersion: clustermesh.io/v1alpha1
        kind: ExternalWorkload
        metadata:
          name: web-1
          namespace: default
        spec:
          programs:
          - name: billing
            unit: billing.service
            labels:
              app: billing
              tier: ""
            serviceAccount: billing
            serve:
            - service: invoices
              port: 9001
            - service: shop
              portName: http
              port: 81
          - name: card
            unit: card@1.service
            slice: pay.slice
          - name: jobs
            user: "1000"
    "#]]
    .assert_eq(&added(line).unwrap());
}

#[test]
fn what_is_wrong_with_a_program_is_named() {
    let (form, parts) =
        ("NAME=unit:UNIT or NAME=user:USER", "is none of serve=SERVICE[:PORTNAME]:PORT, label=KEY=VALUE");
    for (program, says) in [
        ("billing", form),
        ("=unit:a.service", "`` is not a valid program name"),
        ("Billing=unit:a.service", "`Billing` is not a valid program name"),
        ("billing=billing.service", "`billing.service` names no processes: unit:UNIT or user:USER does"),
        ("billing=cgroup:/a", "`cgroup:/a` names no processes"),
        ("billing=unit:billing", "`billing` is not a valid unit"),
        ("billing=user:", "`` is not a valid user"),
        ("billing=unit:a.service,", &format!("`` {parts}")),
        ("billing=unit:a.service,port=80", &format!("`port=80` {parts}")),
        ("billing=unit:a.service,b=unit:b.service", &format!("`b=unit:b.service` {parts}")),
        ("billing=unit:a.service,serve=cart", "`serve=cart`: it is of the form SERVICE:PORT"),
        ("billing=unit:a.service,serve=cart:0", "`serve=cart:0`: `0` is not a port"),
        ("billing=unit:a.service,label=app", "`label=app`: it is of the form KEY=VALUE"),
        ("billing=unit:a.service,label=app=b,label=app=c", "`label=app=c` was said before: b"),
        ("billing=unit:a.service,service-account=B", "`service-account=B`: `B` is not a valid"),
        (
            "billing=unit:a.service,service-account=b,service-account=c",
            "`service-account=c` was said before: b",
        ),
        ("billing=unit:a.service,slice=pay", "`slice=pay`: `pay` is not a valid slice"),
        ("jobs=user:jobs,slice=pay.slice", "`slice=pay.slice` says where a unit is, and jobs is a user"),
    ] {
        let error = added(&format!("web-1 --program {program}")).unwrap_err();
        assert!(
            error.starts_with(&format!("error: invalid value '{program}'")) && error.contains(says),
            "{program}: {error}"
        );
    }
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

/// A record of the store.
fn listed(key: LocalKey, value: Vec<u8>) -> crate::session::Listed {
    crate::session::Listed { key: api::key::Key::from(key).to_string().into_bytes(), value, revision: 7 }
}

fn facts(records: Vec<crate::session::Listed>) -> Facts {
    Facts::new("core".parse().unwrap(), 7, 0, records)
}

/// The program of a unit that is called as it is.
fn program(name: &str) -> record::Program {
    let unit = record::Processes::Unit { unit: format!("{name}.service").parse().unwrap(), slice: None };
    let addresses = vec!["100.64.1.8".parse().unwrap()];
    record::Program { name: name.parse().unwrap(), processes: unit, addresses, serve: vec![] }
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
    let told = record::Vm {
        namespace: "shop".parse().unwrap(),
        namespaces: [].into(),
        serve: vec![],
        programs: ["billing", "card"].map(program).to_vec(),
    };
    let facts = facts(vec![listed(LocalKey::Vm("web-1".parse().unwrap()), told.encode())]);
    expect![[r#"
        NAME   NAMESPACE  STATE       SEEN        PROGRAMS      ADDRESSES
        asked  shop       invited     -           -             100.64.1.7 fd64:1::7
        late   shop       not joined  -           -             100.64.1.7 fd64:1::7
        web-1  shop       present     2.1 s ago   billing card  100.64.1.7 fd64:1::7
        web-2  shop       lapsed      90.0 s ago  -             100.64.1.7 fd64:1::7
         ✗ web-2: two machines speak
    "#]]
    .assert_eq(&list(&vms, &facts, Output::Table, 999).unwrap());
    expect![[r#"
        - name: web-1
          namespace: shop
          addresses:
          - "100.64.1.7"
          - fd64:1::7
          programs:
          - name: billing
            processes: unit billing.service
            addresses:
            - "100.64.1.8"
          - name: card
            processes: unit card.service
            addresses:
            - "100.64.1.8"
          key: aa
          state: present
          silentMs: 2100
    "#]]
    .assert_eq(&list(&vms[2..3], &facts, Output::Yaml, 999).unwrap());
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
        probe_age_ms: rtt_us.map(|_| 900),
        probe_failed: false,
        rx_bytes: 0,
        tx_bytes: 0,
        endpoint: String::new(),
        relay: String::new(),
        on_demand: false,
    };
    let facts = |tunnels: Vec<Tunnel>| {
        let applied = Applied {
            tunnels,
            datapath: "wireguard-kernel".into(),
            packet_hook: "tcx".into(),
            balancer: "nftables".into(),
            ..Applied::default()
        };
        facts(vec![listed(LocalKey::Applied("web-1".parse().unwrap()), applied.encode())])
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
    let records = vec![
        listed(LocalKey::Vm(name.clone()), told.encode()),
        listed(LocalKey::Applied(name), applied.encode()),
    ];
    let (text, well) = status(&present, &facts(records));
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
