//! What the owner of data reads before deciding on a job, for all that show it: no reader is told less
//! than another.

use std::time::Duration;

use crate::api::jobs::JobView;
use crate::api::submissions::Packages;
use crate::job::{JobSpec, Network, Program};

/// What a job would run, in what, on what, within which limits: titles with texts, as their author
/// wrote them. Without `spec`, which is gone after the clean-up, what is left. `time` and `size` (of
/// bytes) are the reader's way to write figures.
pub fn asks(
    job: &JobView,
    spec: Option<&JobSpec>,
    time: impl Fn(Duration) -> String,
    size: impl Fn(u64) -> String,
) -> Vec<(&'static str, String)> {
    let limits = &job.limits;
    let mut rows = vec![("image", format!("{}@{}", job.image, job.manifest))];
    let packages = job.submission.as_ref().and_then(|submission| submission.packages.as_ref());
    let packages = packages.into_iter().flat_map(Packages::told);
    rows.extend(packages.map(|text| ("packages", text)));
    if let Some(spec) = spec {
        let starts = match &spec.program {
            Program::Script { file } => file.path.clone(),
            Program::Folder { entry, .. } => format!("/code/{entry}"),
            Program::Command { argv } => quoted(argv),
            Program::Handler(handler) => format!("the handler {}", handler.handler),
        };
        rows.push(("starts", starts));
        if !spec.args.is_empty() {
            rows.push(("arguments", quoted(&spec.args)));
        }
        for (name, value) in &spec.env {
            rows.push(("environment", format!("{name}={value:?}")));
        }
    }
    for dataset in &job.datasets {
        let at = dataset.name.as_ref().map_or("/data".to_owned(), |name| format!("/data/{name}"));
        rows.push(("dataset", format!("{}@{} at {at}", dataset.dataset, dataset.manifest)));
    }
    rows.push(("time", time(Duration::from_millis(limits.timeout_ms))));
    rows.push(("memory", size(limits.memory_bytes)));
    rows.push(("CPUs", cpus(limits.cpus_milli)));
    rows.push(("processes", limits.pids.to_string()));
    rows.push(("output", format!("{} a stream", size(limits.output_bytes))));
    if let Some(output) = &limits.output {
        rows.push(("/output", format!("{} in {} files", size(output.bytes), output.files)));
    }
    let network = match job.network {
        Network::None => "none",
        Network::Isolated => "the outside, but nothing of the worker's host and networks",
    };
    rows.push(("network", network.to_owned()));
    rows
}

/// Thousandths of CPUs, without needless digits.
pub fn cpus(milli: u32) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_told_all_that_a_job_asks_for() {
        let job: JobView = serde_json::from_value(serde_json::json!({
            "id": "abcdefghjk", "username": "bob", "image": "science",
            "manifest": "2c26b46b68ffc68ff99b453c1d30413413422d70", "filename": "run.sh",
            "state": "pending", "network": "isolated", "created_at": "2026-11-21T20:00:00.000Z",
            "limits": {"timeout_ms": 600_000, "memory_bytes": 1_073_741_824, "cpus_milli": 1500,
                "pids": 128, "output_bytes": 1024, "tmp_bytes": 1024,
                "output": {"bytes": 5, "files": 6, "file_bytes": 7}},
            "datasets": [{"name": "weather.csv", "kind": "file", "dataset": "alice/weather",
                "manifest": "2c26b46b68ffc68ff99b453c1d30413413422d70"}],
        }))
        .unwrap();
        let argv = vec!["python".to_owned(), "-c".to_owned(), "print('a b')".to_owned()];
        let mut spec = JobSpec::new(None, Program::Command { argv });
        spec.args = vec!["--all".to_owned()];
        spec.env.insert("SEED".to_owned(), "1\n2".to_owned());
        let rows = |spec| {
            let (time, size) = (|it: Duration| format!("{it:?}"), |it: u64| format!("{it} B"));
            let rows = asks(&job, spec, time, size).into_iter();
            rows.map(|(title, text)| format!("{title}: {text}")).collect::<Vec<_>>()
        };
        let all = [
            "image: science@2c26b46b68ffc68ff99b453c1d30413413422d70",
            r#"starts: "python" "-c" "print('a b')""#,
            r#"arguments: "--all""#,
            r#"environment: SEED="1\n2""#,
            "dataset: alice/weather@2c26b46b68ffc68ff99b453c1d30413413422d70 at /data/weather.csv",
            "time: 600s",
            "memory: 1073741824 B",
            "CPUs: 1.5",
            "processes: 128",
            "output: 1024 B a stream",
            "/output: 5 B in 6 files",
            "network: the outside, but nothing of the worker's host and networks",
        ];
        assert_eq!(rows(Some(&spec)), all);
        assert_eq!(rows(None), [&all[..1], &all[4..]].concat());
    }

    #[test]
    fn cpus_are_told_without_needless_digits() {
        assert_eq!([500, 1000, 1250, 10].map(cpus), ["0.5", "1", "1.25", "0.01"]);
    }
}
