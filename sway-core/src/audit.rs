//! The audit: who did what to which job, each entry vouching for all before it.
//!
//! An entry's hash is [`seal`]'s over its fields and the hash of the entry before. Whoever changes,
//! removes or moves one breaks the chain at that place; an end that was cut off is found by whoever
//! has noted the [`Head`] of a longer chain.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::seal::seal;

/// What the first entry has for the hash of the one before.
pub const ORIGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What stands where there is nothing to say.
pub const NOTHING: &str = "-";

/// The actor of what the worker does by itself; no user has such a name.
pub const WORKER: &str = "(worker)";

/// One entry. Texts are as they were stored, since the hash is over them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// From 1, without gaps.
    pub seq: i64,
    /// When, RFC 3339.
    pub at: String,
    /// Who: a user, or `(worker)`.
    pub actor: String,
    /// Id of the token that was shown, or `-`.
    pub token: String,
    /// Address that it came from, or `-`.
    pub peer: String,
    /// What was done: `submitted`, `approved`, `rejected`, `cancelled`, `started`, `ended`,
    /// `user_added`, …
    pub action: String,
    /// To which job, or `-`.
    pub job: String,
    /// More about it, as the text of a JSON object.
    pub detail: String,
    /// Hash of the entry before.
    pub previous: String,
    /// Hash of this entry: SHA-256 in hex.
    pub hash: String,
}

impl AuditEntry {
    /// The hash that these fields have.
    pub fn computed_hash(&self) -> String {
        let seq = self.seq.to_string();
        let fields = [
            ("seq", seq.as_str()),
            ("at", &self.at),
            ("actor", &self.actor),
            ("token", &self.token),
            ("peer", &self.peer),
            ("action", &self.action),
            ("job", &self.job),
            ("detail", &self.detail),
            ("previous", &self.previous),
        ];
        seal("sway audit 1", &fields.map(|(name, value)| (name, Some(value.as_bytes()))))
    }
}

/// Where a chain ends: as text `SEQ:HASH`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Head {
    /// Number of its last entry; 0 where it has none.
    pub seq: i64,
    /// That entry's hash.
    pub hash: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { seq: 0, hash: ORIGIN.to_owned() }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

/// A text that is no [`Head`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not the head of an audit (expected SEQ:HASH): {0:?}")]
pub struct HeadError(String);

impl FromStr for Head {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        let bad = || HeadError(text.chars().take(100).collect());
        let (seq, hash) = text.split_once(':').ok_or_else(bad)?;
        let seq = seq.parse().ok().filter(|seq| *seq >= 0).ok_or_else(bad)?;
        let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hash { Ok(Self { seq, hash: hash.to_ascii_lowercase() }) } else { Err(bad()) }
    }
}

/// Where a chain is broken, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, ToSchema)]
#[error("audit entry {seq}: {reason}")]
pub struct AuditFault {
    /// The first entry that is not as it was written, or is missing.
    pub seq: i64,
    /// What is wrong with it.
    pub reason: String,
}

/// Follows a chain from its beginning, entry by entry.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    head: Head,
    noted: Option<Head>,
}

impl Verifier {
    /// One that also expects the chain to go through `noted`.
    pub fn new(noted: Option<Head>) -> Self {
        Self { head: Head::default(), noted }
    }

    /// Where the entries so far end.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The next entry.
    pub fn push(&mut self, entry: &AuditEntry) -> Result<(), AuditFault> {
        let expected = self.head.seq + 1;
        let fault = |reason: String| Err(AuditFault { seq: expected, reason });
        if entry.seq != expected {
            return fault(format!("missing; {} stands in its place", entry.seq));
        }
        if entry.previous != self.head.hash {
            return fault("it does not follow the entry before it".to_owned());
        }
        if entry.computed_hash() != entry.hash {
            return fault("its fields are not those that were hashed".to_owned());
        }
        self.head = Head { seq: entry.seq, hash: entry.hash.clone() };
        match &self.noted {
            Some(noted) if noted.seq == entry.seq && noted.hash != entry.hash => {
                fault("it is not the one that was noted".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// After the last entry: where the chain ends.
    pub fn end(self) -> Result<Head, AuditFault> {
        match self.noted {
            Some(noted) if noted.seq > self.head.seq => Err(AuditFault {
                seq: self.head.seq + 1,
                reason: format!("missing, with all up to {}, which was noted", noted.seq),
            }),
            _ => Ok(self.head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(len: i64) -> Vec<AuditEntry> {
        let mut previous = ORIGIN.to_owned();
        let entry = |seq| {
            let mut entry = AuditEntry {
                seq,
                at: format!("2026-11-21T20:00:{seq:02}.000Z"),
                actor: "ada".to_owned(),
                token: NOTHING.to_owned(),
                peer: "127.0.0.1".to_owned(),
                action: "approved".to_owned(),
                job: format!("job{seq}"),
                detail: "{}".to_owned(),
                previous: previous.clone(),
                hash: String::new(),
            };
            entry.hash = entry.computed_hash();
            previous.clone_from(&entry.hash);
            entry
        };
        (1..=len).map(entry).collect()
    }

    fn verified(entries: &[AuditEntry], noted: Option<Head>) -> Result<Head, AuditFault> {
        let mut verifier = Verifier::new(noted);
        entries.iter().try_for_each(|entry| verifier.push(entry))?;
        verifier.end()
    }

    #[test]
    fn an_edited_a_removed_and_a_moved_entry_are_found_where_they_are() {
        let chain = chain(6);
        let head = verified(&chain, None).unwrap();
        assert_eq!(head.seq, 6);
        let found = |change: &dyn Fn(&mut Vec<AuditEntry>)| {
            let mut entries = chain.clone();
            change(&mut entries);
            verified(&entries, None).map_err(|fault| fault.seq)
        };
        let edits: [fn(&mut AuditEntry); 8] = [
            |entry| entry.at.push('0'),
            |entry| entry.actor = "eve".to_owned(),
            |entry| entry.token = "t".to_owned(),
            |entry| entry.peer.clear(),
            |entry| entry.action = "rejected".to_owned(),
            |entry| entry.job = "job9".to_owned(),
            |entry| entry.detail = "{ }".to_owned(),
            |entry| entry.hash = ORIGIN.to_owned(),
        ];
        for edit in edits {
            assert_eq!(found(&|entries| edit(&mut entries[2])), Err(3));
        }
        // One who knows how to hash, too: the next one gives it away.
        let rehashed = |entries: &mut Vec<AuditEntry>| {
            entries[2].actor = "eve".to_owned();
            entries[2].hash = entries[2].computed_hash();
        };
        assert_eq!(found(&rehashed), Err(4));
        assert_eq!(found(&|entries| drop(entries.remove(2))), Err(3));
        assert_eq!(found(&|entries| drop(entries.remove(0))), Err(1));
        assert_eq!(found(&|entries| entries.swap(1, 4)), Err(2));
        let renumbered = |entries: &mut Vec<AuditEntry>| {
            entries.swap(1, 2);
            (entries[1].seq, entries[2].seq) = (2, 3);
        };
        assert_eq!(found(&renumbered), Err(2));
    }

    #[test]
    fn an_end_that_was_cut_off_is_missed_by_who_noted_the_head() {
        let chain = chain(6);
        let head = verified(&chain, None).unwrap();
        assert_eq!(head.to_string().parse(), Ok(head.clone()));
        assert_eq!(verified(&chain[..4], None).unwrap().seq, 4, "nobody can tell from the rest");
        assert_eq!(verified(&chain[..4], Some(head.clone())).unwrap_err().seq, 5);
        assert_eq!(verified(&chain, Some(head.clone())), Ok(head.clone()));
        // A chain that was made anew from some entry on is sound, and not the one that was noted.
        let mut forged = chain;
        let mut previous = forged[2].hash.clone();
        for entry in &mut forged[3..] {
            entry.actor = "eve".to_owned();
            entry.previous.clone_from(&previous);
            entry.hash = entry.computed_hash();
            previous.clone_from(&entry.hash);
        }
        assert!(verified(&forged, None).is_ok());
        assert_eq!(verified(&forged, Some(head)).unwrap_err().seq, 6);
        for bad in ["", "6", "6:x", "-1:0", ":"] {
            assert!(bad.parse::<Head>().is_err(), "{bad}");
        }
    }
}
