//! Programs that are measured and daemons that serve them: started, timed, counted, ended.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;

use crate::row::Sample;

/// How long a daemon may take to answer.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How long a daemon may take to end after SIGTERM.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// Clock ticks of a second, as /proc counts on every architecture of ours.
const TICKS: f64 = 100.0;

/// Waits without keeping the runtime's threads from their work.
pub(crate) fn pause(time: Duration) {
    tokio::runtime::Handle::current().block_on(tokio::time::sleep(time));
}

/// A free loopback port, free at this moment at least.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Runs a program to its end; an error tells its stderr.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    ensure!(
        output.status.success(),
        "{name} failed ({}): {}",
        output.status,
        tail(&String::from_utf8_lossy(&output.stderr))
    );
    Ok(output)
}

/// The last lines of a long text.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

/// Starts all programs at once, waits for all; each one's output.
pub(crate) fn outputs(commands: Vec<Command>) -> Result<Vec<Output>> {
    let mut children = Vec::new();
    for mut command in commands {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        children.push(command.spawn().context("cannot start a program")?);
    }
    let outputs: Vec<Output> =
        children.into_iter().map(Child::wait_with_output).collect::<Result<_, _>>()?;
    for output in &outputs {
        ensure!(
            output.status.success(),
            "one of {} failed ({}): {}",
            outputs.len(),
            output.status,
            tail(&String::from_utf8_lossy(&output.stderr))
        );
    }
    Ok(outputs)
}

/// A daemon that ends with this value.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts it with its messages in a file.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = fs::File::create(log)?.into_parts().0;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so.
    pub(crate) fn wait_until(&mut self, what: &str, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{what} ended at once ({status}): see its log");
            }
            ensure!(Instant::now() < deadline, "{what} does not answer: see its log");
            pause(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Waits until it takes connections.
    pub(crate) fn wait_for_port(&mut self, what: &str, address: SocketAddr) -> Result<()> {
        self.wait_until(what, || TcpStream::connect(address).is_ok())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // SIGTERM lets it unmount what it has mounted.
        let _sent = Command::new("kill").arg(self.child.id().to_string()).status();
        let deadline = Instant::now() + END_DEADLINE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            pause(Duration::from_millis(5));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            crate::groups::say("a daemon did not end in time and is killed");
        }
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Takes the time of something, and the processor time that it costs.
#[derive(Debug)]
pub(crate) struct Meter {
    daemons: Vec<u32>,
    daemon_s: f64,
    children_s: f64,
    own_s: f64,
    machine_s: f64,
    start: Instant,
}

impl Meter {
    /// Starts now; `daemons` work for what is measured.
    pub(crate) fn start(daemons: &[u32]) -> Self {
        let own = times("self").unwrap_or_default();
        Self {
            daemons: daemons.to_vec(),
            daemon_s: daemons.iter().map(|pid| all_times(*pid)).sum(),
            children_s: own.children_s,
            own_s: own.own_s,
            machine_s: machine_busy_s(),
            start: Instant::now(),
        }
    }

    /// Ends now. What the daemons started and waited for counts as theirs.
    pub(crate) fn stop(self) -> Sample {
        let wall_s = self.start.elapsed().as_secs_f64();
        let own = times("self").unwrap_or_default();
        let daemon_s: f64 = self.daemons.iter().map(|pid| all_times(*pid)).sum();
        let machine_s = machine_busy_s() - self.machine_s - (own.own_s - self.own_s);
        Sample {
            wall_s,
            cpu_s: Some(own.children_s - self.children_s + daemon_s - self.daemon_s),
            machine_cpu_s: Some(machine_s.max(0.0)),
            peak_rss_bytes: self.daemons.iter().filter_map(|pid| peak_rss(*pid)).max(),
            ..Sample::default()
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Times {
    own_s: f64,
    children_s: f64,
}

fn all_times(pid: u32) -> f64 {
    times(&pid.to_string()).map_or(0.0, |times| times.own_s + times.children_s)
}

fn times(process: &str) -> Option<Times> {
    parse_times(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// Fields 14 to 17 of /proc/PID/stat: utime, stime, cutime, cstime. The second field is a name
/// in parentheses and may hold anything.
fn parse_times(stat: &str) -> Option<Times> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks: Vec<f64> = after_name
        .split_whitespace()
        .skip(11)
        .take(4)
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let &[user, system, children_user, children_system] = ticks.as_slice() else { return None };
    Some(Times {
        own_s: (user + system) / TICKS,
        children_s: (children_user + children_system) / TICKS,
    })
}

fn machine_busy_s() -> f64 {
    fs::read_to_string("/proc/stat").ok().and_then(|stat| parse_busy(&stat)).unwrap_or_default()
}

/// All of the first line of /proc/stat but idle, waiting for disks, and stolen.
fn parse_busy(stat: &str) -> Option<f64> {
    let fields: Vec<f64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let &[user, nice, system, _idle, _iowait, irq, softirq, ..] = fields.as_slice() else {
        return None;
    };
    Some((user + nice + system + irq + softirq) / TICKS)
}

fn peak_rss(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// One HTTP request by curl; the answer's body. `token` is shown where there is one.
pub(crate) fn http(
    method: &str,
    url: &str,
    token: Option<&str>,
    body: Option<&[u8]>,
) -> Result<Vec<u8>> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail-with-body", "--max-time", "60"]);
    command.args(["--request", method]);
    if let Some(token) = token {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    if let Some(body) = body {
        command.args(["--header", "Content-Type: application/json", "--data-raw"]);
        command.arg(std::str::from_utf8(body)?);
    }
    Ok(output(command.arg(url)).with_context(|| format!("{method} {url}"))?.stdout)
}

/// Counters of Prometheus' text format whose name is `metric`, by the value of `label`.
pub(crate) fn parse_counters(text: &str, metric: &str, label: &str) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(metric).and_then(|rest| rest.strip_prefix('{')) else {
            continue;
        };
        let Some((labels, value)) = rest.rsplit_once('}') else { continue };
        let name = labels
            .split(',')
            .find_map(|pair| pair.strip_prefix(label)?.strip_prefix("=\"")?.strip_suffix('"'));
        if let (Some(name), Ok(value)) = (name, value.trim().parse::<u64>()) {
            *counters.entry(name.to_owned()).or_default() += value;
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 30 20 20 0 1 0 5 6 7";
        assert_eq!(parse_times(stat), Some(Times { own_s: 2.0, children_s: 0.5 }));
        assert_eq!(parse_times("7 (a) S 1"), None);
    }

    #[test]
    fn waiting_is_not_busy() {
        let stat = "cpu  100 0 100 9999 9999 50 50 9999 0 0\ncpu0 1 2 3";
        assert_eq!(parse_busy(stat), Some(3.0));
    }

    #[test]
    fn counters_are_read_by_their_label() {
        let text = "# TYPE x counter\nx{op=\"read\"} 3\nx{a=\"b\",op=\"lookup\"} 4\ny{op=\"z\"} 5\n\
                    x_more{op=\"no\"} 6\n";
        let counters = parse_counters(text, "x", "op");
        assert_eq!(counters, [("lookup".to_owned(), 4), ("read".to_owned(), 3)].into());
    }
}
