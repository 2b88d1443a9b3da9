//! The token, other sites and other hosts.

use axum::Router;
use service_core::ServiceRegistry;

use crate::site::{Answer, Site, TOKEN, builder, send};

/// Reading, changing, and what is open to everybody.
const READING: [&str; 9] = [
    "/services",
    "/services/steady",
    "/services/steady/runs",
    "/services/steady/explain",
    "/services/steady/overrides",
    "/audit",
    "/health/ready",
    "/health/live",
    "/login",
];
const PROTECTED: usize = 6;

/// An application with a server of its own, which mounts the interface.
async fn mounted(token: Option<&str>) -> Site {
    let builder = match token {
        Some(token) => builder().admin_token(token),
        None => builder(),
    };
    let services = builder.build().await.unwrap();
    services.start().await.unwrap();
    mount(services).await
}

async fn mount(services: ServiceRegistry) -> Site {
    let app = Router::new().nest("/admin", service_core::admin::router(&services));
    serve(services, app).await
}

async fn serve(services: ServiceRegistry, app: Router) -> Site {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    Site { services, address }
}

/// Without it, clients that are generated from the description would call `/services`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_says_where_the_interface_is_mounted() {
    let alone = Site::start().await;
    assert!(alone.get("/openapi.json").await.json()["servers"].is_null());
    let mounted = mounted(Some("s3cret")).await;
    let authorization = bearer("s3cret");
    let answer = mounted.send("GET", "/admin/openapi.json", &[("Authorization", &authorization)], "").await;
    let servers = answer.json()["servers"].take();
    assert_eq!(servers, serde_json::json!([{"url": "/admin"}]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_interface_is_at_the_path_where_it_is_mounted_with_and_without_a_slash() {
    let services = builder().admin_token("s3cret").start_all().await.unwrap();
    let router = || service_core::admin::router(&services);
    let app = Router::new().nest_service("/admin", router()).nest("/plain", router());
    let site = serve(services.clone(), app).await;
    let authorization = bearer("s3cret");
    let get = async |path: &str| site.send("GET", path, &[("Authorization", &authorization)], "").await;
    for (path, link) in [
        ("/admin", "admin/ui/services/steady"),
        ("/admin/", "./ui/services/steady"),
        ("/plain", "plain/ui/services/steady"),
        ("/admin/ui/services", "../ui/services/steady"),
    ] {
        let page = get(path).await;
        assert_eq!(page.status, 200, "{path}: {page:?}");
        assert!(page.body.contains(&format!("href=\"{link}\"")), "{path}: {}", page.body);
    }
    for root in ["/admin", "/plain"] {
        assert_eq!(get(&format!("{root}/services/steady")).await.json()["service_id"], "steady", "{root}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_interface_may_be_mounted_below_a_path_with_parameters() {
    let services = builder().admin_token("s3cret").start_all().await.unwrap();
    let router = || service_core::admin::router(&services);
    // Two parameters have names of ours.
    let app = Router::new().nest_service("/{region}/admin", router()).nest("/of/{id}/{action}/admin", router());
    let site = serve(services.clone(), app).await;
    let authorization = bearer("s3cret");
    let headers = [("Authorization", &*authorization), ("Content-Type", "application/json")];
    for root in ["/eu/admin", "/of/broken/stop/admin"] {
        let send = async |method: &str, path: &str| site.send(method, &format!("{root}{path}"), &headers, "").await;
        assert_eq!(send("GET", "/services/steady").await.json()["service_id"], "steady", "{root}");
        for path in ["/ui/services/steady", "/assets/admin.js", "/services/steady/runs"] {
            assert_eq!(send("GET", path).await.status, 200, "{root}{path}");
        }
        for (method, path) in [("GET", "/services/nothing"), ("POST", "/services/steady/nothing")] {
            let missing = send(method, path).await;
            assert!(missing.status == 404 && missing.error().contains("`nothing`"), "{root}{path}: {missing:?}");
        }
        assert_eq!(send("POST", "/services/steady/wake").await.status, 200, "{root}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_before_the_interface_is_mounted_are_shown() {
    let services = builder().admin_token("s3cret").start_all().await.unwrap();
    services.get("steady").unwrap().run_now().await.unwrap();
    let site = mount(services).await;
    let authorization = bearer("s3cret");
    let runs = site.send("GET", "/admin/services/steady/runs", &[("Authorization", &authorization)], "").await;
    assert!(runs.json().as_array().is_some_and(|runs| !runs.is_empty()), "{runs:?}");
    let metrics = site.send("GET", "/admin/metrics", &[("Authorization", &authorization)], "").await.body;
    let counted = |line: &str| {
        line.starts_with("service_run_duration_seconds_count{service=\"steady\"}") && !line.ends_with(" 0")
    };
    assert!(metrics.lines().any(counted), "{metrics}");
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_loopback_reading_is_open_and_changing_needs_the_token_if_there_is_one() {
    let site = Site::of(builder().admin("127.0.0.1:0").admin_token("s3cret")).await;
    for path in READING {
        assert_eq!(site.get(path).await.status, 200, "{path}");
    }
    let pause = async |headers: &[(&str, &str)]| site.send("POST", "/services/steady/pause", headers, "").await;
    for headers in [
        &[][..],
        &[("Authorization", "Bearer s3cre")],
        &[("Authorization", "Bearer s3crett")],
        &[("Authorization", "Bearer ")],
        &[("Authorization", "Bearer")],
        &[("Authorization", "Basic s3cret")],
        &[("Authorization", "s3cret")],
        &[("Cookie", "service_admin=wrong")],
        &[("Cookie", "other=s3cret")],
    ] {
        let answer = pause(headers).await;
        assert_eq!(answer.status, 401, "{headers:?}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert!(!answer.body.contains("s3cret"));
    }
    assert!(!site.services.get("steady").unwrap().health().paused);
    assert_eq!(pause(&[("Authorization", "Bearer s3cret")]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elsewhere_reading_needs_the_token_too_and_the_probes_show_no_details() {
    let public = Site::of(builder().admin("0.0.0.0:0").admin_token("s3cret")).await;
    let public = Site { address: ([127, 0, 0, 1], public.address.port()).into(), ..public };
    let inside = mounted(Some("s3cret")).await;
    for (site, root) in [(&public, ""), (&inside, "/admin")] {
        let authorization = bearer("s3cret");
        let with_token = [("Authorization", &*authorization)];
        crate::site::eventually(async || site.services.get("broken").unwrap().health().error_count == 1).await;
        for path in &READING[..PROTECTED] {
            assert_eq!(site.get(&format!("{root}{path}")).await.status, 401, "{root}{path}");
            assert_eq!(site.send("GET", &format!("{root}{path}"), &with_token, "").await.status, 200, "{root}{path}");
        }
        for path in &READING[PROTECTED..] {
            assert_eq!(site.get(&format!("{root}{path}")).await.status, 200, "{root}{path}");
        }
        let ready = site.get(&format!("{root}/health/ready")).await;
        assert!(ready.body.contains("broken") && !ready.body.contains("script"), "{ready:?}");
        let ready = site.send("GET", &format!("{root}/health/ready"), &with_token, "").await;
        assert!(ready.body.contains("script"), "{ready:?}");
        assert_eq!(site.post(&format!("{root}/services/steady/pause"), "").await.status, 401);
        assert_eq!(site.send("POST", &format!("{root}/services/steady/pause"), &with_token, "").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mounted_router_without_a_token_refuses_everything_but_probes() {
    let site = mounted(None).await;
    for path in &READING[..PROTECTED] {
        let answer = site.send("GET", &format!("/admin{path}"), &[("Authorization", "Bearer ")], "").await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.error().contains("ADMIN_TOKEN"), "{answer:?}");
    }
    assert_eq!(site.get("/admin/health/live").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_gives_a_cookie_that_is_the_token() {
    let site = mounted(Some(TOKEN)).await;
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let encoded: String = TOKEN.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let log_in = async |body: &str| site.send("POST", "/admin/login", &form, body).await;
    for wrong in ["", "token=", "token=wrong", "other=1"] {
        let answer = log_in(wrong).await;
        assert_eq!((answer.status, answer.header("set-cookie")), (401, None), "{wrong}");
    }
    let answer = log_in(&format!("token={encoded}")).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("ui/services")));
    let cookie = answer.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let value = cookie.split(';').next().unwrap();
    let headers = [("Cookie", value)];
    assert_eq!(site.send("GET", "/admin/services", &headers, "").await.status, 200);
    assert_eq!(site.send("POST", "/admin/services/steady/pause", &headers, "").await.status, 200);
    // Copied from a file, with the end of its line.
    assert_eq!(log_in(&format!("token={encoded}%0D%0A")).await.header("set-cookie"), Some(cookie));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_with_a_wrong_token_gets_the_page_again() {
    let site = mounted(Some("s3cret")).await;
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let browser = [form, ("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let answer = site.send("POST", "/admin/login", &browser, "token=wrong&next=ui%2Faudit").await;
    assert_eq!((answer.status, answer.header("content-type")), (401, Some("text/html; charset=utf-8")), "{answer:?}");
    assert!(answer.body.contains("the token is wrong") && answer.body.contains("value=\"ui/audit\""), "{answer:?}");
    assert!(answer.body.contains("action=\"./login\""), "{answer:?}");
    // Another client gets JSON, as before.
    for headers in [&[form][..], &[("Accept", "text/html")]] {
        let body = if headers[0] == form { "token=wrong" } else { r#"{"token": "wrong"}"# };
        let answer = site.send("POST", "/admin/login", headers, body).await;
        assert_eq!((answer.status, answer.error().contains("ADMIN_TOKEN")), (401, true));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_leads_to_the_page_that_was_opened_and_never_to_another_site() {
    let site = mounted(Some("s3cret")).await;
    let refused = site.get("/admin/ui/services/steady?done=pause").await;
    assert_eq!(refused.status, 401);
    assert!(refused.body.contains("name=\"next\" value=\"ui/services/steady?done=pause\""), "{}", refused.body);
    // What a form sends cannot be opened.
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let refused = site.send("POST", "/admin/ui/services/steady/commands", &[form], "command=pause").await;
    assert!(refused.body.contains("name=\"next\" value=\"ui/services/steady\""), "{}", refused.body);
    let leads_to = async |next: &str| {
        let next: String = next.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = site.send("POST", "/admin/login", &[form], &format!("token=s3cret&next={next}")).await;
        assert_eq!(answer.status, 303, "{next}");
        answer.header("location").unwrap().to_owned()
    };
    for next in
        ["ui/services/steady", "ui/audit?subject=steady&before=2026-01-31T02:30:05.120Z", "ui/work/a%5Fb?offset=50"]
    {
        assert_eq!(leads_to(next).await, next);
    }
    for next in [
        "",
        "//evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "/ui/services",
        "ui",
        "\\\\evil.example",
        "ui/\\evil.example",
        "\tui/services",
        "ui/../../evil",
        "ui/%2e%2E/%2e./evil",
        "ui/services\r\nSet-Cookie: a=b",
        "services",
        "ui//evil.example",
    ] {
        assert_eq!(leads_to(next).await, "ui/services", "{next:?}");
    }
}

/// A browser does not send the cookie where a link of another site leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_a_link_of_another_site_opens_is_requested_once_more() {
    let (site, without_token) = (mounted(Some("s3cret")).await, mounted(None).await);
    let open = async |site: &Site, method: &str, path: &str, from: &str, cookie: &str| {
        let navigation = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")];
        let headers = [&navigation[..], &[("Sec-Fetch-Site", from), ("Cookie", cookie)]].concat();
        site.send(method, &format!("/admin{path}"), &headers, "").await
    };
    for path in ["", "/ui/services/steady"] {
        let first = open(&site, "GET", path, "cross-site", "other=1").await;
        assert_eq!((first.status, first.header("refresh")), (401, Some("0")), "{path}: {first:?}");
        // The second request is one of our own page, with or without the cookie.
        let second = open(&site, "GET", path, "same-origin", "service_admin=s3cret").await;
        assert_eq!((second.status, second.header("refresh")), (200, None), "{path}: {second:?}");
        let logged_out = open(&site, "GET", path, "same-origin", "other=1").await;
        assert_eq!((logged_out.status, logged_out.header("refresh")), (401, None), "{path}: {logged_out:?}");
    }
    let typed = open(&site, "GET", "/ui/services", "none", "other=1").await;
    assert_eq!((typed.status, typed.header("refresh")), (401, None), "{typed:?}");
    let sent = open(&site, "POST", "/ui/services/steady/commands", "cross-site", "other=1").await;
    assert_eq!((sent.status, sent.header("refresh")), (403, None), "{sent:?}");
    let useless = open(&without_token, "GET", "/ui/services", "cross-site", "other=1").await;
    assert_eq!((useless.status, useless.header("refresh")), (401, None), "{useless:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_token_of_the_code_can_be_sent_as_a_header() {
    let plain = TOKEN.to_owned();
    for token in [plain.clone(), format!(" {plain}\n"), "größer".to_owned()] {
        let site = mounted(Some(&token)).await;
        let authorization = bearer(token.trim());
        let answer = site.send("GET", "/admin/services", &[("Authorization", &authorization)], "").await;
        assert_eq!(answer.status, 200, "{token:?}: {answer:?}");
        let wrong = bearer(&format!("{}é", token.trim()));
        assert_eq!(
            site.send("GET", "/admin/services", &[("Authorization", &wrong)], "").await.status,
            401,
            "{token:?}"
        );
    }
    // Beside a cookie of another application that is not UTF-8.
    let site = mounted(Some("s3cret")).await;
    let request = b"GET /admin/services HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                    Cookie: other=\xff; service_admin=s3cret\r\n\r\n";
    assert_eq!(crate::site::raw(site.address, request).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_another_site_began_are_refused() {
    let site = Site::start().await;
    let (own, port) = (format!("http://{}", site.address), site.address.port());
    let other_port = format!("http://127.0.0.1:{}", port ^ 1);
    let named = format!("http://localhost:{port}");
    let refused: [&[(&str, &str)]; 8] = [
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
        &[("Origin", &other_port)],
        &[("Origin", &named)],
        &[("Origin", &own), ("Origin", "https://evil.example")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")],
    ];
    for headers in refused {
        for (method, path) in
            [("GET", "/services"), ("GET", "/ui/services"), ("POST", "/services/steady/pause"), ("POST", "/login")]
        {
            assert_eq!(site.send(method, path, headers, "").await.status, 403, "{method} {path} {headers:?}");
        }
    }
    assert!(!site.services.get("steady").unwrap().health().paused);
    for headers in [&[("Origin", &*own)][..], &[("Sec-Fetch-Site", "same-origin")], &[("Sec-Fetch-Site", "none")]] {
        assert_eq!(site.send("GET", "/services", headers, "").await.status, 200, "{headers:?}");
    }
    // A link from a chat or an alert leads to a page, and to nothing that acts.
    let link = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")];
    assert_eq!(site.send("GET", "/login", &link, "").await.status, 200);
    assert_eq!(site.send("GET", "/services", &link, "").await.status, 403);
    assert_eq!(site.send("POST", "/login", &link, "").await.status, 403);
}

/// With HTTP/2 the host is in the address, and there is no header `Host`. This request of HTTP/1.1 is the same for a
/// handler.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_of_a_request_without_the_header_is_that_of_its_address() {
    let (inside, own) = (mounted(Some("s3cret")).await, Site::start().await);
    let asked = async |site: &Site, method: &str, address: &str, headers: &str| {
        let body = "token=s3cret";
        let kind = "Content-Type: application/x-www-form-urlencoded\r\nConnection: close";
        let head = format!("{method} {address} HTTP/1.1\r\n{headers}{kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        crate::site::raw(site.address, (head + body).as_bytes()).await.status
    };
    for (headers, status) in [
        ("Origin: https://app.example\r\n", 303),
        ("Origin: https://evil.example\r\n", 403),
        ("Origin: https://app.example\r\nHost: other.example\r\n", 403),
    ] {
        assert_eq!(asked(&inside, "POST", "https://app.example/admin/login", headers).await, status, "{headers}");
    }
    assert_eq!(asked(&inside, "POST", "/admin/login", "Origin: https://app.example\r\n").await, 403);
    assert_eq!(asked(&own, "GET", "http://localhost/services", "").await, 200);
    assert_eq!(asked(&own, "GET", "http://evil.example/services", "").await, 403);
    assert_eq!(asked(&own, "GET", "http://localhost/services", "Host: evil.example\r\n").await, 403);
    assert_eq!(asked(&own, "GET", "/services", "").await, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_loopback_only_its_own_host_names_are_answered() {
    let site = Site::start().await;
    let asked = async |host: &str| -> Answer { send(site.address, "GET", "/services", &[("Host", host)], "").await };
    for host in
        ["localhost", "localhost:9876", "LOCALHOST", "127.0.0.1", "127.0.0.1:1", "[::1]:80", "station.localhost"]
    {
        assert_eq!(asked(host).await.status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:9876",
        "localhost.evil.example",
        "192.168.0.1",
        "127.0.0.1.nip.io",
        "",
        "local host",
    ] {
        assert_eq!(asked(host).await.status, 403, "{host}");
    }
    let two = send(site.address, "GET", "/services", &[("Host", "localhost"), ("Host", "evil.example")], "").await;
    assert!(matches!(two.status, 400 | 403), "{two:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_the_headers_that_protect_pages() {
    let site = Site::start().await;
    for (method, path) in
        [("GET", "/services"), ("GET", "/nothing"), ("PATCH", "/services"), ("GET", "/login"), ("GET", "/services/no")]
    {
        let answer = site.send(method, path, &[], "").await;
        let policy = answer.header("content-security-policy").unwrap_or_else(|| panic!("{answer:?}"));
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}");
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
}
