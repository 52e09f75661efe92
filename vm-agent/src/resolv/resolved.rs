//! systemd-resolved: we are the server of the mesh's device, for the mesh's domains. It forgets that with the
//! device, and remembers it over its own restarts. (resolvectl(1), systemd-resolved.service(8))

use super::{Wanted, command::run};

/// The program that talks to it.
const PROGRAM: &str = "resolvectl";

/// Tells it, unless it knows. True when it was told.
///
/// # Errors
/// It is not there, or does not know the device.
pub async fn take(wanted: &Wanted) -> anyhow::Result<bool> {
    let mut known = true;
    for setting in ["dns", "domain"] {
        let said = run(PROGRAM, &[setting, &wanted.interface], "").await?;
        known &= values(&said) == words(&arguments(wanted, setting));
    }
    if known {
        return Ok(false);
    }
    for setting in SETTINGS {
        let arguments = arguments(wanted, setting);
        let mut line = vec![setting, &wanted.interface];
        line.extend(arguments.iter().map(String::as_str));
        run(PROGRAM, &line, "").await?;
    }
    Ok(true)
}

/// Makes it forget; a device that is gone is forgotten already.
///
/// # Errors
/// It is not there.
pub async fn restore(interface: &str) -> anyhow::Result<()> {
    if nix::net::if_::if_nametoindex(interface).is_ok() {
        run(PROGRAM, &["revert", interface], "").await?;
    }
    Ok(())
}

/// The server last: until the others are set, nothing is asked there.
const SETTINGS: [&str; 6] = ["domain", "default-route", "dnssec", "dnsovertls", "llmnr", "dns"];

fn arguments(wanted: &Wanted, setting: &str) -> Vec<String> {
    let one = |value: &str| vec![value.to_owned()];
    match setting {
        "dns" if wanted.server.port() == 53 => one(&wanted.server.ip().to_string()),
        "dns" => one(&wanted.server.to_string()),
        // A search domain is one whose names come here, too; `~` makes it nothing but that.
        "domain" => {
            let domains = wanted.domains.iter().map(|domain| format!("~{domain}"));
            wanted.search.iter().cloned().chain(domains).collect()
        }
        // Only the domains above. Nobody signed them, and what never leaves the host needs no TLS.
        _ => one("no"),
    }
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// `Link 5 (mesh0): 127.0.0.153` → what follows the colon.
fn values(said: &str) -> Vec<&str> {
    let values = said.trim().split_once("): ").map_or("", |(_, values)| values);
    values.split_whitespace().collect()
}

#[cfg(test)]
mod tests;
