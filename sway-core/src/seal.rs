//! One hash over named fields, such that no other fields have it.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// SHA-256 of `domain` and all fields in their order, in hex. Every name and value is preceded by
/// its length, so that nothing can move from one field to the next; a field without a value
/// differs from an empty one.
pub fn seal(domain: &str, fields: &[(&str, Option<&[u8]>)]) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    add(domain.as_bytes());
    for (name, value) in fields {
        add(name.as_bytes());
        match value {
            Some(value) => {
                add(&[1]);
                add(value);
            }
            None => add(&[0]),
        }
    }
    hash.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_from_one_field_to_the_next_unseen() {
        let seals = [
            seal("a", &[("x", Some(b"12")), ("y", Some(b"3"))]),
            seal("a", &[("x", Some(b"1")), ("y", Some(b"23"))]),
            seal("a", &[("x", Some(b"123")), ("y", Some(b""))]),
            seal("a", &[("x", Some(b"123")), ("y", None)]),
            seal("a", &[("y", Some(b"3")), ("x", Some(b"12"))]),
            seal("b", &[("x", Some(b"12")), ("y", Some(b"3"))]),
            seal("a", &[("x", Some(b"12"))]),
        ];
        let distinct: std::collections::HashSet<_> = seals.iter().collect();
        assert_eq!(distinct.len(), seals.len());
        assert!(seals.iter().all(|seal| seal.len() == 64));
    }
}
