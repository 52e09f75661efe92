//! From any image to any other: what must hold after every single step.

use super::{holding, image, lines};
use crate::{
    apply::{
        apply,
        model::{Model, Sizes, guard, tunnel_owner},
    },
    backend::bpf::CgroupRow,
    image::Image,
    observe::Observed,
    plan::{Completeness, plan},
    step::Step,
};
use ipnet::IpNet;
use proptest::{collection::vec, prelude::*, sample::subsequence};
use std::{cell::RefCell, net::IpAddr, net::SocketAddr, rc::Rc};

/// They nest, so that every kind of third owner is possible.
const PREFIXES: [&str; 8] = [
    "10.2.0.0/15",
    "10.2.0.0/16",
    "10.2.0.0/17",
    "10.2.1.0/24",
    "10.2.1.128/25",
    "10.2.1.130/32",
    "10.3.7.0/24",
    "fd00:10:2::/48",
];
const PEERS: [&str; 3] = ["east", "north", "west"];
const PODS: [&str; 3] = ["10.1.1.5", "10.1.1.6", "fd00:10:1::5"];
const FRONTENDS: [&str; 3] = ["10.101.0.9:80", "10.101.0.9:81", "[fd00:101::9]:80"];
const BACKENDS: [&str; 4] = ["10.1.1.5:80", "10.1.1.6:80", "10.2.1.130:80", "10.3.7.1:80"];

/// An address and a cgroup.
const TENANTS: [(&str, u64); 2] = [("100.64.1.2", 7), ("100.64.1.3", 8)];

proptest! {
    #[test]
    fn every_moment_of_a_change_is_safe(before in images(), after in images()) {
        let start = holding(&before);
        let steps = plan(&after, &start, Completeness::Complete);
        let (problems, end) = walk(&start, &steps, &before, &after, |_| false);
        prop_assert_eq!(problems, "");
        prop_assert_eq!(lines(&plan(&after, &end, Completeness::Complete)), "");
    }

    #[test]
    fn a_step_that_is_refused_opens_nothing_and_is_caught_up_with(
        before in images(),
        after in images(),
        refused in any::<prop::sample::Index>(),
    ) {
        let start = holding(&before);
        let steps = plan(&after, &start, Completeness::Complete);
        prop_assume!(!steps.is_empty());
        let bad = steps[refused.index(steps.len())].clone();
        let (problems, middle) = walk(&start, &steps, &before, &after, move |step| *step == bad);
        prop_assert_eq!(problems, "");
        let steps = plan(&after, &middle, Completeness::Complete);
        let mut host = Model::of(middle);
        apply(&steps, &mut host);
        prop_assert_eq!(lines(&plan(&after, &host.observed, Completeness::Complete)), "");
    }

    #[test]
    fn full_maps_open_nothing_and_take_what_fits_when_something_goes(before in images(), after in images()) {
        let mut host = holding(&before);
        let (was, is) = (rows(&host), rows(&holding(&after)));
        // Each map has room for all of before, or all of after, and not for both.
        let sizes = Sizes {
            routes: was.routes.max(is.routes),
            locals: was.locals.max(is.locals),
            services: was.services.max(is.services),
            backends: was.backends.max(is.backends),
        };
        for _ in 0..6 {
            let steps = plan(&after, &host, Completeness::Complete);
            let (problems, now, short_of_room) = full(&host, &steps, (&before, &after), sizes);
            prop_assert_eq!(problems, "");
            host = Observed { short_of_room, ..now };
        }
        let has_row = |prefix: &IpNet| host.rows.routes.contains_key(prefix);
        let waits = |backend: &SocketAddr| {
            after.prefixes.keys().any(|prefix| prefix.contains(&backend.ip()) && !has_row(prefix))
        };
        let is_to_go = |row: &&IpNet| !after.prefixes.contains_key(*row);
        let guards = host.rows.routes.keys().filter(is_to_go).filter(|row| {
            let guarded = |prefix: &&IpNet| prefix.contains(*row) || row.contains(*prefix);
            after.prefixes.keys().filter(guarded).any(|prefix| !has_row(prefix))
        });
        // What guards a prefix in parts may not go before it is there, and has its room: then the rest may have to wait.
        let stuck = guards.count() > 0;
        for step in plan(&after, &host, Completeness::Complete) {
            let may_be_left = match &step {
                _ if stuck => true,
                // A set that only grows is not given up for one that may not fit.
                Step::PutService { frontend, .. } => {
                    let wanted = &after.services[frontend];
                    let has = host.rows.services.get(frontend).map(|to| contents(&host, to.set));
                    let grows = has.is_some_and(|has| !has.is_empty() && has.iter().all(|b| wanted.contains(b)));
                    let is_full = rows(&host).backends == sizes.backends;
                    grows || is_full || wanted.iter().any(waits)
                }
                Step::PutSet { .. } | Step::RemoveSet { .. } => true,
                // They wait for those.
                Step::RemoveScope { .. } | Step::RemoveUnreachable { .. } => true,
                _ => false,
            };
            let all = lines(&plan(&after, &host, Completeness::Complete));
            prop_assert!(may_be_left, "`{}` is left of\n{}", step, all);
        }
    }

    #[test]
    fn an_incomplete_view_takes_nothing_away(before in images(), after in images()) {
        let start = holding(&before);
        let mut host = Model::of(start.clone());
        apply(&plan(&after, &start, Completeness::Partial), &mut host);
        let (was, is) = (&start.rows, &host.observed.rows);
        prop_assert!(was.routes.keys().all(|prefix| is.routes.contains_key(prefix)));
        prop_assert!(was.locals.keys().all(|address| is.locals.contains_key(address)));
        for (frontend, to) in &was.services {
            let now = contents(&host.observed, is.services[frontend].set);
            prop_assert!(contents(&start, to.set).iter().all(|backend| now.contains(backend)));
        }
        for address in samples() {
            let was = tunnel_owner(&start, address);
            prop_assert!(was.is_none() || tunnel_owner(&host.observed, address).is_some());
        }
        prop_assert!(was.cgroups.keys().all(|cgroup| is.cgroups.contains_key(cgroup)));
        prop_assert!(was.tenancy.tenants == 0 || is.tenancy.tenants > 0);
        prop_assert!(start.attachments.is_subset(&host.observed.attachments));
        prop_assert!(start.unreachable.is_subset(&host.observed.unreachable));
    }
}

fn rows(host: &Observed) -> Sizes {
    let rows = &host.rows;
    Sizes {
        routes: rows.routes.len() as u32,
        locals: rows.locals.len() as u32,
        services: (rows.services.len() + rows.service_addresses.len()) as u32,
        backends: rows.backends.len() as u32,
    }
}

/// Takes the steps in maps of these sizes and says what was wrong in any moment between: what was guarded and is to be
/// is guarded, nothing is routed without a guard, and a service refuses or gives what it had or is to have.
fn full(
    start: &Observed,
    steps: &[Step],
    (before, after): (&Image, &Image),
    sizes: Sizes,
) -> (String, Observed, bool) {
    let problems = Rc::new(RefCell::new(Vec::new()));
    let (seen, first, last) = (Rc::clone(&problems), start.clone(), holding(after));
    let (before, after) = (before.clone(), after.clone());
    let mut host = Model::of(start.clone()).sized(sizes).watched(move |now, step| {
        for address in samples() {
            for wrong in moment(address, &first, now, &last) {
                seen.borrow_mut().push(format!("{address} {wrong} after `{step}`"));
            }
        }
        for (frontend, to) in &now.rows.services {
            let set = contents(now, to.set);
            let is = |image: &Image| image.services.get(frontend).is_some_and(|b| b.iter().eq(&set));
            if !set.is_empty() && !is(&before) && !is(&after) {
                seen.borrow_mut().push(format!("{frontend} gives a part of a set after `{step}`"));
            }
        }
    });
    let outcome = apply(steps, &mut host);
    let text = problems.borrow().join("\n");
    (text, host.observed, outcome.short_of_room)
}

/// Takes the steps and says what was wrong in any moment between.
fn walk(
    start: &Observed,
    steps: &[Step],
    before: &Image,
    after: &Image,
    refuses: impl Fn(&Step) -> bool + 'static,
) -> (String, Observed) {
    let problems = Rc::new(RefCell::new(Vec::new()));
    let (seen, first, last) = (Rc::clone(&problems), start.clone(), holding(after));
    let (before, after) = (before.clone(), after.clone());
    let mut host = Model::of(start.clone()).refusing(refuses).watched(move |now, step| {
        for address in samples() {
            for wrong in moment(address, &first, now, &last) {
                seen.borrow_mut().push(format!("{address} {wrong} after `{step}`"));
            }
        }
        for wrong in taken_for_the_host(&first, now, &last) {
            seen.borrow_mut().push(format!("{wrong} after `{step}`"));
        }
        for (frontend, to) in &now.rows.services {
            let set = contents(now, to.set);
            let is = |image: &Image| image.services.get(frontend).is_some_and(|b| b.iter().eq(&set));
            if !is(&before) && !is(&after) {
                seen.borrow_mut().push(format!("{frontend} is neither old nor new after `{step}`"));
            }
        }
    });
    apply(steps, &mut host);
    let text = problems.borrow().join("\n");
    (text, host.observed)
}

fn moment(address: IpAddr, first: &Observed, now: &Observed, last: &Observed) -> Vec<&'static str> {
    let mut wrong = Vec::new();
    if guard(first, address).is_some() && guard(last, address).is_some() && guard(now, address).is_none() {
        wrong.push("is open");
    }
    let owner = tunnel_owner(now, address);
    if owner.is_some() && owner != tunnel_owner(first, address) && owner != tunnel_owner(last, address) {
        wrong.push("belongs to a third peer");
    }
    let kept = tunnel_owner(first, address).filter(|peer| tunnel_owner(last, address) == Some(*peer));
    if kept.is_some() && owner != kept {
        wrong.push("was taken from a peer that keeps it");
    }
    let local = |host: &Observed| host.rows.locals.get(&address).copied();
    if local(now).is_some() && local(now) != local(first) && local(now) != local(last) {
        wrong.push("is a third pod's");
    }
    let routed = |host: &Observed| host.routes.keys().any(|prefix| prefix.contains(&address));
    if routed(now) && guard(now, address).is_none() {
        wrong.push("is routed and not guarded");
    }
    wrong
}

/// Tenants before and after that are none now; and new ones that are none yet though there are ways into the mesh that
/// were not there before.
fn taken_for_the_host(first: &Observed, now: &Observed, last: &Observed) -> Vec<String> {
    let is_told = |host: &Observed, cgroup: u64| {
        host.rows.tenancy.tenants > 0 && matches!(host.rows.cgroups.get(&cgroup), Some(CgroupRow::Tenant(_)))
    };
    let new_ways = now.routes.keys().any(|prefix| !first.routes.contains_key(prefix));
    let tenants = TENANTS.iter().map(|(_, cgroup)| *cgroup).filter(|cgroup| is_told(last, *cgroup));
    let wrong = tenants.filter(|cgroup| (is_told(first, *cgroup) || new_ways) && !is_told(now, *cgroup));
    wrong.map(|cgroup| format!("cgroup {cgroup} is taken for the host")).collect()
}

fn contents(host: &Observed, set: u32) -> Vec<SocketAddr> {
    host.rows.backends.iter().filter(|(key, _)| key.set == set).map(|(_, backend)| *backend).collect()
}

/// Every address that a prefix, a pod or the neighbour of a prefix could treat differently.
fn samples() -> Vec<IpAddr> {
    let prefixes = PREFIXES.iter().map(|prefix| prefix.parse::<IpNet>().unwrap());
    let edges = prefixes.flat_map(|prefix| [prefix.network(), prefix.broadcast()]);
    edges.chain(PODS.iter().map(|pod| pod.parse().unwrap())).collect()
}

fn images() -> impl Strategy<Value = Image> {
    let reach = prop_oneof![Just(None), Just(Some(None)), (0..PEERS.len()).prop_map(|peer| Some(Some(peer)))];
    let pods = vec(proptest::option::of(5_u32..8), PODS.len());
    let services =
        vec(proptest::option::of(subsequence(BACKENDS.to_vec(), 0..=BACKENDS.len())), FRONTENDS.len());
    let tenants = subsequence(TENANTS.to_vec(), 0..=TENANTS.len());
    (vec(reach, PREFIXES.len()), pods, services, tenants).prop_map(|(prefixes, pods, services, tenants)| {
        let mut text = String::new();
        for (address, cgroup) in tenants {
            text += &format!("above 1;seen {cgroup};tenant {address} cgroup {cgroup};");
        }
        for (prefix, reach) in PREFIXES.iter().zip(prefixes) {
            match reach {
                None => {}
                Some(None) => text += &format!("closed {prefix};"),
                Some(Some(peer)) => text += &format!("peer {} {prefix};", PEERS[peer]),
            }
        }
        for (pod, device) in PODS.iter().zip(pods) {
            device.iter().for_each(|device| text += &format!("pod {pod} device {device};"));
        }
        for (frontend, backends) in FRONTENDS.iter().zip(services) {
            backends
                .iter()
                .for_each(|backends| text += &format!("service {frontend} {};", backends.join(" ")));
        }
        image(&text)
    })
}
