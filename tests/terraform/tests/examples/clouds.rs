//! The examples of clouds. Their providers cannot be had where the tests run, so nothing here was ever applied: what calls
//! our modules needs none and is planned for real, and all the rest is parsed, and its references are followed.

use std::{collections::BTreeSet, fs};
use terraform::{Tofu, examples};

/// The examples, and how their provider's resources begin.
const CLOUDS: [(&str, &str); 2] = [("edge-to-core-aws", "aws_"), ("edge-to-core-hetzner", "hcloud_")];

/// Files of an example that speak of its provider's resources. All others are OpenTofu's own language.
const OF_THE_PROVIDER: [&str; 2] = ["cloud.tf", "cloud-outputs.tf"];

#[test]
#[ignore = "needs OpenTofu: make test-terraform"]
fn each_cloud_s_example_is_a_configuration_with_modules_that_are_found() {
    let tofu = Tofu::new().unwrap();
    for (cloud, _) in CLOUDS {
        tofu.ok(cloud, &["get"]).unwrap();
        let modules = fs::read_to_string(tofu.path(cloud).join(".terraform/modules/modules.json")).unwrap();
        assert!(modules.contains("modules/vm-agent") && modules.contains("modules/peering"), "{modules}");
    }
    let broken = tofu.path(CLOUDS[0].0).join("cloud.tf");
    fs::write(broken, "resourc \"aws_vpc\" \"core\" {}\n").unwrap();
    let said = tofu.ok(CLOUDS[0].0, &["get"]).unwrap_err().to_string();
    assert!(said.contains("Unsupported block type"), "{said}");
}

#[test]
#[ignore = "needs OpenTofu: make test-terraform"]
fn what_needs_no_provider_is_validated_and_planned() {
    let tofu = Tofu::new().unwrap();
    for (cloud, _) in CLOUDS {
        for file in OF_THE_PROVIDER {
            fs::remove_file(tofu.path(cloud).join(file)).unwrap();
        }
        assert!(tofu.test(cloud).unwrap() > 0, "{cloud}");
        tofu.ok(cloud, &["validate"]).unwrap();
    }
}

#[test]
fn what_a_cloud_s_example_refers_to_is_declared_and_every_variable_is_used() {
    for (cloud, provider) in CLOUDS {
        let files = fs::read_dir(examples().join(cloud)).unwrap().flatten().map(|entry| entry.path());
        let files = files.filter(|path| path.extension().is_some_and(|it| it == "tf"));
        let text: String = files.map(|path| fs::read_to_string(path).unwrap()).collect();
        let (declared, referred) = (declared(&text), referred(&text, provider));
        assert!(referred.len() > 10, "{cloud}: {referred:?}");
        let unknown: Vec<_> = referred.difference(&declared).collect();
        assert!(unknown.is_empty(), "{cloud} refers to {unknown:?}, which nothing declares");
        let unused: Vec<_> = declared.difference(&referred).filter(|it| it.starts_with("var.")).collect();
        assert!(unused.is_empty(), "{cloud} declares {unused:?}, which nothing uses");
    }
}

/// What blocks make, as expressions call it.
fn declared(text: &str) -> BTreeSet<String> {
    let block = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches('"')).collect();
        match words[..] {
            ["variable", name, "{"] => Some(format!("var.{name}")),
            ["module", name, "{"] => Some(format!("module.{name}")),
            ["resource", kind, name, "{"] => Some(format!("{kind}.{name}")),
            ["data", kind, name, "{"] => Some(format!("data.{kind}.{name}")),
            _ => None,
        }
    };
    text.lines().filter_map(block).collect()
}

/// What expressions call, without the attributes.
fn referred(text: &str, provider: &str) -> BTreeSet<String> {
    let no_part = |c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c));
    let call = |path: &str| match path.split('.').collect::<Vec<_>>()[..] {
        [kind @ ("var" | "module"), name, ..] => Some(format!("{kind}.{name}")),
        ["data", kind, name, ..] => Some(format!("data.{kind}.{name}")),
        [kind, name, ..] if kind.starts_with(provider) => Some(format!("{kind}.{name}")),
        _ => None,
    };
    text.split(no_part).filter_map(call).collect()
}
