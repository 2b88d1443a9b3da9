//! The dashboard, without a browser.

use service_core::prelude::*;

use crate::site::{DANGEROUS, Site, builder};

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worst_service_comes_first_and_error_texts_are_escaped() {
    let failing = service_core::ServiceOptions::new().max_failures(0);
    let site = Site::of(
        builder().admin("127.0.0.1:0").options_of("broken", failing).service_of::<crate::site::Steady>("a_steady"),
    )
    .await;
    crate::site::eventually(async || !site.services.get("broken").unwrap().health().running).await;
    for path in ["/", "/ui/services"] {
        let page = site.get(path).await;
        assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")), "{path}");
        let place = |text: &str| page.body.find(text).unwrap_or_else(|| panic!("{text} is not in {}", page.body));
        assert!(place("id=\"service-broken\"") < place("id=\"service-a_steady\""), "{path}");
        assert!(place("id=\"service-a_steady\"") < place("id=\"service-steady\""), "{path}");
        assert!(!page.body.contains(DANGEROUS) && page.body.contains("&lt;script&gt;alert"), "{path}");
        assert!(!page.body.contains("http://") && !page.body.contains("https://"), "no outside request");
        assert!(!page.body.contains("style=") && !page.body.contains("onclick"), "the policy forbids these");
    }
    let page = site.get("/ui/services/broken").await;
    assert!(!page.body.contains(DANGEROUS) && page.body.contains("&lt;script&gt;alert"));
    assert!(page.body.contains("value=\"reset\"") && !page.body.contains("value=\"pause\""));
    let found = site.get("/ui/services?q=A_Steady").await;
    assert!(found.body.contains("service-a_steady") && !found.body.contains("service-broken"));
    let hostile = site.get("/ui/services?q=%22%3E%3Cscript%3E").await;
    assert!(!hostile.body.contains("\"><script>"));
    assert_eq!(site.get("/ui/services/nothing").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_act_and_lead_back_to_their_page() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("admin.db").display());
    let site = Site::of(builder().admin("127.0.0.1:0").database_url(url)).await;
    site.runs("steady", 1).await;
    let send = async |path: &str, body: &str| site.send("POST", path, &[FORM], body).await;
    let answer = send("/ui/services/steady/commands", "command=pause&by=ann&why=a+%3Cb%3E+test").await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("../steady?done=pause")), "{answer:?}");
    let page = site.get("/ui/services/steady?done=pause").await;
    assert!(page.body.contains("Done: pause.") && page.body.contains("a &lt;b&gt; test"), "{}", page.body);
    assert!(page.body.contains("value=\"resume\""));
    let again = send("/ui/services/steady/commands", "command=pause&by=ann&why=again").await;
    assert_eq!(again.status, 409);
    assert!(again.body.contains("paused already") && again.body.contains("role=\"alert\""));
    let answer = send("/ui/services/steady/overrides", "key=interval&value=5m&until=4h&by=ann&why=busy").await;
    assert_eq!(answer.status, 303, "{answer:?}");
    let page = site.get("/ui/services/steady").await;
    assert!(page.body.contains("interval = ") && page.body.contains("Remove this override"));
    let wrong = send("/ui/services/steady/overrides", "key=interval&value=often&until=&by=ann&why=busy").await;
    assert_eq!(wrong.status, 422);
    let answer = send("/ui/services/steady/overrides", "key=interval&remove=yes&by=ann&why=done").await;
    assert_eq!(answer.status, 303);
    let after = answer.header("location").unwrap().trim_start_matches("..").to_owned();
    let page = site.get(&format!("/ui/services{after}")).await.body;
    assert!(page.contains("Done: the override is removed."), "{after}: {page}");
    let audit = site.get("/ui/audit").await;
    assert!(audit.body.contains("remove override") && audit.body.contains("a &lt;b&gt; test"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_entries_of_the_audit_are_those_of_the_same_filter() {
    let site = Site::start().await;
    site.runs("steady", 1).await;
    for by in ["ann", "bob"] {
        assert_eq!(site.post("/services/steady/wake", &format!(r#"{{"by": "{by}"}}"#)).await.status, 200);
    }
    let page = site.get("/ui/audit?subject=steady&limit=1").await.body;
    let newest = site.get("/audit?limit=1").await.json()[0]["id"].as_str().unwrap().replace('-', "%2D");
    let link = format!("?before={newest}&amp;limit=1&amp;subject=steady");
    assert!(page.contains(&format!("href=\"{link}\"")), "{page}");
    let older = site.get(&format!("/ui/audit{}", link.replace("&amp;", "&"))).await.body;
    assert!(older.contains("ann") && !older.contains("bob"), "{older}");
    let all = site.get("/ui/audit?limit=1&subject=").await.body;
    assert!(all.contains(&format!("href=\"?before={newest}&amp;limit=1\"")), "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_is_answered_once() {
    let site = Site::start().await;
    let part = site.get("/ui/services?rows=steady,nothing,broken,steady,steady").await;
    assert_eq!(part.body.matches("id=\"service-steady\"").count(), 1, "{}", part.body);
    assert_eq!(part.body.matches("<li").count(), 2, "{}", part.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_the_list_has_at_most_a_hundred_rows() {
    let mut builder = builder().admin("127.0.0.1:0");
    for n in 0..120 {
        builder = builder.service_of::<crate::site::Steady>(format!("many_{n}"));
    }
    let site = Site::of(builder).await;
    let ids: Vec<String> = (0..120).map(|n| format!("many_{n}")).collect();
    let part = site.get(&format!("/ui/services?rows={}", ids.join(","))).await;
    assert_eq!(part.body.matches("<li").count(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_has_the_time_of_the_server() {
    let site = Site::start().await;
    let page = site.get("/ui/audit").await.body;
    let now = page.split_once("data-now=\"").and_then(|(_, rest)| rest.split_once('"'));
    let now: u128 = now.unwrap_or_else(|| panic!("{page}")).0.parse().unwrap();
    let here = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    assert!(here - now < 60_000, "{now} {here}");
}

/// Its failures do not count towards `max_failures`.
#[derive(Default)]
struct Ignored;

#[service(interval = 60, discover = false)]
impl Ignored {
    async fn update(&mut self) -> Result<()> {
        Err(Error::msg("the peer is away"))
    }

    fn on_failure(&mut self, _failure: &Failure) -> Recovery {
        Recovery::Ignore
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_counts_failures_that_were_ignored_as_failures_in_a_row() {
    let site = Site::of(builder().admin("127.0.0.1:0").service_of::<Ignored>("ignored")).await;
    let ignored = site.services.get("ignored").unwrap();
    crate::site::eventually(async || ignored.health().error_count == 1).await;
    let _ = ignored.run_now().await.unwrap();
    let page = site.get("/ui/services/ignored").await.body;
    assert!(page.contains("2 failures in a row"), "{page}");
    assert!(page.contains("<dt>Failures in a row</dt><dd>2; 0 of them count, 3 are retried</dd>"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_button_moves_when_a_run_begins_or_ends() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let gated = crate::site::Gated(gate.clone());
    let site = Site::of(builder().admin("127.0.0.1:0").service("gated", gated)).await;
    let buttons = async || {
        let page = site.get("/ui/services/gated").await.body;
        let values = page.split("name=\"command\" value=\"").skip(1).filter_map(|rest| rest.split_once('"'));
        values.map(|(command, _)| command.to_owned()).collect::<Vec<_>>()
    };
    site.runs("gated", 1).await;
    let during = buttons().await;
    assert_eq!(during, ["pause", "stop", "run", "wake"]);
    gate.add_permits(1);
    crate::site::eventually(async || site.services.get("gated").unwrap().health().next_run.is_some()).await;
    assert_eq!(buttons().await, during[..3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_embedded() {
    let site = Site::start().await;
    for (file, kind) in [("admin.css", "text/css"), ("admin.js", "text/javascript"), ("icon.svg", "image/svg")] {
        let answer = site.get(&format!("/assets/{file}")).await;
        assert_eq!(answer.status, 200, "{file}");
        assert!(answer.header("content-type").unwrap().starts_with(kind), "{file}");
    }
    assert_eq!(site.get("/assets/other").await.status, 404);
}
