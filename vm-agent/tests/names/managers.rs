//! Hosts whose resolver is managed, by the real programs: unpacked by `ci/resolvers.sh`, and laid over `/usr` and `/etc`
//! in a mount namespace of the test's own.

use crate::lab::{Agent, Dnsmasq, PATIENCE, Place, UPSTREAM, US, mesh};
use mesh_vm_agent::{names::Names, resolv::Host};
use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const WWW: &str = "--host-record=www.example.com,203.0.113.5,30";

#[test]
fn systemd_resolved_asks_us_for_the_meshs_domains_and_for_nothing_else_until_the_agent_ends() {
    let place = Place::with_layers("systemd-resolved");
    let upstream = Dnsmasq::start(&place, &[WWW]);
    place.sh(RESOLVED);
    // Without a link that leads somewhere it asks nobody.
    link(&place, "eth0", "198.51.100.1/24");
    let _bus =
        Service::start(&place, &["dbus-daemon", "--config-file=/run/bus.conf", "--nofork", "--nopidfile"]);
    eventually("the bus is there", || place.try_sh("test -S /run/dbus/system_bus_socket").1);
    let _resolved = Service::start(&place, &["/usr/lib/systemd/systemd-resolved"]);
    eventually("it resolves", || libc(&place, "www.example.com") == "203.0.113.5");

    let mut agent = Agent::start(&place, Host::this());
    let Names::Missing { why } = agent.until(|names| *names != Names::Starting) else {
        panic!("it knows no mesh0 yet")
    };
    assert!(why.contains("mesh0"), "{why}");
    link(&place, "mesh0", "100.64.1.1/32");
    agent.served();
    agent.show(mesh(2));
    for name in ["cart.shop.svc.cluster.local", "cart.shop.svc.clusterset.local", "cart"] {
        eventually(name, || libc(&place, name) == "10.101.0.10");
    }
    assert_eq!(place.sh("dig +short @127.0.0.53 cart.shop.svc.cluster.local"), "10.101.0.10");
    assert_eq!(libc(&place, "www.example.com"), "203.0.113.5");
    assert_eq!(upstream.asked("local"), 0, "the mesh's names are asked nowhere else");
    let ours = place.sh(&format!("dig @{US} www.example.com"));
    assert!(ours.contains("status: REFUSED"), "we have no server for other names, and need none: {ours}");

    agent.stop();
    assert_eq!(place.sh("resolvectl dns mesh0 | cut -d: -f2"), "");
    assert_eq!(libc(&place, "cart.shop.svc.cluster.local"), "");
    assert_eq!(libc(&place, "www.example.com"), "203.0.113.5");
}

#[test]
fn resolvconf_names_us_alone_and_what_it_named_before_is_asked_by_us() {
    managed(
        "resolvconf",
        "ln -sfn ../run/resolvconf/resolv.conf /etc/resolv.conf
        ln -sfn /run/resolvconf /etc/resolvconf/run
        mkdir -p /run/resolvconf/interface && touch /run/resolvconf/enable-updates",
    );
}

#[test]
fn openresolv_names_us_alone_and_what_it_named_before_is_asked_by_us() {
    managed("openresolv", "rm -f /etc/resolv.conf && touch /etc/resolv.conf");
}

fn managed(layers: &str, prepare: &str) {
    let place = Place::with_layers(layers);
    let upstream = Dnsmasq::start(&place, &[WWW]);
    place.sh(prepare);
    let dhcp = |server: &str| {
        place.sh(&format!("printf 'nameserver {server}\\nsearch example.com\\n' | resolvconf -a eth0.dhcp"));
    };
    dhcp(UPSTREAM);
    let before = place.sh("cat /etc/resolv.conf");
    assert!(before.contains(UPSTREAM), "{before}");
    assert_eq!(libc(&place, "www"), "203.0.113.5");

    let mut agent = Agent::start(&place, Host::this());
    agent.served();
    agent.show(mesh(2));
    for name in ["cart.shop.svc.cluster.local", "cart.shop.svc.clusterset.local", "cart"] {
        eventually(name, || libc(&place, name) == "10.101.0.10");
    }
    assert_eq!(libc(&place, "www"), "203.0.113.5", "the host's own search list goes on");
    assert_eq!(place.sh("grep ^nameserver /etc/resolv.conf"), format!("nameserver {US}"));
    assert_eq!(upstream.asked("local"), 0, "the mesh's names are asked nowhere else");

    // Another record comes: we stay in front.
    dhcp("192.0.2.77");
    assert_eq!(place.sh("grep ^nameserver /etc/resolv.conf"), format!("nameserver {US}"));
    dhcp(UPSTREAM);
    agent.stop();
    assert_eq!(place.sh("cat /etc/resolv.conf"), before);
}

/// What systemd-resolved needs: its user, its directory, the server it has without us, and a bus that anybody may use.
const RESOLVED: &str = "
    grep -q ^systemd-resolve: /etc/passwd || echo systemd-resolve:x:990:990::/:/usr/sbin/nologin >>/etc/passwd
    grep -q ^systemd-resolve: /etc/group || echo systemd-resolve:x:990: >>/etc/group
    install -d -o systemd-resolve -g systemd-resolve /run/systemd/resolve && mkdir -p /run/dbus
    printf '[Resolve]\\nDNS=192.0.2.1\\nFallbackDNS=\\nCache=no\\n' >/etc/systemd/resolved.conf
    ln -sfn ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
    cat >/run/bus.conf <<'END'
<busconfig>
  <type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
  <policy context='default'>
    <allow send_destination='*'/><allow receive_sender='*'/><allow own='*'/><allow user='*'/>
  </policy>
</busconfig>
END
";

fn link(place: &Place, name: &str, address: &str) {
    place.sh(&format!(
        "ip link add {name} type veth peer name {name}-end && ip addr add {address} dev {name} \
         && ip link set {name} up && ip link set {name}-end up"
    ));
}

/// A program that ends with the test.
struct Service(Child);

impl Service {
    fn start(place: &Place, line: &[&str]) -> Self {
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).stdout(Stdio::null());
        Self(place.run(|| command.spawn().unwrap_or_else(|error| panic!("{}: {error}", line[0]))))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The first address that libc has for a name, asked by DNS alone.
fn libc(place: &Place, name: &str) -> String {
    place.try_sh(&format!("getent -s dns ahostsv4 {name} | head -1 | cut -d' ' -f1")).0
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
