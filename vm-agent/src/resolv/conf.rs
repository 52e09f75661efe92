//! `resolv.conf`: what the host's says, and what ours says in its place. Pure. (resolv.conf(5))

use std::{fmt::Write as _, net::IpAddr};

/// The first line of ours; whoever finds it knows whose the file is.
pub const HEADER: &str = "# Written by mesh-vm-agent";
/// Domains in a search list, and their characters: libc before 2.26 and musl take no more.
pub const SEARCH_MAX: usize = 6;
/// The same list, as one line.
pub const SEARCH_MAX_CHARS: usize = 256;

/// A server, as a line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nameserver {
    /// Its address.
    pub address: IpAddr,
    /// The interface of a link-local one, after the `%`.
    pub interface: Option<String>,
}

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// In the order in which they are asked.
    pub nameservers: Vec<Nameserver>,
    /// None without any `search` or `domain`: libc then takes the domain of the host's name.
    pub search: Option<Vec<String>>,
    /// Every other line that says something, as it was: `options`, `sortlist`, and what we do not know.
    pub others: Vec<String>,
}

impl ResolvConf {
    /// Reads a file as libc does: what it would not understand says nothing.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines().map(str::trim_end) {
            // A keyword stands at the beginning of its line, a comment too.
            let (keyword, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            match keyword {
                "" => {}
                _ if keyword.starts_with(['#', ';']) => {}
                "nameserver" => conf.nameservers.extend(nameserver(value.trim())),
                // The last one of both counts.
                "search" => conf.search = Some(value.split_whitespace().map(str::to_owned).collect()),
                "domain" => conf.search = Some(value.split_whitespace().take(1).map(str::to_owned).collect()),
                _ => conf.others.push(line.to_owned()),
            }
        }
        conf
    }

    /// The servers, as libc has it: without any, the one on this machine.
    #[must_use]
    pub fn servers(&self) -> Vec<Nameserver> {
        match &self.nameservers[..] {
            [] => vec![Nameserver { address: IpAddr::from([127, 0, 0, 1]), interface: None }],
            some => some.to_vec(),
        }
    }

    /// The search list, as libc has it: without any, the domain of the host's name.
    #[must_use]
    pub fn search_list(&self, host_name: &str) -> Vec<String> {
        match &self.search {
            Some(search) => search.clone(),
            None => host_name.split_once('.').map(|(_, domain)| domain.to_owned()).into_iter().collect(),
        }
    }

    /// Our file in the place of this one: we are the only server, as libc would take a name that we cannot
    /// tell yet to the next one, and with it the mesh's names to strangers. What the host searches it still
    /// searches, after the mesh.
    #[must_use]
    pub fn with_us(&self, us: IpAddr, ours: &[String], host_name: &str, kept: &str) -> String {
        let mut text = format!(
            "{HEADER}, which asks the servers that were here before for all that is not the mesh's.\n\
             # What was here is kept in {kept}, and comes back when the agent stops. Edit that file, not this one.\n\
             nameserver {us}\n"
        );
        let search = search(ours, &self.search_list(host_name));
        if !search.is_empty() {
            let _ = writeln!(text, "search {}", search.join(" "));
        }
        for line in &self.others {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

fn nameserver(text: &str) -> Option<Nameserver> {
    let (address, interface) = match text.split_once('%') {
        Some((address, interface)) => (address, Some(interface.to_owned())),
        None => (text, None),
    };
    Some(Nameserver { address: address.parse().ok()?, interface })
}

/// Whether a file is ours, whichever version of us wrote it.
#[must_use]
pub fn is_ours(text: &str) -> bool {
    text.starts_with(HEADER)
}

/// The mesh's domains before the host's. The host's are never given up: where both are too many, ours go from
/// the last on.
#[must_use]
pub fn search(ours: &[String], hosts: &[String]) -> Vec<String> {
    let new = |domain: &&String| !hosts.iter().any(|host| host.eq_ignore_ascii_case(domain));
    let mut ours: Vec<&String> = ours.iter().filter(new).collect();
    loop {
        let all: Vec<String> = ours.iter().copied().chain(hosts).cloned().collect();
        let fits = all.len() <= SEARCH_MAX && all.join(" ").len() <= SEARCH_MAX_CHARS;
        if fits || ours.pop().is_none() {
            return all;
        }
    }
}

#[cfg(test)]
mod tests;
