//! What the chart's files say of each other and of the documentation: nothing is run.

use chart::chart;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

fn read(path: &str) -> String {
    fs::read_to_string(chart().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn values() -> Value {
    serde_saphyr::from_str(&read("values.yaml")).expect("values.yaml is YAML")
}

/// Free-form objects: what is in them is Kubernetes' own.
const FREE: [&str; 7] =
    ["resources", "nodeSelector", "affinity", "updateStrategy", "annotations", "labels", "tolerations"];

/// Every value by its path, and its default.
fn leaves(at: &str, value: &Value, all: &mut BTreeMap<String, Value>) {
    let name = at.rsplit('.').next().unwrap_or_default();
    match value {
        Value::Object(fields) if !fields.is_empty() && !FREE.contains(&name) => {
            for (key, value) in fields {
                leaves(&if at.is_empty() { key.clone() } else { format!("{at}.{key}") }, value, all);
            }
        }
        _ => drop(all.insert(at.to_owned(), value.clone())),
    }
}

fn all_values() -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    leaves("", &values(), &mut all);
    all
}

#[test]
fn every_value_stands_in_the_documentation_with_its_default() {
    let page = read("../../docs/kubernetes.md");
    let rows: BTreeMap<&str, &str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|row| row.split_once("` | `"))
        .filter_map(|(path, rest)| Some((path, rest.split_once("` |")?.0)))
        .collect();
    let mut wrong = Vec::new();
    for (path, default) in all_values() {
        match rows.get(path.as_str()) {
            // What agents, tunnels and relays share with the apiserver has one row.
            None if ["agent.", "tunnel.", "relay."].iter().any(|it| path.starts_with(it)) => {
                let (_, value) = path.split_once('.').expect("it has a prefix");
                if !all_values().contains_key(&format!("apiserver.{value}")) {
                    wrong.push(format!("{path} has no row; its default is `{default}`"));
                }
            }
            None => wrong.push(format!("{path} has no row; its default is `{default}`")),
            Some(row) if serde_json::from_str::<Value>(row).ok() != Some(default.clone()) => {
                wrong.push(format!("{path}: the row says `{row}`, it is `{default}`"));
            }
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "docs/kubernetes.md:\n{}", wrong.join("\n"));
}

#[test]
fn the_schema_knows_every_value_and_no_other() {
    let schema: Value = serde_json::from_str(&read("values.schema.json")).expect("the schema is JSON");
    let mut known = BTreeSet::new();
    properties("", &schema, &schema, &mut known);
    known.remove("global");
    let there: BTreeSet<String> = all_values().into_keys().collect();
    assert_eq!(known, there);
}

fn properties(at: &str, schema: &Value, root: &Value, known: &mut BTreeSet<String>) {
    let schema = match schema["$ref"].as_str() {
        Some(name) => &root["$defs"][name.trim_start_matches("#/$defs/")],
        None => schema,
    };
    let Some(fields) = schema["properties"].as_object() else {
        known.insert(at.to_owned());
        return;
    };
    assert_eq!(schema["additionalProperties"], Value::Bool(false), "{at} takes what nobody reads");
    for (key, field) in fields {
        properties(&if at.is_empty() { key.clone() } else { format!("{at}.{key}") }, field, root, known);
    }
}

/// The names of metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named = words.filter(|word| word.starts_with("mesh_apiserver_") || word.starts_with("mesh_agent_"));
    named.map(|word| word.trim_end_matches("_bucket").to_owned()).collect()
}

/// Those of docs/operations.md that keep their name. After a whole name in a row, `_c` is it with another end.
fn stable() -> BTreeSet<String> {
    let page = read("../../docs/operations.md");
    let (rows, prose): (Vec<&str>, Vec<&str>) = page.lines().partition(|line| line.starts_with("| `mesh_"));
    let mut all = metrics(&prose.join("\n"));
    for row in
        rows.into_iter().map(|row| row.split(" | ").collect::<Vec<_>>()).filter(|cells| cells[1] == "yes")
    {
        let mut names = row[0].split('`').skip(1).step_by(2).filter_map(|name| name.split('{').next());
        let first = names.next().expect("a row begins with a name");
        all.insert(first.to_owned());
        for end in names {
            let stems = first.match_indices('_').map(|(at, _)| &first[..at]);
            all.extend(stems.map(|stem| format!("{stem}{end}")));
        }
    }
    all
}

#[test]
fn alerts_and_dashboard_ask_for_stable_metrics_only() {
    let asked: BTreeSet<String> = metrics(&read("files/alerts.yaml"))
        .into_iter()
        .chain(metrics(&read("files/dashboard.json")))
        .collect();
    let unknown: Vec<_> = asked.difference(&stable()).cloned().collect();
    assert!(unknown.is_empty(), "not stable, or not in docs/operations.md: {unknown:?}");
    assert!(asked.len() > 10, "{asked:?}");
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_it_means() {
    let rules: Value = serde_saphyr::from_str(&read("files/alerts.yaml")).expect("alerts.yaml is YAML");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules").clone();
    for rule in rules {
        let name = rule["alert"].as_str().expect("an alert has a name");
        assert!(
            ["critical", "warning", "info"].contains(&rule["labels"]["severity"].as_str().expect(name)),
            "{name}"
        );
        for field in ["summary", "description"] {
            assert!(rule["annotations"][field].as_str().expect(name).len() > 20, "{name}: {field}");
        }
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_reads() {
    let dashboard: Value = serde_json::from_str(&read("files/dashboard.json")).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_i64().expect("a number")).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has its own number");
    for panel in panels {
        let at = &panel["gridPos"];
        let right = at["x"].as_i64().expect("x") + at["w"].as_i64().expect("w");
        assert!(right <= 24, "{} is wider than the page", panel["title"]);
        assert!(panel["targets"].as_array().is_some_and(|it| !it.is_empty()), "{} is empty", panel["title"]);
    }
}
