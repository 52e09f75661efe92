//! `join`: a token becomes a membership.

use crate::{
    UNIT,
    args::JoinArgs,
    credentials::{self, Enrolled},
    membership::{self, Membership},
};
use anyhow::{Context as _, bail};
use api::token::{Invited, Token};
use daemon::{
    args::Hint,
    durable,
    tls::{IdentityPaths, bundle_pem},
};
use std::{io, path::Path, process::Command};

/// Redeems the token, and keeps what it brings.
///
/// # Errors
/// Why this machine has not joined, and what to do.
pub async fn join(args: &JoinArgs) -> anyhow::Result<()> {
    let state_dir = &args.state.state_dir;
    let line = match args.token.as_str() {
        "-" => io::read_to_string(io::stdin()).context("cannot read the token from stdin")?,
        line => line.to_owned(),
    };
    let token: Token = line.parse().context("this is not a token of `meshctl vm add`")?;
    let Invited::Vm(name) = &token.invites else {
        bail!(Hint::new(
            "this token is for the administrator of another cluster, not for a VM",
            "`meshctl token redeem` redeems it; `meshctl vm add` makes one for a VM",
        ));
    };
    let wanted = Membership {
        name: name.clone(),
        cluster: token.cluster.clone(),
        uuid: token.uuid,
        endpoints: token.endpoints.clone(),
    };
    if let Some(Membership { name, cluster, .. }) =
        Membership::load(state_dir)?.filter(|held| (&held.name, held.uuid) != (&wanted.name, wanted.uuid))
    {
        bail!(Hint::new(
            format!("this machine is {name} of cluster {cluster} already"),
            "`mesh-vm-agent leave` first, if it is to be another one",
        ));
    }
    membership::make_dir(state_dir)?;
    let paths = membership::identity(state_dir);
    let IdentityPaths { cert, bundle, .. } = &paths;
    let key = credentials::key(&paths.key)?;
    let bundle_text = bundle_pem(&token.ca);
    let enrolled = credentials::enrol(&wanted, &bundle_text, &key, Some(&token.secret)).await;
    let Enrolled { certificate, endpoints } =
        enrolled.with_context(|| format!("cannot join {}", wanted.cluster))?;
    let write = |path: &Path, text: &str| {
        durable::write(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    };
    write(bundle, &bundle_text)?;
    write(cert, &certificate)?;
    // Last: with it the machine has joined.
    Membership { endpoints, ..wanted.clone() }.write(state_dir)?;
    println!("this machine is {} of {} now", wanted.name, wanted.cluster);
    start();
    Ok(())
}

/// Starts the unit, where the package has put one.
fn start() {
    let installed = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"]
        .iter()
        .any(|dir| Path::new(dir).join(UNIT).exists());
    if !installed || !Path::new("/run/systemd/system").exists() {
        println!("next: mesh-vm-agent run");
        return;
    }
    match Command::new("systemctl").args(["restart", UNIT]).status() {
        Ok(status) if status.success() => println!("{UNIT} is started"),
        Ok(_) | Err(_) => println!("{UNIT} did not start: systemctl status {UNIT}"),
    }
}
