//! A small Kubernetes API of our own: lists in pages, watches with bookmarks, objects made and patched, and every way in
//! which that fails. The real
//! one is in the Kubernetes tier; this one adds what a real one does seldom.

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Query, Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex},
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// The server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer(Arc<Mutex<Inner>>, watch::Sender<bool>);

type Answer = Box<dyn Fn(&Value) -> Value + Send>;

#[derive(Default)]
struct Inner {
    version: u64,
    /// By the resource's plural, then by namespace and name.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    watches: Vec<(String, mpsc::UnboundedSender<String>)>,
    missing: BTreeSet<String>,
    /// What it says it is; none is what we build.
    minor: Option<&'static str>,
    forbidden: BTreeSet<String>,
    /// Every list and watch, in their order.
    requests: Vec<String>,
    /// What is answered to those who make an object of a kind that is never kept, such as a TokenReview.
    answers: BTreeMap<String, Answer>,
}

impl ApiServer {
    pub fn new() -> Self {
        Self(Arc::default(), watch::Sender::new(true))
    }

    /// A client of it; nothing goes over a socket.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(Router::new().fallback(answer).with_state(self.clone()), "default")
    }

    /// Makes or changes an object, and tells the watches.
    pub fn put(&self, plural: &str, mut object: Value) {
        let mut inner = self.0.lock().expect("no panic");
        inner.version += 1;
        let name = name(&object);
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        let before = inner.objects.entry(plural.to_owned()).or_default().insert(name, object.clone());
        inner.tell(plural, if before.is_some() { "MODIFIED" } else { "ADDED" }, &object);
    }

    /// Removes an object, and tells the watches.
    pub fn delete(&self, plural: &str, name: &str) {
        let mut inner = self.0.lock().expect("no panic");
        inner.version += 1;
        let held = inner.objects.get_mut(plural).and_then(|of| of.remove(name)).expect("it was there");
        inner.tell(plural, "DELETED", &held);
    }

    /// Removes an object of which no watch hears: it happens while nobody looks.
    pub fn delete_unseen(&self, plural: &str, name: &str) {
        let mut inner = self.0.lock().expect("no panic");
        inner.version += 1;
        inner.objects.get_mut(plural).and_then(|of| of.remove(name)).expect("it was there");
    }

    /// The history that a watch wants is gone.
    pub fn compact(&self, plural: &str) {
        let mut inner = self.0.lock().expect("no panic");
        inner.tell(plural, "ERROR", &status(410, "Expired", "too old resource version"));
        inner.watches.retain(|(of, _)| of != plural);
    }

    /// Ends every watch, as a restart of the API does.
    pub fn end_watches(&self) {
        self.0.lock().expect("no panic").watches.clear();
    }

    /// From now on nobody gets an answer, and open watches hang.
    pub fn partition(&self) {
        self.1.send_replace(false);
    }

    /// Answers again; watches that hung stay silent for ever.
    pub fn heal(&self) {
        let mut inner = self.0.lock().expect("no panic");
        let deaf = std::mem::take(&mut inner.watches);
        // Their other ends wait on.
        deaf.into_iter().for_each(std::mem::forget);
        drop(inner);
        self.1.send_replace(true);
    }

    /// The resource is not served.
    pub fn set_missing(&self, plural: &str, missing: bool) {
        let mut inner = self.0.lock().expect("no panic");
        if missing {
            inner.missing.insert(plural.to_owned())
        } else {
            inner.missing.remove(plural)
        };
    }

    /// It is Kubernetes 1.`minor`.
    pub fn set_minor(&self, minor: &'static str) {
        self.0.lock().expect("no panic").minor = Some(minor);
    }

    /// Nobody may list the resource.
    pub fn forbid(&self, plural: &str) {
        self.0.lock().expect("no panic").forbidden.insert(plural.to_owned());
    }

    /// Answers whoever makes such an object.
    pub fn answer(&self, plural: &str, answer: impl Fn(&Value) -> Value + Send + 'static) {
        self.0.lock().expect("no panic").answers.insert(plural.to_owned(), Box::new(answer));
    }

    /// Lists and watches so far.
    pub fn requests(&self) -> Vec<String> {
        self.0.lock().expect("no panic").requests.clone()
    }
}

impl Inner {
    fn tell(&mut self, plural: &str, kind: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.watches.retain(|(of, watch)| of != plural || watch.send(line.clone()).is_ok());
    }

    fn list(&self, plural: &str, query: &HashMap<String, String>) -> Response {
        let all: Vec<&Value> = self.objects.get(plural).into_iter().flat_map(BTreeMap::values).collect();
        let from: usize = query.get("continue").map_or(0, |from| from.parse().expect("ours"));
        let limit: usize = query.get("limit").map_or(usize::MAX, |limit| limit.parse().expect("a number"));
        let items: Vec<&&Value> = all.iter().skip(from).take(limit).collect();
        let end = from + items.len();
        let next = if end < all.len() { end.to_string() } else { String::new() };
        let metadata = json!({"resourceVersion": self.version.to_string(), "continue": next});
        axum_json(
            StatusCode::OK,
            &json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items}),
        )
    }

    /// A request about one object.
    fn one(&mut self, method: &Method, plural: &str, name: Option<String>, body: Value) -> Response {
        self.version += 1;
        let version = json!(self.version.to_string());
        let all = self.objects.entry(plural.to_owned()).or_default();
        let key = name.unwrap_or_else(|| self::name(&body));
        let held = all.iter().find(|(name, _)| name.rsplit('/').next() == key.rsplit('/').next());
        let held = held.map(|(name, object)| (name.clone(), object.clone()));
        // `metadata` of a patch, `preconditions` of a delete.
        let expected = if method == Method::DELETE { &body["preconditions"] } else { &body["metadata"] };
        if let (Some((_, object)), true) = (&held, method != Method::POST)
            && ["resourceVersion", "uid"]
                .iter()
                .any(|field| !expected[field].is_null() && expected[field] != object["metadata"][field])
        {
            return axum_json(StatusCode::CONFLICT, &status(409, "Conflict", "it was changed"));
        }
        let (code, object) = match (method.as_str(), held) {
            ("POST", Some(_)) => {
                return axum_json(StatusCode::CONFLICT, &status(409, "AlreadyExists", "it exists"));
            }
            ("POST", None) => {
                let mut object = body;
                // Of this object, whatever there was of its name.
                object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{:012}", self.version));
                object["metadata"]["generation"] = json!(1);
                (StatusCode::CREATED, (key, object))
            }
            ("DELETE", Some((name, object))) => {
                all.remove(&name);
                self.tell(plural, "DELETED", &object);
                return axum_json(StatusCode::OK, &object);
            }
            ("GET", Some(held)) => return axum_json(StatusCode::OK, &held.1),
            ("PATCH", Some((name, mut object))) => {
                let before = object["spec"].clone();
                merge(&mut object, body);
                if object["spec"] != before {
                    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
                    object["metadata"]["generation"] = json!(generation + 1);
                }
                (StatusCode::OK, (name, object))
            }
            (_, _) => return axum_json(StatusCode::NOT_FOUND, &status(404, "NotFound", "there is none")),
        };
        let (key, mut object) = object;
        object["metadata"]["resourceVersion"] = version;
        let before = all.insert(key, object.clone());
        self.tell(plural, if before.is_some() { "MODIFIED" } else { "ADDED" }, &object);
        axum_json(code, &object)
    }

    fn watch(&mut self, plural: &str) -> Response {
        let (sender, receiver) = mpsc::unbounded_channel();
        let bookmark =
            json!({"metadata": {"resourceVersion": self.version.to_string()}, "kind": "", "apiVersion": ""});
        sender.send(format!("{}\n", json!({"type": "BOOKMARK", "object": bookmark}))).expect("open");
        self.watches.push((plural.to_owned(), sender));
        let lines = UnboundedReceiverStream::new(receiver).map(|line| Ok::<_, Infallible>(Bytes::from(line)));
        Response::new(Body::from_stream(lines))
    }
}

async fn answer(
    State(server): State<ApiServer>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    let mut reachable = server.1.subscribe();
    reachable.wait_for(|reachable| *reachable).await.expect("the server lives");
    let (plural, name) = resource(request.uri().path());
    if plural == "version" {
        let minor = server.0.lock().expect("no panic").minor.unwrap_or("37");
        let git = format!("v1.{}.2", minor.trim_end_matches('+'));
        let version = json!({"major": "1", "minor": minor, "gitVersion": git, "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
        return axum_json(StatusCode::OK, &version);
    }
    let method = request.method().clone();
    let body = to_bytes(request.into_body(), usize::MAX).await.expect("a body");
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut inner = server.0.lock().expect("no panic");
    if let Some(answer) = inner.answers.get(&plural) {
        return axum_json(StatusCode::CREATED, &answer(&body));
    }
    if method != Method::GET || name.is_some() {
        return inner.one(&method, &plural, name, body);
    }
    let watching = query.contains_key("watch");
    inner.requests.push(format!("{} {plural}", if watching { "watch" } else { "list" }));
    if inner.missing.contains(&plural) {
        let status = status(404, "NotFound", "the server could not find the requested resource");
        return axum_json(StatusCode::NOT_FOUND, &status);
    }
    if inner.forbidden.contains(&plural) {
        let text = format!(
            "{plural} is forbidden: User \"mesh\" cannot list resource \"{plural}\" in API group \"\" at the cluster scope"
        );
        return axum_json(StatusCode::FORBIDDEN, &status(403, "Forbidden", &text));
    }
    if watching { inner.watch(&plural) } else { inner.list(&plural, &query) }
}

fn axum_json(code: StatusCode, body: &Value) -> Response {
    (code, [("content-type", "application/json")], body.to_string()).into_response()
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": message})
}

fn name(object: &Value) -> String {
    let field = |name: &str| object["metadata"][name].as_str();
    match field("namespace") {
        Some(namespace) => format!("{namespace}/{}", field("name").expect("it has one")),
        None => field("name").expect("it has one").to_owned(),
    }
}

/// The resource and, where one is meant, the object's name.
fn resource(path: &str) -> (String, Option<String>) {
    let mut parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let skip = if parts[0] == "apis" { 3 } else { 2 };
    parts.drain(..skip.min(parts.len() - 1));
    if parts[0] == "namespaces" && parts.len() > 2 {
        parts.drain(..2);
    }
    (parts[0].to_owned(), parts.get(1).map(|&name| name.to_owned()))
}

/// RFC 7396.
fn merge(into: &mut Value, patch: Value) {
    match patch {
        Value::Object(patch) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (key, value) in patch {
                match value {
                    Value::Null => drop(into.as_object_mut().expect("it is one").remove(&key)),
                    value => merge(&mut into[key], value),
                }
            }
        }
        value => *into = value,
    }
}
