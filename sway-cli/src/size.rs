//! Sizes, times and shares as people type them, and as they like to read them.

use std::time::Duration;

/// A value that can't be read.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub(crate) enum QuantityError {
    /// Not a size.
    #[error("{0:?} is not a size: give bytes, or a number with K, M or G, such as 512M")]
    Size(String),
    /// Not a time.
    #[error("{0:?} is not a time: give seconds, such as 30 or 0.5, or a unit, such as 5m")]
    Time(String),
    /// Not a number of CPUs.
    #[error("{0:?} is not a number of CPUs: give one such as 2 or 0.5")]
    Cpus(String),
    /// Not a number of containers.
    #[error("{0:?} is neither off nor a number from 1 to 32")]
    Pool(String),
}

/// Bytes: `1048576`, `512M`, `1.5GiB`. K, M, G and T are powers of 1,024 with or without `iB`
/// or `B`, as in docker's limits.
pub(crate) fn parse_size(text: &str) -> Result<u64, QuantityError> {
    let bad = || QuantityError::Size(text.to_owned());
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(bad);
    }
    let fraction: f64 = number.parse().map_err(|_| bad())?;
    whole_number(fraction * (1_u64 << shift) as f64).ok_or_else(bad)
}

/// Milliseconds: seconds as a number, or with a unit (`90s`, `5m`, `1h30m`). Never zero.
pub(crate) fn parse_time_ms(text: &str) -> Result<u64, QuantityError> {
    let bad = || QuantityError::Time(text.to_owned());
    let ms = match text.parse::<f64>() {
        Ok(seconds) => whole_number((seconds * 1000.0).ceil()).ok_or_else(bad)?,
        Err(_) => {
            let time = humantime::parse_duration(text).map_err(|_| bad())?;
            u64::try_from(time.as_millis()).map_err(|_| bad())?
        }
    };
    if ms == 0 { Err(bad()) } else { Ok(ms) }
}

/// Containers that may wait for jobs: as many as `sway-worker --pool` takes, 0 for `off`.
pub(crate) fn parse_pool(text: &str) -> Result<usize, QuantityError> {
    match text.parse() {
        _ if text == "off" => Ok(0),
        Ok(size @ 1..=32) => Ok(size),
        Ok(_) | Err(_) => Err(QuantityError::Pool(text.to_owned())),
    }
}

/// Thousandths of a CPU. Never zero.
pub(crate) fn parse_cpus_milli(text: &str) -> Result<u32, QuantityError> {
    let bad = || QuantityError::Cpus(text.to_owned());
    let cpus: f64 = text.parse().map_err(|_| bad())?;
    let milli = whole_number((cpus * 1000.0).round()).ok_or_else(bad)?;
    match u32::try_from(milli) {
        Ok(milli) if milli > 0 => Ok(milli),
        _ => Err(bad()),
    }
}

/// `256 MiB`, `1.5 GiB`, `17 B`.
pub(crate) fn show_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    let text = format!("{value:.1}");
    format!("{} {unit}", text.trim_end_matches(".0"))
}

/// `412 ms`, `3.2 s`, `5 min 10 s`.
pub(crate) fn show_time(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        ms @ 1000..60_000 => {
            format!("{} s", format!("{:.1}", ms as f64 / 1000.0).trim_end_matches(".0"))
        }
        ms => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// The integer that a float stands for; none where it has none that is exact enough.
fn whole_number(value: f64) -> Option<u64> {
    // Above 2^53 floats skip integers; nothing here is that large.
    if !(0.0..=9_007_199_254_740_992.0).contains(&value) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked just above"
    )]
    Some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("512M", 512 << 20),
            ("512mb", 512 << 20),
            ("1.5GiB", 1536 << 20),
            ("64 k", 64 << 10),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1.2.3", "lots", "1X", "1e9", "99999999999T", "NaN", "5Mi"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn containers_that_wait_are_a_number_or_off() {
        assert_eq!((parse_pool("off"), parse_pool("1"), parse_pool("32")), (Ok(0), Ok(1), Ok(32)));
        for text in ["0", "33", "on", ""] {
            assert!(parse_pool(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_seconds_unless_they_have_a_unit() {
        for (text, ms) in [("10", 10_000), ("0.5", 500), ("2m", 120_000), ("250ms", 250)] {
            assert_eq!(parse_time_ms(text), Ok(ms), "{text}");
        }
        for text in ["", "0", "-1", "inf", "NaN", "soon", "1e300"] {
            assert!(parse_time_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpus_may_be_shares() {
        assert_eq!(parse_cpus_milli("0.5"), Ok(500));
        assert_eq!(parse_cpus_milli("2"), Ok(2000));
        for text in ["", "0", "-1", "many", "inf", "0.0001"] {
            assert!(parse_cpus_milli(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_short() {
        assert_eq!(show_size(17), "17 B");
        assert_eq!(show_size(256 << 20), "256 MiB");
        assert_eq!(show_size(1536 << 20), "1.5 GiB");
        assert_eq!(show_time(Duration::from_millis(412)), "412 ms");
        assert_eq!(show_time(Duration::from_millis(3210)), "3.2 s");
        assert_eq!(show_time(Duration::from_secs(10)), "10 s");
        assert_eq!(show_time(Duration::from_secs(310)), "5 min 10 s");
    }
}
