//! Many small requests: clients that each send one after the other, for a while.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Load {
    /// The middle one of all times from a request to its answer, in milliseconds.
    pub(crate) p50_ms: f64,
    /// 99 of 100 took no longer.
    pub(crate) p99_ms: f64,
    /// Answers in a second, all clients together.
    pub(crate) per_second: f64,
}

/// Has `clients` do something again and again for so long, each on a thread of its own. `client`
/// makes what one of them does.
pub(crate) fn load<F>(
    clients: u32,
    time: Duration,
    client: impl Fn(u32) -> Result<F>,
) -> Result<Load>
where
    F: FnMut() -> Result<()> + Send,
{
    let made = (0..clients).map(client).collect::<Result<Vec<F>>>()?;
    let begun = Instant::now();
    let one = |mut work: F| -> Result<Vec<f64>> {
        let mut times_ms = Vec::new();
        while begun.elapsed() < time {
            let at = Instant::now();
            work()?;
            times_ms.push(at.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(times_ms)
    };
    let all: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = made.into_iter().map(|work| scope.spawn(|| one(work))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().expect("clients do not panic"));
        ended.collect::<Result<_>>()
    })?;
    summary(all.concat(), begun.elapsed())
}

fn summary(mut times_ms: Vec<f64>, took: Duration) -> Result<Load> {
    times_ms.sort_by(f64::total_cmp);
    let part = |percent: usize| times_ms.get((times_ms.len() * percent).div_ceil(100).max(1) - 1);
    let (p50, p99) = part(50).zip(part(99)).context("nothing was answered")?;
    #[expect(clippy::cast_precision_loss, reason = "for tables")]
    let per_second = times_ms.len() as f64 / took.as_secs_f64();
    Ok(Load { p50_ms: *p50, p99_ms: *p99, per_second })
}

/// A connection that is kept.
#[derive(Debug)]
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// One request with a JSON body; the answer's body.
    pub(crate) fn post(&mut self, path: &str, token: &str, body: &str) -> Result<Vec<u8>> {
        let address = self.0.get_ref().peer_addr()?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all(format!("{head}{body}").as_bytes())?;
        let (mut line, mut status, mut len) = (String::new(), None, None);
        loop {
            line.clear();
            ensure!(self.0.read_line(&mut line)? > 0, "the server closed the connection");
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if status.is_none() {
                status = text.split(' ').nth(1).map(str::to_owned);
            } else if let Some((name, value)) = text.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                len = Some(value.trim().parse()?);
            }
        }
        let mut answer = vec![0; len.context("an answer without a length")?];
        self.0.read_exact(&mut answer)?;
        let told = String::from_utf8_lossy(&answer);
        ensure!(status.as_deref() == Some("200"), "answered {status:?}: {told}");
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_all_times_are_found() {
        let times = (1..=200).rev().map(f64::from).collect();
        let load = summary(times, Duration::from_secs(4)).unwrap();
        assert_eq!(load, Load { p50_ms: 100.0, p99_ms: 198.0, per_second: 50.0 });
        assert_eq!(summary(vec![7.0], Duration::from_secs(1)).unwrap().p99_ms, 7.0);
        summary(vec![], Duration::from_secs(1)).unwrap_err();
    }
}
