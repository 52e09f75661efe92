//! Who of this host is told apart from it.

use super::{Stage, Steps};
use crate::{
    backend::bpf::{CgroupRow, TenancyRow, TenantRow},
    image::{Image, Tenant},
    observe::Observed,
    step::Step,
};
use std::collections::BTreeMap;

pub(super) fn plan(desired: &Image, observed: &Observed, steps: &mut Steps) {
    let (tenancy, rows) = (&desired.tenancy, &observed.rows);
    let wanted = !tenancy.tenants.is_empty();
    if wanted && !observed.holds_apart {
        steps.add(Stage::Guard, Step::HoldApart);
    }
    if !wanted && observed.holds_apart {
        steps.sweep(Stage::UnGuard, Step::LetTogether);
    }

    let mut cgroups: BTreeMap<u64, CgroupRow> =
        tenancy.above.iter().map(|cgroup| (*cgroup, CgroupRow::Above)).collect();
    let mut users = BTreeMap::new();
    for tenant in &tenancy.tenants {
        let row = row(tenant);
        cgroups.extend(tenant.cgroups.iter().map(|cgroup| (*cgroup, CgroupRow::Tenant(row))));
        users.extend(tenant.users.iter().map(|uid| (*uid, row)));
    }
    for (cgroup, row) in &cgroups {
        if rows.cgroups.get(cgroup) != Some(row) {
            steps.add(Stage::Tenants, Step::PutCgroup { cgroup: *cgroup, row: *row });
        }
    }
    for (uid, tenant) in &users {
        if rows.users.get(uid) != Some(tenant) {
            steps.add(Stage::Tenants, Step::PutUser { uid: *uid, tenant: *tenant });
        }
    }
    // After the rows: a cgroup counts as seen when it is known what it is.
    let row = TenancyRow {
        newest_cgroup: tenancy.newest_cgroup,
        tenants: u32::try_from(tenancy.tenants.len()).unwrap_or(u32::MAX),
        level: tenancy.level,
    };
    if row != rows.tenancy {
        match wanted {
            true => steps.add(Stage::Tenants, Step::PutTenancy(row)),
            false => steps.sweep(Stage::UnTenants, Step::PutTenancy(row)),
        }
    }
    for cgroup in rows.cgroups.keys().filter(|cgroup| !cgroups.contains_key(cgroup)) {
        steps.sweep(Stage::UnTenants, Step::RemoveCgroup { cgroup: *cgroup });
    }
    for uid in rows.users.keys().filter(|uid| !users.contains_key(uid)) {
        steps.sweep(Stage::UnTenants, Step::RemoveUser { uid: *uid });
    }
}

fn row(tenant: &Tenant) -> TenantRow {
    tenant.addresses.iter().fold(TenantRow::default(), |row, address| match address {
        std::net::IpAddr::V4(v4) => TenantRow { v4: Some(*v4), ..row },
        std::net::IpAddr::V6(v6) => TenantRow { v6: Some(*v6), ..row },
    })
}
