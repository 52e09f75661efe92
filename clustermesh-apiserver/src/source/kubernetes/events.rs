//! What is wrong with an object, as an Event of it: `kubectl describe` shows it to whoever wrote the object.

use crate::kubernetes::within;
use crate::source::{
    kubernetes::resource,
    object::ObjectKey,
    snapshot::{Effect, Problem, Snapshot},
};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Events that wait. What does not fit stands in the log and in the metrics: Events are a courtesy.
const EVENTS_MAX: usize = 256;

/// Longest note of an Event, in bytes (events.k8s.io/v1).
const NOTE_MAX_BYTES: usize = 1_000;

/// Where Events are said. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<(ObjectReference, Event)>);

impl Events {
    /// Sends what is said until cancelled.
    #[must_use]
    pub fn spawn(client: Client, cancel: CancellationToken) -> Self {
        let (queue, mut said) = mpsc::channel::<(ObjectReference, Event)>(EVENTS_MAX);
        tokio::spawn(async move {
            let reporter = Reporter { controller: "clustermesh-apiserver".to_owned(), instance: None };
            let recorder = Recorder::new(client, reporter);
            loop {
                let (object, event) = tokio::select! {
                    () = cancel.cancelled() => return,
                    next = said.recv() => match next {
                        Some(next) => next,
                        None => return,
                    },
                };
                if let Err(error) = within(recorder.publish(&event, &object)).await {
                    debug!(error = format!("{error:#}"), "Cannot write an Event");
                }
            }
        });
        Self(queue)
    }

    /// A problem of an object that is in the snapshot, or was refused.
    pub fn problem(&self, problem: &Problem, snapshot: &Snapshot) {
        let Some(object) = &problem.object else { return };
        let consequence = match problem.effect {
            Effect::Refused => " (the object is not used)",
            Effect::LastGood => " (what it last said stays in force)",
            Effect::Read => "",
        };
        let field = if problem.field.is_empty() { String::new() } else { format!("{}: ", problem.field) };
        self.warn(object, snapshot, "InvalidForMesh", format!("{field}{}{consequence}", problem.text));
    }

    /// Something about an object that its author should know.
    pub fn warn(&self, object: &ObjectKey, snapshot: &Snapshot, reason: &str, note: String) {
        let resource = resource(object.kind);
        let uid = snapshot.objects.get(object).and_then(|found| found.parsed.uid);
        let reference = ObjectReference {
            api_version: Some(resource.api_version),
            kind: Some(resource.kind),
            namespace: object.namespace.as_ref().map(ToString::to_string),
            name: Some(object.name.to_string()),
            uid: uid.map(|uid| uid.to_string()),
            ..ObjectReference::default()
        };
        self.say(reference, reason, note);
    }

    /// A warning about an object.
    pub fn say(&self, object: ObjectReference, reason: &str, mut note: String) {
        note.truncate(note.floor_char_boundary(NOTE_MAX_BYTES));
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Announce".to_owned(),
            secondary: None,
        };
        // Full: see EVENTS_MAX.
        drop(self.0.try_send((object, event)));
    }
}
