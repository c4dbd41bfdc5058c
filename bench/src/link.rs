//! What a network does to bytes: delay, bandwidth, TCP slow start. Pure: time comes in, times
//! come out, so the model is tested without waiting.
//!
//! - A byte needs half a round trip to arrive.
//! - All connections of one direction share the link; bytes leave one after the other at the
//!   bandwidth.
//! - A sender may have a window's bytes unacknowledged. The window starts at ten segments
//!   (RFC 6928), grows by what is acknowledged (RFC 5681, slow start) up to twice the
//!   bandwidth-delay product, and starts over after an idle time of a retransmission timeout, as
//!   Linux does unless `tcp_slow_start_after_idle` is off.
//!
//! Left out: loss, congestion avoidance, jitter, the byte overhead of headers. The model is
//! kinder than a real network, to every arm alike.

use std::collections::VecDeque;
use std::time::Duration;

/// Bytes of a segment: 1,500 of Ethernet without IP and TCP headers.
pub(crate) const SEGMENT_LEN: u32 = 1460;

const INITIAL_WINDOW: u64 = 10 * SEGMENT_LEN as u64;

/// Linux' least retransmission timeout.
const IDLE_RESTART_MIN: Duration = Duration::from_millis(200);

/// A network between two hosts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Network {
    /// Round-trip time.
    pub(crate) rtt: Duration,
    /// Bits per second, each direction.
    pub(crate) bits_per_second: u64,
}

impl Network {
    /// A data centre: 2 ms, 1 Gbit/s.
    pub(crate) const N1: Self =
        Self { rtt: Duration::from_millis(2), bits_per_second: 1_000_000_000 };
    /// Another region: 20 ms, 500 Mbit/s.
    pub(crate) const N2: Self =
        Self { rtt: Duration::from_millis(20), bits_per_second: 500_000_000 };

    fn transmission_time(&self, bytes: u64) -> Duration {
        Duration::from_nanos(bytes * 8 * 1_000_000_000 / self.bits_per_second)
    }

    /// Bytes that fill the link for one round trip.
    pub(crate) fn bandwidth_delay_product(&self) -> u64 {
        let bits = u128::from(self.bits_per_second) * self.rtt.as_nanos() / 1_000_000_000;
        u64::try_from(bits / 8).unwrap_or(u64::MAX)
    }

    fn window_max(&self) -> u64 {
        (2 * self.bandwidth_delay_product()).max(INITIAL_WINDOW)
    }
}

/// One direction of the network, shared by its connections. Times count from any fixed moment.
#[derive(Debug, Default)]
pub(crate) struct Link {
    busy_until: Duration,
}

/// One direction of one connection.
#[derive(Debug)]
pub(crate) struct Flow {
    network: Network,
    window: u64,
    in_flight: u64,
    /// Bytes and when their acknowledgement is back.
    unacknowledged: VecDeque<(Duration, u64)>,
    last_sent: Duration,
}

impl Flow {
    /// A connection that is just established.
    pub(crate) fn new(network: Network) -> Self {
        Self {
            network,
            window: INITIAL_WINDOW,
            in_flight: 0,
            unacknowledged: VecDeque::new(),
            last_sent: Duration::ZERO,
        }
    }

    /// Sends `len` bytes (at most a segment) that are there at `now`; tells when the last of them
    /// has left, which is when the next ones may come, and when they arrive. Where the window has
    /// no room, nothing is sent and the error is when there will be: the link is others' until then.
    pub(crate) fn send(
        &mut self,
        link: &mut Link,
        now: Duration,
        len: u64,
    ) -> Result<(Duration, Duration), Duration> {
        let idle = now.saturating_sub(self.last_sent);
        self.acknowledge(now);
        if self.in_flight == 0 && idle > IDLE_RESTART_MIN.max(2 * self.network.rtt) {
            self.window = INITIAL_WINDOW;
        }
        let start = now.max(link.busy_until);
        self.acknowledge(start);
        if self.in_flight + len > self.window
            && let Some(&(acknowledged, _)) = self.unacknowledged.front()
        {
            return Err(acknowledged);
        }
        let sent = start + self.network.transmission_time(len);
        link.busy_until = sent;
        self.last_sent = sent;
        self.in_flight += len;
        self.unacknowledged.push_back((sent + self.network.rtt, len));
        Ok((sent, sent + self.network.rtt / 2))
    }

    fn acknowledge(&mut self, now: Duration) {
        while let Some(&(acknowledged, len)) = self.unacknowledged.front() {
            if acknowledged > now {
                break;
            }
            self.unacknowledged.pop_front();
            self.in_flight -= len;
            self.window = (self.window + len).min(self.network.window_max());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has each flow send as many bytes, all at the same time; tells when the last one arrives.
    fn transfer_by(flows: &mut [Flow], at: Duration, bytes: u64) -> Duration {
        let mut link = Link::default();
        let mut arrival = at;
        let mut open: Vec<_> = flows.iter_mut().map(|flow| (at, bytes, flow)).collect();
        while let Some(next) = (0..open.len()).min_by_key(|&index| open[index].0) {
            let (now, left, flow) = &mut open[next];
            let len = (*left).min(u64::from(SEGMENT_LEN));
            match flow.send(&mut link, *now, len) {
                Ok((sent, arrives)) => {
                    (*now, *left) = (sent, *left - len);
                    arrival = arrival.max(arrives);
                }
                Err(room) => *now = room,
            }
            if *left == 0 {
                open.swap_remove(next);
            }
        }
        arrival - at
    }

    fn transfer(network: Network, flow: &mut Flow, at: Duration, bytes: u64) -> Duration {
        let time = transfer_by(std::slice::from_mut(flow), at, bytes);
        assert!(time >= network.rtt / 2);
        time
    }

    #[test]
    fn a_few_bytes_take_half_a_round_trip() {
        let time = transfer(Network::N2, &mut Flow::new(Network::N2), Duration::ZERO, 100);
        assert!((time.as_secs_f64() - 0.010).abs() < 0.0001, "{time:?}");
    }

    #[test]
    fn slow_start_doubles_the_window_each_round_trip() {
        // 10 + 20 + 40 + 80 segments: the last of 150 leaves in the fourth flight.
        let bytes = 150 * u64::from(SEGMENT_LEN);
        let time = transfer(Network::N2, &mut Flow::new(Network::N2), Duration::ZERO, bytes);
        assert!((0.070..0.074).contains(&time.as_secs_f64()), "{time:?}");
    }

    #[test]
    fn a_long_transfer_fills_the_link() {
        let bytes = 100_000_000;
        let time = transfer(Network::N2, &mut Flow::new(Network::N2), Duration::ZERO, bytes);
        // 1.6 s at 500 Mbit/s, and some round trips of slow start.
        assert!((1.6..1.8).contains(&time.as_secs_f64()), "{time:?}");
    }

    #[test]
    fn an_idle_connection_starts_over() {
        let mut flow = Flow::new(Network::N2);
        let warm = transfer(Network::N2, &mut flow, Duration::ZERO, 10_000_000);
        let soon = transfer(Network::N2, &mut flow, warm + Duration::from_millis(50), 1_000_000);
        let late = transfer(Network::N2, &mut flow, warm + Duration::from_secs(9), 1_000_000);
        assert!(late > 2 * soon, "{soon:?} {late:?}");
    }

    #[test]
    fn connections_share_the_link() {
        let mut flows = [Flow::new(Network::N1), Flow::new(Network::N1)];
        let time = transfer_by(&mut flows, Duration::ZERO, 20_000 * u64::from(SEGMENT_LEN));
        let alone = Network::N1.transmission_time(40_000 * u64::from(SEGMENT_LEN));
        assert!(time >= alone, "{time:?} {alone:?}");
        assert!(time < alone * 11 / 10, "{time:?} {alone:?}");
    }

    /// A connection that waits for its window holds nobody up.
    #[test]
    fn windows_of_connections_grow_side_by_side() {
        let bytes = 150 * u64::from(SEGMENT_LEN);
        let alone = transfer(Network::N2, &mut Flow::new(Network::N2), Duration::ZERO, bytes);
        let mut flows = [(); 4].map(|()| Flow::new(Network::N2));
        let four = transfer_by(&mut flows, Duration::ZERO, bytes);
        let on_the_line = Network::N2.transmission_time(3 * bytes);
        assert!(four <= alone + on_the_line, "{four:?} {alone:?}");
    }
}
