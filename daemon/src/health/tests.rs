use super::*;
use axum::{body::Body, http::Request};
use prometheus_client::metrics::counter::Counter;
use tower::ServiceExt;

async fn ask(shown: &Shown, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).expect("valid");
    let response = router(shown.clone()).oneshot(request).await.expect("infallible");
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.expect("small");
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test]
async fn what_is_not_ready_says_why_and_may_change_back() {
    let readiness = Readiness::default();
    let shown = Shown { readiness: readiness.clone(), metrics: Arc::new(Registry::default()) };
    let store = readiness.needs("store", "not open yet");
    let source = readiness.needs("source", "no complete list yet");
    let both = "not ready: source: no complete list yet\nnot ready: store: not open yet\n";
    assert_eq!(ask(&shown, "/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, both.to_owned()));
    store.met();
    source.met();
    assert_eq!(ask(&shown, "/readyz").await, (StatusCode::OK, "ready\n".to_owned()));
    source.set(Err("the directory is gone".to_owned()));
    assert_eq!(ask(&shown, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask(&shown, "/healthz").await, (StatusCode::OK, "ok\n".to_owned()), "alive all the while");
}

#[tokio::test]
async fn what_is_ready_in_a_lesser_way_says_so() {
    let readiness = Readiness::default();
    let shown = Shown { readiness: readiness.clone(), metrics: Arc::new(Registry::default()) };
    let maps = readiness.needs("maps", "empty");
    maps.met_but("they hold the view of yesterday");
    let but = "ready\nbut: maps: they hold the view of yesterday\n";
    assert_eq!(ask(&shown, "/readyz").await, (StatusCode::OK, but.to_owned()));
    maps.met();
    assert_eq!(ask(&shown, "/readyz").await, (StatusCode::OK, "ready\n".to_owned()));
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let mut metrics = Registry::default();
    let puts = Counter::<u64>::default();
    metrics.register("mesh_store_puts", "Puts", puts.clone());
    puts.inc_by(3);
    let shown = Shown { readiness: Readiness::default(), metrics: Arc::new(metrics) };
    let (status, text) = ask(&shown, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("mesh_store_puts_total 3\n") && text.ends_with("# EOF\n"), "{text}");
}
