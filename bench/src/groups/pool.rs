//! `print("hi")` over HTTP, again and again: with containers that wait and without, created by runc
//! and by Sway, beside a server that starts a plain process, and beside `runc run` alone.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Bench;
use crate::arms::fastapi::FastApi;
use crate::arms::native::Native;
use crate::arms::origin::Origin;
use crate::arms::sway::Worker;
use crate::load::{Connection, Load, load};
use crate::process::{Meter, pause};
use crate::row::{Cell, Sample};

const CODE: &str = r#"print("hi")"#;

/// Clients at a time, and for how long, in seconds.
const LOADS: [(u32, u64); 3] = [(1, 5), (2, 5), (8, 20)];

/// Before each: what the one before it left behind is removed by then.
const SETTLE: Duration = Duration::from_secs(3);

/// All arms on W1's image, one after the other within each round.
pub(crate) fn measure(bench: &mut Bench, origin: &Origin) -> Result<()> {
    let workload = bench.workloads.w1.clone();
    let installation = &bench.installation;
    let name = workload.image.name.clone();
    // For whoever asks over HTTP.
    let shared = format!("library/{name}");
    installation.export(&workload.image, &shared, origin.address, &["--no-trace"])?;
    let worker = |data: &str, pool: &str, sandbox: &str| {
        let more = ["--default-image", name.as_str(), "--pool", pool, "--sandbox", sandbox];
        installation.worker_with(&bench.scratch.join(data), origin.address, &more)
    };
    let workers = [
        ("Sway, pool on", worker("pool-on", "8", "runc")?),
        ("Sway, pool on, own sandbox", worker("pool-on-own", "8", "sway")?),
        ("Sway, pool off", worker("pool-off", "off", "runc")?),
        ("Sway, pool off, own sandbox", worker("pool-off-own", "off", "sway")?),
    ];
    let plain = FastApi::start(&bench.kept.with_file_name("fastapi"), &bench.scratch)?;
    let native = Native::of_code(&bench.scratch, &workload.image.rootfs, &workload.program, CODE)?;
    let token = bench.installation.token.clone();
    let rounds = if bench.quick { 1 } else { bench.rounds };
    for round in 0..rounds {
        for (clients, seconds) in LOADS {
            let time = Duration::from_secs(if bench.quick { 5 } else { seconds });
            let cell = |arm: &str| Cell::new("pool", &format!("{clients} at a time"), "-", arm);
            for (arm, worker) in &workers {
                pause(SETTLE);
                bench.record(round, &cell(arm), |_| sway(worker, &token, clients, time));
            }
            pause(SETTLE);
            bench.record(round, &cell("FastAPI, a process each"), |_| {
                sampled(&[plain.pid()], || http(plain.address, "", clients, time))
            });
            pause(SETTLE);
            bench.record(round, &cell("runc run"), |_| runc(&native, clients, time));
            if clients == 8 {
                // Loops that are more than the cores can hinder each other.
                pause(SETTLE);
                bench.record(round, &cell("runc run, 4 loops"), |_| runc(&native, 4, time));
            }
        }
    }
    Ok(())
}

fn sway(worker: &Worker, token: &str, clients: u32, time: Duration) -> Result<Sample> {
    // The pool fills with use.
    http(worker.address, token, clients, Duration::from_secs(2))?;
    pause(Duration::from_secs(1));
    sampled(&[worker.pid()], || http(worker.address, token, clients, time))
}

fn runc(native: &Native, loops: u32, time: Duration) -> Result<Sample> {
    sampled(&[], || load(loops, time, |number| Ok(move || native.say_hi(number))))
}

fn http(address: SocketAddr, token: &str, clients: u32, time: Duration) -> Result<Load> {
    let body = serde_json::json!({ "code": CODE }).to_string();
    load(clients, time, |_| {
        let mut connection = Connection::open(address)?;
        let body = body.clone();
        Ok(move || {
            let answer = connection.post("/run", token, &body)?;
            let answer: serde_json::Value = serde_json::from_slice(&answer)?;
            ensure!(answer["stdout"] == "hi\n", "answered {answer}");
            Ok(())
        })
    })
}

fn sampled(daemons: &[u32], measured: impl FnOnce() -> Result<Load>) -> Result<Sample> {
    let meter = Meter::start(daemons);
    let load = measured()?;
    Ok(Sample { load: Some(load), ..meter.stop() })
}
