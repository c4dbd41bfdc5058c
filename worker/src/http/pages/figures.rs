//! Figures for people: sizes, times, and bars that are drawn to scale.

use maud::{Markup, html};
use sway_core::api::jobs::RunView;

/// `12 KiB`, `3.4 MiB`.
pub(super) fn size(bytes: i64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes.saturating_mul(10) / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    let unit = UNITS[unit];
    match tenths {
        ..100 => format!("{}.{} {unit}", tenths / 10, tenths % 10),
        _ => format!("{} {unit}", tenths / 10),
    }
}

/// `87 ms`, `1.2 s`, `3 min 4 s`.
pub(super) fn time(ms: i64) -> String {
    match ms {
        ..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// A part of a bar: the class that colours it, and its share.
pub(super) type Part = (&'static str, i64);

/// Parts side by side, as long as their shares of `whole`, beside the little that makes the smallest
/// one seen.
pub(super) fn bar(parts: &[Part], whole: i64) -> Markup {
    const WIDTH: i64 = 1000;
    const LEAST: i64 = 6;
    let seen = || parts.iter().filter(|(_, share)| *share > 0);
    let to_share = WIDTH - LEAST * i64::try_from(seen().count()).unwrap_or(0);
    let mut x = 0;
    let placed = seen().map(|&(class, share)| {
        let width = LEAST + share.saturating_mul(to_share) / whole.max(share);
        let at = x;
        x += width;
        (class, at, width)
    });
    html! {
        svg .bar viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true" {
            rect .rail x="0" y="0" width=(WIDTH) height="10" {}
            @for (class, at, width) in placed {
                rect class=(class) x=(at) y="0" width=(width) height="10" {}
            }
        }
    }
}

/// From submission to the end: what took how long.
pub(super) fn timeline(run: &RunView) -> Markup {
    let silent = run.first_output_ms.or(run.duration_ms).unwrap_or_default();
    let rest = run.duration_ms.unwrap_or_default().saturating_sub(silent);
    let first = match run.first_output_ms {
        Some(_) => ("first", "First output", "after the start"),
        None => ("first", "No output", "from start to end"),
    };
    let phases = [
        (("queue", "Queue", "until there was a place"), run.queued_ms),
        (("mount", "Mount", "until the image was there"), run.mount_ms),
        (("start", "Start", "until the program started"), run.start_ms),
        (first, silent),
        (("rest", "End", "from the first output"), rest),
    ];
    let parts = phases.map(|((class, ..), ms)| (class, ms));
    let sum = |parts: &[Part]| parts.iter().map(|(_, ms)| ms).sum::<i64>();
    let (to_output, whole) = (sum(&parts[..4]), sum(&parts));
    html! {
        div .scale {
            span { "To the first output" } span .value { (time(to_output)) }
        }
        (bar(&parts[..4], to_output))
        div .scale {
            span { "To the end" } span .value { (time(whole)) }
        }
        (bar(&parts, whole))
        ol .phases {
            @for ((class, name, what), ms) in phases {
                li {
                    svg .swatch viewBox="0 0 10 10" aria-hidden="true" {
                        rect class=(class) x="0" y="0" width="10" height="10" rx="2" {}
                    }
                    span .phase { (name) " " span .faint { (what) } }
                    span .value { (time(ms)) }
                }
            }
        }
    }
}

/// Where the run's chunks came from.
pub(super) fn caches(run: &RunView) -> Markup {
    let tiers = [
        ("memory", "Memory", run.memory_cache_hits, run.memory_cache_bytes),
        ("disk", "Disk", run.disk_cache_hits, run.disk_cache_bytes),
        ("server", "Fileserver", run.server_fetches, run.bytes_fetched),
    ];
    let most = tiers.iter().map(|tier| tier.3).max().unwrap_or_default();
    html! {
        ul .tiers {
            @for (class, name, chunks, bytes) in tiers {
                li {
                    div .scale {
                        span { (name) " " span .faint { (chunks) @if chunks == 1 { " chunk" } @else { " chunks" } } }
                        span .value { (size(bytes)) }
                    }
                    (bar(&[(class, bytes)], most))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        let sizes = [0, 1023, 1024, 1536, 10 << 20, 256 << 20, 3 << 29, i64::MAX];
        let told = sizes.map(size);
        let expected = ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "10 MiB", "256 MiB", "1.5 GiB"];
        assert_eq!(told[..7], expected);
        assert_eq!(
            [999, 1234, 61_000, 3_660_000].map(time),
            ["999 ms", "1.2 s", "1 min 1 s", "1 h 1 min"]
        );
    }

    #[test]
    fn a_bar_keeps_within_its_width() {
        let drawn = bar(&[("a", 1), ("b", 10_000), ("c", 1), ("d", 0)], 10_002).into_string();
        assert_eq!(drawn.matches("<rect").count(), 4, "{drawn}");
        assert!(drawn.contains("class=\"c\" x=\"993\" y=\"0\" width=\"6\""), "{drawn}");
        assert!(bar(&[("a", 5)], 0).into_string().contains("width=\"1000\""));
    }
}
