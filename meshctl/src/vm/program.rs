//! `--program`: what of a VM has an identity of its own, in one word of a command line.
//!
//! ```text
//! billing=unit:billing.service,serve=invoices:9001,label=app=billing,service-account=billing
//! card=unit:card.service,slice=pay.slice
//! jobs=user:jobs
//! ```

use super::{Served, label};
use api::{
    external_workload::{self, Serve},
    name::{ObjectName, ProgramName, SliceName, UnitName, UserName},
};
use std::{collections::BTreeMap, fmt::Display, str::FromStr};

const FORM: &str =
    "it is of the form NAME=unit:UNIT or NAME=user:USER, and what else is said of it after commas";

/// What one `--program` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(pub external_workload::Program);

impl FromStr for Program {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let (name, processes) = parts.next().and_then(|part| part.split_once('=')).ok_or(FORM)?;
        let name: ProgramName = read(name)?;
        let (unit, user): (Option<UnitName>, Option<UserName>) = match processes.split_once(':') {
            Some(("unit", unit)) => (Some(read(unit)?), None),
            Some(("user", user)) => (None, Some(read(user)?)),
            _ => return Err(format!("`{processes}` names no processes: unit:UNIT or user:USER does")),
        };
        let (mut slice, mut service_account): (Option<SliceName>, Option<ObjectName>) = (None, None);
        let (mut labels, mut serve): (BTreeMap<String, String>, Vec<Serve>) = Default::default();
        for part in parts {
            match part.split_once('=') {
                Some(("serve", served)) => serve.push(within(part, served.parse::<Served>())?.0),
                Some(("label", pair)) => {
                    let (key, value) = within(part, label(pair))?;
                    once(part, labels.insert(key, value).as_ref())?;
                }
                Some(("service-account", account)) => {
                    once(part, service_account.replace(within(part, read(account))?).as_ref())?;
                }
                Some(("slice", _)) if unit.is_none() => {
                    return Err(format!("`{part}` says where a unit is, and {name} is a user"));
                }
                Some(("slice", named)) => once(part, slice.replace(within(part, read(named))?).as_ref())?,
                _ => {
                    return Err(format!(
                        "`{part}` is none of serve=SERVICE[:PORTNAME]:PORT, label=KEY=VALUE, service-account=NAME and slice=SLICE"
                    ));
                }
            }
        }
        Ok(Self(external_workload::Program { name, unit, slice, user, labels, service_account, serve }))
    }
}

fn read<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// An error names the part that it is in.
fn within<T>(part: &str, read: Result<T, String>) -> Result<T, String> {
    read.map_err(|error| format!("`{part}`: {error}"))
}

fn once<T: Display>(part: &str, before: Option<&T>) -> Result<(), String> {
    before.map_or(Ok(()), |before| Err(format!("`{part}` was said before: {before}")))
}
