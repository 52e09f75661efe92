//! Names, parsed once: Kubernetes' rules for labels and subdomains (RFC 1123), so that a name can stand in a key.

use std::{borrow::Borrow, fmt, str::FromStr};

/// A text is not a valid name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a valid {kind}: {rule}", .text.escape_debug())]
pub struct BadName {
    /// What it was to be.
    pub kind: &'static str,
    /// The text, cut to 64 characters.
    pub text: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

const LABEL_RULE: &str =
    "1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit (RFC 1123 label)";
const SUBDOMAIN_RULE: &str = "1 to 253 characters: RFC 1123 labels joined by '.'";

/// RFC 1123 label, lower case, as Kubernetes restricts it.
fn is_label(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&b| alnum(b) || b == b'-')
        && alnum(bytes[0])
        && alnum(bytes[bytes.len() - 1])
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

const UNIT_RULE: &str =
    "1 to 255 of A-Z, a-z, 0-9 and ':-_.\\@', ending with '.service', '.scope' or '.slice' (systemd.unit(5))";
const SLICE_RULE: &str = "the name of a unit that ends with '.slice' (systemd.slice(5))";
const USER_RULE: &str =
    "a number, or 1 to 31 of A-Z, a-z, 0-9, '_' and '-', not starting with a digit or '-'";

/// A systemd unit that has a cgroup.
fn is_unit(text: &str) -> bool {
    let bytes = text.as_bytes();
    let stem = [".service", ".scope", ".slice"].iter().find_map(|suffix| text.strip_suffix(suffix));
    bytes.len() <= 255
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(b))
        && stem.is_some_and(|stem| !stem.is_empty() && !stem.starts_with('.'))
}

/// A slice: its dashes are the way to it, so none stands at an end or beside another.
fn is_slice(text: &str) -> bool {
    is_unit(text)
        && text.strip_suffix(".slice").is_some_and(|stem| stem.split('-').all(|part| !part.is_empty()))
}

/// systemd's strict rule for names of users (User/Group Name Syntax), or a UID.
fn is_user(text: &str) -> bool {
    let bytes = text.as_bytes();
    let named = (1..=31).contains(&bytes.len())
        && (bytes[0].is_ascii_alphabetic() || bytes[0] == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(b));
    // The last number is what the kernel says of who has none.
    named || (bytes.iter().all(u8::is_ascii_digit) && text.parse::<u32>().is_ok_and(|uid| uid != u32::MAX))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $valid:path, $rule:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        pub struct $name(Box<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                if $valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(BadName { kind: $kind, text: text.chars().take(64).collect(), rule: $rule })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// A cluster's name, unique among the peers of a cluster. A label of its UUID.
    ClusterName, "cluster name", is_label, LABEL_RULE
);
name!(
    /// A node's name (Kubernetes: DNS subdomain).
    NodeName, "node name", is_subdomain, SUBDOMAIN_RULE
);
name!(
    /// A namespace.
    NamespaceName, "namespace", is_label, LABEL_RULE
);
name!(
    /// A Service's name.
    ServiceName, "service name", is_label, LABEL_RULE
);
name!(
    /// A pod's name, or another object's.
    ObjectName, "object name", is_subdomain, SUBDOMAIN_RULE
);
name!(
    /// A port's name; Kubernetes allows DNS labels on Services and slices.
    PortName, "port name", is_label, LABEL_RULE
);
name!(
    /// A program of a VM that has an identity of its own, unique on that VM.
    ProgramName, "program name", is_label, LABEL_RULE
);
name!(
    /// A systemd unit that has a cgroup.
    UnitName, "unit", is_unit, UNIT_RULE
);
name!(
    /// A systemd slice.
    SliceName, "slice", is_slice, SLICE_RULE
);
name!(
    /// A user of a host, by name or by number.
    UserName, "user", is_user, USER_RULE
);
