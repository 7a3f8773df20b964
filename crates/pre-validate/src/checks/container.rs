//! The environment's Docker container, where Docker is here. No more than asked: whether it runs and is healthy.

use std::time::Duration;

use duct::cmd;
use ms5_common::check::{Finding, Report};
use ms5_common::config::{Settings, Variables};
use ms5_common::db::clients;
use serde_json::Value;

use super::CONTAINER;
use super::server::is_local;

/// How long Docker may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Makes the check.
pub(crate) fn check(report: &mut Report<'_>, settings: &Settings, variables: &Variables) {
    let container = settings.environment.defaults().container;
    report.add(
        &CONTAINER,
        if is_local(settings) {
            look(container, variables)
        } else {
            Finding::skipped("the server is on another machine")
        }
        .on(container),
    );
}

fn look(container: &str, variables: &Variables) -> Finding {
    let asked = cmd("docker", ["container", "inspect", "--format", "{{json .State}}", container])
        .full_env(clients::plain(variables))
        .stdin_null()
        .stdout_capture()
        .stderr_capture()
        .unchecked()
        .start();
    let Ok(handle) = asked else { return Finding::skipped("there is no Docker here") };
    match handle.wait_timeout(PATIENCE) {
        Ok(Some(output)) if output.status.success() => judge(container, &output.stdout),
        Ok(Some(output)) => {
            let words = String::from_utf8_lossy(&output.stderr);
            let words = words.lines().next().unwrap_or_default();
            if words.to_lowercase().contains("no such container") {
                Finding::info(format!("There is no container {container}: the server runs without Docker"))
            } else if words.contains("Cannot connect to the Docker daemon") {
                Finding::skipped("Docker is installed here and does not run")
            } else {
                Finding::warn("Docker does not answer")
                    .because(words)
                    .remedy("look yourself: docker ps | grep postgres")
            }
        }
        Ok(None) => {
            let _ = handle.kill();
            Finding::warn(format!("Docker did not answer within {} s", PATIENCE.as_secs()))
                .remedy("look yourself: docker ps | grep postgres")
        }
        Err(error) => Finding::warn("Docker cannot be asked")
            .because(error.to_string())
            .remedy("look yourself: docker ps | grep postgres"),
    }
}

/// Docker's own words for the state: <https://docs.docker.com/reference/cli/docker/container/inspect/>
fn judge(container: &str, state: &[u8]) -> Finding {
    let Ok(state) = serde_json::from_slice::<Value>(state) else {
        return Finding::warn(format!("Docker says nothing that can be understood about {container}"));
    };
    let status = state["Status"].as_str().unwrap_or("unknown");
    let health = state["Health"]["Status"].as_str();
    let line = match health {
        Some(health) => format!("Container {container}: {status}, {health}"),
        None => format!("Container {container}: {status}"),
    };
    if status == "running" && !matches!(health, Some("unhealthy" | "starting")) {
        return Finding::pass(line);
    }
    Finding::warn(line).remedy(format!("check its log: docker logs {container}"))
}

#[cfg(test)]
mod tests {
    use ms5_common::check::Verdict;

    use super::*;

    #[test]
    fn states() {
        let of = |state: &str| judge("c", state.as_bytes()).verdict();
        assert_eq!(of(r#"{"Status":"running"}"#), Verdict::Pass);
        assert_eq!(of(r#"{"Status":"running","Health":{"Status":"healthy"}}"#), Verdict::Pass);
        assert_eq!(of(r#"{"Status":"running","Health":{"Status":"unhealthy"}}"#), Verdict::Warn);
        assert_eq!(of(r#"{"Status":"exited"}"#), Verdict::Warn);
        assert_eq!(of("?"), Verdict::Warn);
    }
}
