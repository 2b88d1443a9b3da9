#!/usr/bin/env python3
"""What 200 annotated services cost to compile, beside 200 hand-written tokio loops and 200 bare structs.

    benches/compile_time.py [build|check]

Makes three crates in a temporary directory, builds each once, then touches and builds each five times in turn (dev
profile) and prints the medians. Bare structs are what both others have besides.
"""
import os, pathlib, resource, statistics, subprocess, sys, tempfile, time

SERVICES, ROUNDS = 200, 5
REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

STRUCT = """
#[derive(Default)]
pub struct Service{i} {{ sent: u64 }}

{attribute}impl Service{i} {{
    pub async fn update(&mut self) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {{
        self.sent += {i};
        tokio::task::yield_now().await;
        Ok(self.sent)
    }}
}}
"""
ANNOTATED = STRUCT.replace("{attribute}", "#[service_core::service(interval = 30, max_failures = 5)]\n")
ANNOTATED = ANNOTATED.replace("Result<u64,", "Result<service_core::Outcome,")
ANNOTATED = ANNOTATED.replace("Ok(self.sent)", "Ok(service_core::Outcome::processed(self.sent))")
STRUCT = STRUCT.replace("{attribute}", "")
LOOP = STRUCT + """
pub fn spawn{i}(stop: tokio_util::sync::CancellationToken) -> tokio::task::JoinHandle<()> {{
    tokio::spawn(async move {{
        let mut service = Service{i}::default();
        let mut ticks = tokio::time::interval(std::time::Duration::from_secs(30));
        let mut failures = 0;
        loop {{
            tokio::select! {{
                () = stop.cancelled() => break,
                _ = ticks.tick() => {{}}
            }}
            match service.update().await {{
                Ok(sent) => {{
                    failures = 0;
                    tracing::debug!(sent, "run");
                }}
                Err(error) => {{
                    failures += 1;
                    tracing::warn!(%error, failures, "failed");
                    if failures > 5 {{
                        break;
                    }}
                    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
                }}
            }}
        }}
    }})
}}
"""
SPAWN = "#[tokio::main] async fn main() {{ let stop = tokio_util::sync::CancellationToken::new(); {} }}\n".format(
    " ".join(f"drop(spawn{i}(stop.clone()));" for i in range(SERVICES))
)
CRATES = {"annotated": (ANNOTATED, "fn main() {}\n"), "handwritten": (LOOP, SPAWN), "structs": (STRUCT, "fn main() {}\n")}
MANIFEST = """[package]
name = "{name}"
version = "0.1.0"
edition = "2024"

[dependencies]
service-core = {{ path = "{core}" }}
tokio = {{ version = "1", features = ["rt-multi-thread", "macros", "time"] }}
tokio-util = "0.7"
tracing = "0.1"
"""


def main() -> None:
    command = sys.argv[1] if len(sys.argv) > 1 else "build"
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        for name, (service, rest) in CRATES.items():
            (root / name / "src").mkdir(parents=True)
            (root / name / "Cargo.toml").write_text(MANIFEST.format(name=name, core=REPOSITORY / "service-core"))
            services = "".join(service.format(i=i) for i in range(SERVICES))
            (root / name / "src/main.rs").write_text("#![allow(dead_code)]\n" + services + rest)
        (root / "Cargo.toml").write_text(f'[workspace]\nresolver = "3"\nmembers = {list(CRATES)}\n'.replace("'", '"'))
        (root / "Cargo.lock").write_bytes((REPOSITORY / "Cargo.lock").read_bytes())

        def build(name: str) -> tuple[float, float]:
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            environment = os.environ | {"CARGO_TARGET_DIR": str(root / "target")}
            subprocess.run(["cargo", command, "-q", "-p", name], cwd=root, env=environment, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return time.monotonic() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        times = {name: [] for name in CRATES}
        for name in CRATES:
            build(name)
        for _ in range(ROUNDS):
            for name in CRATES:
                (root / name / "src/main.rs").touch()
                times[name].append(build(name))
        for name, measured in times.items():
            wall, cpu = (statistics.median(column) for column in zip(*measured))
            print(f"{name:12} {wall:5.2f} s, {cpu:5.2f} s of processor time")


main()
