//! What a newcomer sees first.

use crate::sway::{Home, NOBODY, text};

#[test]
fn sway_alone_lists_the_commands() {
    let output = Home::new().sway(NOBODY, &[]).assert().success().get_output().clone();
    let stdout = text(&output.stdout);
    for command in [
        "up", "export", "run", "invoke", "runs", "logs", "outputs", "images", "whoami", "user",
        "token", "owner", "mount", "doctor",
    ] {
        assert!(stdout.contains(&format!("\n  {command} ")), "{command} in {stdout}");
    }
    assert!(output.stderr.is_empty());
}

#[test]
fn the_version_is_told() {
    let output = Home::new().sway(NOBODY, &["--version"]).assert().success().get_output().clone();
    assert!(text(&output.stdout).starts_with("sway 0."));
}

#[test]
fn the_help_of_run_has_the_exit_codes() {
    let output =
        Home::new().sway(NOBODY, &["run", "--help"]).assert().success().get_output().clone();
    let stdout = text(&output.stdout);
    for code in ["69", "70", "124", "125", "130", "137"] {
        assert!(stdout.contains(code), "{code} in {stdout}");
    }
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Home::new()
            .sway(NOBODY, &["completions", shell])
            .assert()
            .success()
            .get_output()
            .clone();
        assert!(text(&output.stdout).contains("doctor"), "{shell}");
    }
}

#[test]
fn doctor_says_what_it_found_as_json() {
    let output = Home::new().sway(NOBODY, &["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let can_run = report["can_run"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if can_run { 0 } else { 1 }));
    let worker = report["findings"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (worker["subject"].as_str(), worker["state"].as_str()),
        (Some("worker"), Some("limited"))
    );
}
