//! `/metrics` and `/openapi.json`.

use crate::promtool::promtool;
use crate::site::{Site, Steady, builder};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_are_what_prometheus_expects() {
    let own = "# HELP orders_total Orders.\n# TYPE orders_total counter\norders_total 3\n";
    let builder = builder().admin("127.0.0.1:0").admin_metrics(move || own.to_owned());
    let site = Site::of(builder).await;
    site.runs("steady", 1).await;
    crate::site::eventually(async || site.services.get("broken").unwrap().health().error_count == 1).await;
    let other = site
        .services
        .register("other", Steady)
        .label("region", "a \"b\"\\\n")
        .label("state", "x")
        .label("label_state", "y")
        .label("__name__", "z")
        .label("quantile", "q")
        .start()
        .await
        .unwrap();
    // Else this request and the first run may be one run.
    site.runs("other", 1).await;
    other.run_now().await.unwrap();
    let answer = site.get("/metrics").await;
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let has = |line: &str| assert!(answer.body.lines().any(|known| known == line), "no {line} in\n{}", answer.body);
    has("service_runs_total{service=\"steady\"} 1");
    has("service_items_processed_total{service=\"steady\"} 3");
    has("service_failures_total{service=\"broken\",kind=\"error\"} 1");
    has("service_state{service=\"broken\",state=\"backing_off\"} 1");
    has("service_state{service=\"broken\",state=\"running\"} 0");
    has("service_status{service=\"broken\",status=\"degraded\"} 1");
    has("service_active{service=\"broken\"} 1");
    has("service_given_up{service=\"broken\"} 0");
    has("service_interval_seconds{service=\"steady\"} 60");
    has("service_custom{service=\"steady\",name=\"queue_depth\"} 7");
    has("service_run_duration_seconds_count{service=\"broken\"} 1");
    let labels = "label___name__=\"z\",label_label_state=\"y\",label_quantile=\"q\",region=\"a \\\"b\\\"\\\\\\n\",label_state=\"x\"";
    has(&format!("service_runs_total{{service=\"other\",{labels}}} 2"));
    assert!(answer.body.ends_with(own));
    check_with_promtool(&answer.body);
    site.services.unregister("other").await.unwrap();
    assert!(!site.get("/metrics").await.body.contains("service=\"other\""));
}

fn check_with_promtool(text: &str) {
    let dir = tempfile::tempdir().unwrap();
    let Some((is_well, said)) = promtool(dir.path(), &["check", "metrics"], text) else { return };
    assert!(is_well && said.is_empty(), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_fits_what_is_answered() {
    let site = Site::start().await;
    site.runs("steady", 1).await;
    let document = site.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let schemas = &document["components"]["schemas"];
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let required = |name: &str| {
        let names = schemas[name]["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    assert_eq!(keys(&site.get("/services/steady").await.json()), required("ServiceHealth"));
    assert_eq!(keys(&site.get("/services/steady/runs").await.json()[0]), required("Run"));
    assert_eq!(keys(&site.get("/services/steady/explain").await.json()), required("Explanation"));
    assert_eq!(keys(&site.get("/health/ready").await.json()), required("Ready"));
    let answer = site.post("/services/steady/run", "").await.json();
    assert_eq!(keys(&answer["report"]), required("RunReport"));
    assert_eq!((&answer["report"]["run"], &answer["service_id"]), (&2.into(), &"steady".into()), "{answer}");
    assert_eq!(site.post("/services/steady/wake", "").await.status, 200);
    assert_eq!(keys(&site.get("/audit").await.json()[0]), required("AuditEntry"));
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "steady").replace("{table}", "none").replace("{key}", "interval");
        for method in item.as_object().unwrap().keys().filter(|method| *method == "get" && path != "/events") {
            let answer = site.send(&method.to_uppercase(), &path, &[], "").await;
            let documented =
                item.get(method).unwrap()["responses"].as_object().unwrap().contains_key(&answer.status.to_string());
            assert!(documented, "{method} {path}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_says_how_to_log_in() {
    let site = Site::of(builder().admin("127.0.0.1:0").admin_token("s3cret")).await;
    let document = site.get("/openapi.json").await.json();
    assert!(document["paths"]["/openapi.json"]["get"]["responses"]["200"].is_object(), "{document}");
    let scheme = &document["components"]["securitySchemes"]["cookie"];
    assert_eq!((&scheme["type"], &scheme["in"]), (&"apiKey".into(), &"cookie".into()), "{document}");
    let needed = &document["paths"]["/services/{id}/wake"]["post"]["security"];
    assert_eq!(*needed, serde_json::json!([{"token": []}, {"cookie": []}]));
    assert!(document["paths"]["/login"]["get"]["responses"]["200"].is_object(), "{document}");
    let login = &document["paths"]["/login"]["post"];
    assert!(login["security"].is_null(), "{login}");
    for (body, status) in [(r#"{"token": "s3cret"}"#, 303), (r#"{"token": "other"}"#, 401), ("{", 400), ("[]", 422)] {
        let answer = site.post("/login", body).await;
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert!(login["responses"][status.to_string()].is_object(), "{status}: {login}");
        let cookie = answer.header("set-cookie").and_then(|cookie| cookie.split_once('=')).map(|(name, _)| name);
        assert_eq!(cookie, (status == 303).then_some(scheme["name"].as_str().unwrap()));
    }
}
