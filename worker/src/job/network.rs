//! The network of a job: `none` is an empty namespace, `isolated` one whose egress is filtered.
//!
//! For `isolated`, slirp4netns carries the packets of the job's namespace through ordinary
//! sockets, so the host needs no bridge, no address translation and no forwarding. The filter is
//! the namespace's routing table: routes that prohibit loopback, private, link-local and metadata
//! addresses, and every address of the host itself, are set before the job starts. The job has no
//! `CAP_NET_ADMIN` with which to change them.
//!
//! slirp4netns lives as long as its standard input stays open: when the worker dies, however it
//! dies, the pipe closes and it ends too (`--exit-fd`).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// What slirp4netns needs to answer; it takes about 20 ms on an idle machine.
const READY_DEADLINE: Duration = Duration::from_secs(10);

/// The job's name server: slirp4netns answers there with what the host's resolver says.
pub(crate) const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// Networks that no job reaches (IANA's special-purpose registry, RFC 6890): "this" network,
/// private, shared (carrier NAT), loopback, link-local with the clouds' metadata service,
/// protocol assignments, benchmarking, multicast, reserved. slirp4netns' own 10.0.2.0/24 stays,
/// because its route is more specific.
const PROHIBITED: [&str; 11] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// A job's way out could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// A program is missing or can't be started.
    #[error(
        "network isolated: cannot start {program} (install slirp4netns and iproute2): {source}"
    )]
    Start { program: &'static str, source: std::io::Error },
    /// A program refused.
    #[error("network isolated: {program} failed: {output}")]
    Failed { program: &'static str, output: String },
    /// No answer in time.
    #[error("network isolated: slirp4netns was not ready after {} s", READY_DEADLINE.as_secs())]
    Timeout,
    /// The host's addresses can't be listed, so they can't be refused.
    #[error("network isolated: cannot list the host's addresses: {0}")]
    Addresses(std::io::Error),
}

/// The open way out of one job; dropping it closes it.
#[derive(Debug)]
pub(crate) struct Egress {
    child: Child,
}

impl Egress {
    /// Connects the network namespace of the process `pid`, a container that is created and not
    /// yet started.
    pub(crate) async fn open(pid: u32) -> Result<Self, NetworkError> {
        prohibit(pid, &routes(&host_addresses()?)).await?;
        let program = "slirp4netns";
        let mut child = clean_command(program)
            .args(["--configure", "--mtu=1500", "--disable-host-loopback"])
            .args(["--enable-sandbox", "--enable-seccomp"])
            .args(["--ready-fd=1", "--exit-fd=0"])
            .arg(pid.to_string())
            .arg("tap0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| NetworkError::Start { program, source })?;
        let mut stdout = child.stdout.take().expect("stdout is piped");
        let mut ready = [0u8; 1];
        match tokio::time::timeout(READY_DEADLINE, stdout.read_exact(&mut ready)).await {
            Err(_) => Err(NetworkError::Timeout),
            Ok(Err(error)) => {
                Err(NetworkError::Failed { program, output: format!("it ended early: {error}") })
            }
            Ok(Ok(_)) => Ok(Self { child }),
        }
    }

    /// Closes the way out and waits until slirp4netns is gone.
    pub(crate) async fn close(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(error = %error, "slirp4netns could not be killed");
        }
    }
}

/// A program of the host without the worker's environment, which may hold its token: what speaks
/// with a job's network should have nothing to lose.
fn clean_command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// `ip -batch` lines that prohibit what a job must not reach. Pure.
fn routes(host: &BTreeSet<Ipv4Addr>) -> String {
    let mut lines = String::from("link set lo up\n");
    for network in PROHIBITED {
        writeln!(lines, "route add prohibit {network}").expect("writing to a string");
    }
    for address in host {
        writeln!(lines, "route add prohibit {address}/32").expect("writing to a string");
    }
    lines
}

/// IPv4 addresses of the host's interfaces: a service that listens on all of them would
/// otherwise be reachable by a public one. slirp4netns carries no IPv6 unless told to.
fn host_addresses() -> Result<BTreeSet<Ipv4Addr>, NetworkError> {
    let interfaces = nix::ifaddrs::getifaddrs()
        .map_err(|errno| NetworkError::Addresses(std::io::Error::from(errno)))?;
    Ok(interfaces
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
        .filter(|address| !address.is_loopback())
        .collect())
}

async fn prohibit(pid: u32, lines: &str) -> Result<(), NetworkError> {
    let program = "nsenter";
    let mut child = clean_command(program)
        .arg(format!("--net={}", PathBuf::from(format!("/proc/{pid}/ns/net")).display()))
        .args(["ip", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| NetworkError::Start { program, source })?;
    let failed = |output: String| NetworkError::Failed { program: "ip route", output };
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(lines.as_bytes()).await.map_err(|error| failed(error.to_string()))?;
    drop(stdin);
    let output = tokio::time::timeout(READY_DEADLINE, child.wait_with_output())
        .await
        .map_err(|_| NetworkError::Timeout)?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn programs_do_not_get_the_workers_environment() {
        let output = clean_command("env").output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text, "PATH=/usr/sbin:/usr/bin:/sbin:/bin\n");
    }

    #[test]
    fn private_metadata_and_host_addresses_are_prohibited() {
        let host = BTreeSet::from([Ipv4Addr::new(203, 0, 113, 9)]);
        let lines = routes(&host);
        for network in ["10.0.0.0/8", "169.254.0.0/16", "127.0.0.0/8", "203.0.113.9/32"] {
            assert!(lines.contains(&format!("route add prohibit {network}\n")), "{network}");
        }
    }
}
