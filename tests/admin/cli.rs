//! The command `services` of a program, as a process: its output and its exit status.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use serde_json::Value;
use service_core::prelude::*;
use tokio::sync::Semaphore;

use crate::site::{Broken, Ratio, Site, TOKEN, builder};

/// What a process has printed, and its exit status.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.err, "");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn fails(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(
            self.err.contains("error: ") && parts.iter().all(|part| self.err.contains(part)),
            "{parts:?}: {self:?}"
        );
    }

    #[track_caller]
    fn prints(&self, text: &str) {
        assert_eq!((self.status, self.out.as_str(), self.err.as_str()), (0, text, ""));
    }
}

/// Prepares a program in an empty folder, with nothing of the environment that it reads.
fn program(arguments: &str, environment: &[(&str, &str)]) -> (Command, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_operated"));
    for name in ["ADMIN_ADDR", "ADMIN_TOKEN", "COLUMNS", "SUDO_USER", "USER", "LOGNAME", "USERNAME"] {
        command.env_remove(name);
    }
    command.args(arguments.split_whitespace()).envs(environment.iter().copied()).current_dir(folder.path());
    command.stdin(Stdio::null());
    (command, folder)
}

/// Runs a program to its end, while the services of this process continue.
async fn run_with(arguments: &str, environment: &[(&str, &str)]) -> Ended {
    let (mut command, _folder) = program(arguments, environment);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

async fn run(arguments: &str) -> Ended {
    run_with(arguments, &[]).await
}

impl Site {
    /// Runs a program that operates the services of this site.
    pub(crate) async fn services(&self, arguments: &str) -> Ended {
        let address = self.address.to_string();
        run_with(&format!("services {arguments}"), &[("ADMIN_ADDR", &address), ("USER", "jo")]).await
    }
}

#[tokio::test]
async fn a_command_changes_the_service_and_says_so() {
    let site = Site::start().await;
    site.runs("steady", 1).await;
    let paused = site.services("pause steady --why spam --by ann").await;
    paused.prints("steady is paused, degraded: paused by an operator\n");
    assert_eq!(site.services.get("steady").unwrap().state(), ServiceState::Paused);
    site.services("pause steady").await.fails(1, &["cannot pause service `steady`", "paused already"]);
    site.services("resume steady").await.prints("steady is running, healthy\n");
    let run = site.services("run steady").await;
    assert!(
        run.out.starts_with("steady: run 2 succeeded in ") && run.out.ends_with(": 3 processed, 0 failed\n"),
        "{run:?}"
    );
    site.services("wake steady").await.prints("steady is running, healthy\n");
    site.services("stop steady").await.prints("steady is stopped, degraded: stopped\n");
    site.services("run steady").await.fails(1, &["cannot run service `steady`"]);
    site.services("start steady").await.prints("steady is running, healthy\n");
    site.services("reset steady").await.fails(1, &["cannot reset service `steady`", "it has not failed"]);
    let failed = site.services("run broken").await;
    assert_eq!((failed.status, failed.err.as_str()), (1, ""));
    assert!(failed.out.starts_with("broken: run 2 failed after "), "{failed:?}");
    let audit = site.get("/audit").await.json();
    let entries: Vec<(&str, &str, &str)> = audit
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|entry| (entry["action"].as_str().unwrap(), entry["by"].as_str().unwrap(), entry["why"].as_str().unwrap()))
        .collect();
    assert_eq!(entries[0], ("pause", "ann", "spam"));
    assert_eq!(entries[1], ("resume", "jo", ""));
}

#[tokio::test]
async fn every_command_prints_json() {
    let site = Site::start().await;
    site.runs("steady", 1).await;
    site.runs("broken", 1).await;
    let all = site.services("status --json").await.json();
    assert_eq!((&all[0]["service_id"], &all[1]["service_id"]), (&"broken".into(), &"steady".into()));
    let one = site.services("status steady --json").await.json();
    assert_eq!(one["total_processed"], 3);
    assert_eq!(one["last_runs"], site.get("/services/steady/runs").await.json());
    let failed = &site.services("status broken --json").await.json()["last_runs"][0];
    assert_eq!((&failed["failure"], &failed["succeeded"]), (&"error".into(), &false.into()), "{failed}");
    assert_eq!(site.services("explain steady --json").await.json()["schedule"], "every 1m");
    assert_eq!(site.services("pause steady --json").await.json()["state"], "paused");
    let run = site.services("run steady --json").await.json();
    assert_eq!((&run["run"], &run["succeeded"], &run["processed"]), (&2.into(), &true.into(), &3.into()));
    let listed = run_with("services list --json", &[]).await.json();
    assert_eq!((&listed[0]["service_id"], &listed[0]["enabled"]), (&"broken".into(), &false.into()));
    let once = run_with("services run-once broken --json", &[]).await;
    let once: Value = serde_json::from_str(&once.out).unwrap();
    assert_eq!((&once["succeeded"], &once["error"]), (&false.into(), &"the provider is down".into()));
}

#[tokio::test]
async fn the_status_shows_the_worst_service_first_and_fits_the_terminal() {
    let site = Site::start().await;
    site.runs("steady", 1).await;
    site.runs("broken", 1).await;
    let address = site.address.to_string();
    for columns in ["80", "40"] {
        let shown = run_with("services status", &[("ADMIN_ADDR", &address), ("COLUMNS", columns)]).await;
        assert_eq!((shown.status, shown.err.as_str()), (0, ""));
        let lines: Vec<&str> = shown.out.lines().collect();
        assert_eq!(lines[0], "2 services: 1 degraded, 1 healthy");
        assert_eq!(lines[2], "▲ broken  degraded, backing off");
        let limit: usize = columns.parse().unwrap();
        assert!(lines.iter().all(|line| line.chars().count() <= limit), "{}", shown.out);
        for part in
            ["backing off after failure 1 of 3", "onerror=", "no success yet; next run in", "● healthy", "steady"]
        {
            let flat = shown.out.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(part), "{part} is not in:\n{}", shown.out);
        }
        assert!(!shown.out.contains('\u{1b}'), "no colours in a pipe");
    }
    let one = site.services("status broken").await;
    assert!(one.out.starts_with("▲ broken  degraded, backing off\n  why           backing off"), "{}", one.out);
    assert!(one.out.contains("\n  RUN  STARTED  TOOK") && one.out.contains("✖ error: <script>"), "{}", one.out);
    assert_eq!(site.services("status --check").await.status, 0, "it is degraded");
    site.services.get("broken").unwrap().stop().await.unwrap();
    let failing = ServiceOptions::new().max_failures(0).exhausted(service_core::Exhausted::Fail);
    let registered = site.services.register_of::<Broken>("failing").options(failing);
    assert!(registered.start().await.is_ok());
    site.services.get("failing").unwrap().wait_for(ServiceState::Failed).await.unwrap();
    for checked in ["status --check", "status failing --check"] {
        let checked = site.services(checked).await;
        assert_eq!((checked.status, checked.err.as_str()), (1, ""));
        assert!(checked.out.contains("✖ failing  unhealthy, failed"), "{}", checked.out);
    }
    assert_eq!(site.services("status steady --check").await.status, 0);
}

#[tokio::test]
async fn the_status_of_a_service_in_a_run_says_that_a_run_is_in_progress() {
    /// Fails, and then runs until a test lets it end.
    struct FailsFirst(Arc<Semaphore>);

    #[service(interval = 3600, retry_delay = 0.01, discover = false)]
    impl FailsFirst {
        async fn update(&mut self, cx: &Context) -> Result<()> {
            if cx.run_number() > 1 {
                self.0.acquire().await.unwrap().forget();
                return Ok(());
            }
            Err(Error::msg("the first one fails"))
        }
    }

    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let site = Site::of(builder().admin("127.0.0.1:0").service_fn("slow", move || FailsFirst(held.clone()))).await;
    site.runs("slow", 2).await;
    let shown = site.services("status slow").await;
    assert!(shown.out.contains("  next run      a run is in progress\n"), "{shown:?}");
    assert_eq!(site.services("status slow --json").await.json()["in_run"], true);
    gate.add_permits(1);
    crate::site::eventually(async || site.services.get("slow").unwrap().health().last_success.is_some()).await;
    let shown = site.services("status slow").await;
    assert!(!shown.out.contains("in progress"), "{shown:?}");
}

#[tokio::test]
async fn a_metric_that_is_not_a_number_does_not_hide_the_other_services() {
    let site = Site::of(builder().admin("127.0.0.1:0").service_of::<Ratio>("ratio")).await;
    site.runs("steady", 1).await;
    crate::site::eventually(async || site.services.get("ratio").unwrap().health().metrics.len() == 3).await;
    let all = site.services("status").await;
    assert!(all.status == 0 && all.out.starts_with("3 services: "), "{all:?}");
    assert_eq!(site.services("status --json").await.json()[1]["metrics"]["queue_depth"], 7.0);
    let one = site.services("status ratio").await;
    assert!(one.out.contains("  ratio         NaN\n"), "{one:?}");
}

#[tokio::test]
async fn a_service_is_explained() {
    let site = Site::start().await;
    site.runs("steady", 1).await;
    let address = site.address.to_string();
    let wide = site.services("explain steady").await;
    let explained = site.services.get("steady").unwrap().explain().to_string();
    let stays = |text: &str| text.lines().filter(|line| !line.contains(" in ")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(stays(&wide.out), stays(&explained));
    let narrow = run_with("services explain steady", &[("ADMIN_ADDR", &address), ("COLUMNS", "40")]).await;
    assert!(narrow.out.lines().all(|line| line.chars().count() <= 40), "{}", narrow.out);
    assert!(narrow.out.contains("schedule  every 1m"), "{}", narrow.out);
}

#[tokio::test]
async fn an_error_names_the_place_and_the_fix() {
    let site = Site::start().await;
    for command in ["status steaddy", "explain steaddy", "pause steaddy", "run steaddy"] {
        site.services(command).await.fails(1, &["there is no service `steaddy`, did you mean `steady`?"]);
    }
    site.services("status a/b").await.fails(1, &["there is no service `a/b`; `status` shows all services"]);
    site.services("statsu").await.fails(2, &["unrecognized subcommand 'statsu'", "'status'"]);
    site.services("status --token secret").await.fails(2, &["--token"]);
    site.services("status --address nowhere:x").await.fails(2, &["127.0.0.1:9876"]);

    // Nothing listens there.
    let address = "127.0.0.1:1";
    let down = run(&format!("services status --address {address}")).await;
    down.fails(
        3,
        &[
            &format!("cannot reach {address} (connection refused): is the program running, with `.admin(…)`?"),
            "ADMIN_ADDR",
        ],
    );
    assert_eq!(down.out, "");
}

#[tokio::test]
async fn another_server_is_not_taken_for_an_admin_interface() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new()).await });
    for command in ["status", "pause steady"] {
        let answer = run(&format!("services {command} --address {address}")).await;
        answer.fails(3, &["does not answer as an admin interface does", "404", "--address"]);
    }
    // It answers 404 as an admin interface does, and so does an admin interface at a path that it does not have.
    let missing = async || (axum::http::StatusCode::NOT_FOUND, r#"{"error": "no route"}"#);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(missing)).await });
    let site = Site::start().await;
    for (address, why) in [
        (address.to_string(), "`404 Not Found`: no route"),
        (format!("http://{}/admin", site.address), "`404 Not Found`: there is no such page"),
    ] {
        for command in ["status", "status steady", "explain steady", "pause steady"] {
            let answer = run(&format!("services {command} --address {address}")).await;
            answer.fails(3, &["does not answer as an admin interface does", why, "--address"]);
        }
    }
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap();
    std::thread::spawn(move || {
        for _ in 0..2 {
            drop(mute.accept());
        }
    });
    let read = run(&format!("services status --address {address}")).await;
    read.fails(3, &["does not answer as an admin interface does"]);
    assert!(!read.err.contains("carried out"), "{read:?}");
    // The connection ends after the request was sent: by a crash of the program, for example.
    let changed = run(&format!("services pause steady --address {address}")).await;
    changed.fails(3, &["does not answer as", "the command may still be carried out, see `status`"]);
}

#[tokio::test]
async fn the_token_comes_from_the_environment() {
    let token = "correct-horse";
    let site = Site::of(builder().admin("127.0.0.1:0").admin_token(token)).await;
    let address = site.address.to_string();
    site.services("pause steady").await.fails(1, &["requires a token: set ADMIN_TOKEN", &address]);
    let with = async |token: &str, command: &str| {
        let command = format!("services {command}");
        run_with(&command, &[("ADMIN_ADDR", &address), ("ADMIN_TOKEN", token)]).await
    };
    let wrong = with("wrong", "pause steady").await;
    wrong.fails(1, &["the token is not that of the program at", "set ADMIN_TOKEN"]);
    assert!(!wrong.err.contains("wrong") && !wrong.err.contains(token), "{wrong:?}");
    with("a\nb", "pause steady").await.fails(1, &["the token (ADMIN_TOKEN, ", "has characters"]);
    assert_eq!(with(token, "pause steady").await.status, 0);
}

#[cfg(unix)]
#[test]
fn a_token_that_is_not_utf8_is_an_error_that_names_the_variable() {
    use std::os::unix::ffi::OsStrExt;
    let (mut command, _folder) = program("services pause steady --address 127.0.0.1:1", &[]);
    let output = command.env("ADMIN_TOKEN", std::ffi::OsStr::from_bytes(&[b's', 0xff])).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("ADMIN_TOKEN is not valid UTF-8"), "{said}");
}

#[tokio::test]
async fn without_arguments_and_variables_the_address_and_the_token_of_the_code_are_used() {
    let site = Site::of(builder().admin("127.0.0.1:0").admin_token("in-the-code")).await;
    let address = site.address.to_string();
    let code = run_with("services pause steady", &[("OPERATED_ADDRESS", &address)]).await;
    assert_eq!(code.status, 0, "{code:?}");
    let blank = [("OPERATED_ADDRESS", address.as_str()), ("ADMIN_ADDR", " ")];
    let blank = run_with("services resume steady", &blank).await;
    assert_eq!(blank.status, 0, "{blank:?}");
    let other = run_with("services pause steady --address 127.0.0.1:1", &[("OPERATED_ADDRESS", &address)]).await;
    other.fails(3, &["cannot reach 127.0.0.1:1"]);
    let variable = [("OPERATED_ADDRESS", address.as_str()), ("ADMIN_TOKEN", "other")];
    run_with("services resume steady", &variable).await.fails(1, &["the token is not that of the program"]);
    run_with("services status", &[("OPERATED_ADDRESS", "nowhere:x")])
        .await
        .fails(1, &["`.admin(…)`", "127.0.0.1:9876"]);
}

#[tokio::test]
async fn a_mounted_interface_is_reached_at_its_url() {
    let services = builder().admin_token(TOKEN).build().await.unwrap();
    services.start().await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().nest("/admin", service_core::admin::router(&services));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let shown = run(&format!("services status --address http://{address}/admin")).await;
    shown.fails(1, &["requires a token"]);
}

#[tokio::test]
async fn what_needs_no_running_program_works_alone() {
    let listed = run("services list").await;
    assert_eq!((listed.status, listed.err.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = listed.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["SERVICE", "SCHEDULE", "DEFINED", "AT"]);
    assert_eq!(lines[1][..4], ["broken", "disabled", "(every", "1m)"]);
    assert_eq!(lines[2][..4], ["slow", "disabled", "(cron", "30"]);
    assert_eq!(lines[3][..3], ["steady", "every", "1m"]);
    let wrong = run_with("services list", &[("SERVICES__STEADY__INTERVAL", "often")]).await;
    wrong.fails(1, &["SERVICES__STEADY__INTERVAL"]);

    let once = run("services run-once steady").await;
    assert_eq!((once.status, once.err.as_str()), (0, ""));
    assert!(once.out.starts_with("steady: run\nsteady: the run succeeded in "), "{once:?}");
    assert!(once.out.ends_with(": 3 processed, 1 failed; there is more to do\n"), "{once:?}");
    let failed = run("services run-once broken").await;
    assert_eq!(failed.status, 1);
    assert!(
        failed.out.starts_with("broken: the run failed after ") && failed.out.ends_with(": the provider is down\n")
    );
    run("services run-once steaddy").await.fails(1, &["there is no service `steaddy`, did you mean `steady`?"]);

    let alerts = run("services alerts --job station").await;
    assert_eq!((alerts.status, alerts.err.as_str()), (0, ""));
    assert!(alerts.out.contains("alert: ServiceFailed") && alerts.out.contains("job=\"station\""), "{}", alerts.out);
    let dashboard = run("services grafana").await.json();
    assert_eq!(dashboard["title"], "Services");

    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef operated"), ("fish", "complete -c operated")] {
        let script = run(&format!("services completions {shell}")).await;
        assert_eq!(script.status, 0);
        assert!(script.out.contains(part) && script.out.contains("run-once"), "{shell}: {}", script.out);
    }
}

#[tokio::test]
async fn what_needs_no_running_program_does_not_depend_on_the_address_of_one() {
    for address in ["http://127.0.0.1:8080/admin", "station.internal:9876", "10.0.0.5:9876"] {
        for command in ["list", "run-once steady", "alerts", "grafana"] {
            let done = run_with(&format!("services {command}"), &[("ADMIN_ADDR", address)]).await;
            assert_eq!((done.status, done.err.as_str()), (0, ""), "{command}, {address}");
        }
        let started = run_with("run", &[("ADMIN_ADDR", address)]).await;
        started.fails(1, &[address]);
    }
}

/// A process whose output is read line by line.
struct Running {
    process: std::process::Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    _folder: tempfile::TempDir,
}

impl Running {
    fn start(arguments: &str, environment: &[(&str, &str)]) -> Self {
        let (mut command, folder) = program(arguments, environment);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines, _folder: folder }
    }

    /// Waits until it prints a line with this start. Returns the rest of the line.
    fn says(&mut self, start: &str) -> String {
        let found = self.lines.find_map(|line| line.unwrap().strip_prefix(start).map(str::to_owned));
        found.unwrap_or_else(|| panic!("it does not print `{start}`"))
    }

    /// Sends SIGTERM, waits for the end, and returns the exit status and the rest of the output.
    fn terminate(mut self) -> (i32, Vec<String>) {
        let sent = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(sent.success());
        let rest = self.lines.map(Result::unwrap).collect();
        (self.process.wait().unwrap().code().unwrap(), rest)
    }
}

#[test]
fn a_signal_drains_a_single_run() {
    let mut once = Running::start("services run-once slow", &[]);
    once.says("slow: run");
    let (status, rest) = once.terminate();
    assert_eq!((status, rest[0].as_str()), (0, "slow: end"));
    assert!(rest[1].starts_with("slow: the run succeeded in "), "{rest:?}");
}

#[tokio::test]
async fn a_single_run_whose_blocking_code_never_returns_ends_the_process_with_1() {
    let once = run_with("services run-once hung", &[("OPERATED_HUNG", "1")]);
    let once = tokio::time::timeout(Duration::from_secs(30), once).await.expect("the process ends");
    assert_eq!(once.status, 1, "{once:?}");
    assert!(once.out.starts_with("hung: the run failed after "), "{once:?}");
    assert!(once.err.contains("ending the process without it"), "{once:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_arguments_the_program_starts_its_services() {
    for arguments in ["", "run"] {
        let mut started = Running::start(arguments, &[("ADMIN_ADDR", "127.0.0.1:0")]);
        let address = started.says("admin: ");
        let shown = run_with("services status", &[("ADMIN_ADDR", &address)]).await;
        assert!(shown.out.starts_with("3 services: 3 healthy\n"), "{shown:?}");
        let (status, _) = started.terminate();
        assert_eq!(status, 0);
    }
    for wrong in ["servces status", "start", "--services"] {
        let refused = tokio::time::timeout(Duration::from_secs(20), run(wrong)).await.unwrap();
        assert_eq!((refused.status, refused.out.as_str()), (2, ""), "{wrong}: {refused:?}");
    }
    let help = run("--help").await;
    assert!(help.status == 0 && help.out.contains("services") && help.out.contains("(the default)"), "{help:?}");
}
