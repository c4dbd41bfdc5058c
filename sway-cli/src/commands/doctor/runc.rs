//! runc's versions and their known holes.

use std::fmt;

/// What keeps jobs from using the holes of an old runc (`docs/security.md`).
pub(super) const AGAINST: &str = "user namespaces with the host's root unmapped, jobs that are \
                                  not root, no terminal, no writable mount that jobs share, no \
                                  mount target of a user's choosing";

/// Major, minor, patch.
type Version = (u32, u32, u32);

/// A hole, and the first version of each line of releases that has it closed; later lines have.
const HOLES: [(&str, &[Version]); 5] = [
    ("CVE-2024-21626", &[(1, 1, 12)]),
    ("CVE-2024-45310", &[(1, 1, 14), (1, 2, 0)]),
    ("CVE-2025-31133", &[(1, 2, 8), (1, 3, 3), (1, 4, 0)]),
    ("CVE-2025-52565", &[(1, 2, 8), (1, 3, 3), (1, 4, 0)]),
    ("CVE-2025-52881", &[(1, 2, 8), (1, 3, 3), (1, 4, 0)]),
];

/// What Debian 12 closed in its 1.1.5 without a new number.
const DEBIAN_12_CLOSED: [&str; 1] = ["CVE-2024-21626"];

/// A version of runc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Runc {
    version: Version,
    text: String,
    /// A release candidate lacks what its release has.
    candidate: bool,
    debian_12: bool,
}

impl Runc {
    /// From the answer of `runc --version`.
    pub(super) fn parse(answer: &str) -> Option<Self> {
        let text = answer.lines().find_map(|line| line.strip_prefix("runc version "))?.trim();
        let mut numbers = text.splitn(3, '.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        let rest = numbers.next()?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some(Self {
            version: (major, minor, rest[..end].parse().ok()?),
            text: text.to_owned(),
            candidate: rest[end..].starts_with("-rc"),
            debian_12: text.starts_with("1.1.5+ds1") && answer.contains("+deb12u"),
        })
    }

    /// The holes that it has.
    pub(super) fn open(&self) -> Vec<&'static str> {
        HOLES
            .into_iter()
            .filter(|(name, closed)| {
                let by_debian = self.debian_12 && DEBIAN_12_CLOSED.contains(name);
                !self.has_closed(closed) && !by_debian
            })
            .map(|(name, _)| name)
            .collect()
    }

    fn has_closed(&self, closed: &[Version]) -> bool {
        let (major, minor, patch) = self.version;
        let line = closed.iter().find(|first| (first.0, first.1) == (major, minor));
        match line {
            Some(first) => patch > first.2 || (patch == first.2 && !self.candidate),
            None => closed.iter().all(|first| (first.0, first.1) < (major, minor)),
        }
    }
}

impl fmt::Display for Runc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(answer: &str) -> Vec<&'static str> {
        Runc::parse(answer).unwrap().open()
    }

    #[test]
    fn debian_12_has_closed_one_hole_of_five() {
        let answer = "runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\nspec: 1.0.2-dev\n";
        assert_eq!(
            open(answer),
            ["CVE-2024-45310", "CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"]
        );
        assert_eq!(open("runc version 1.1.5\ncommit: v1.1.5-0\n").len(), 5);
    }

    #[test]
    fn each_line_of_releases_closes_holes_at_its_own_number() {
        assert_eq!(open("runc version 1.1.12").len(), 4);
        assert_eq!(open("runc version 1.1.15").len(), 3);
        assert_eq!(open("runc version 1.2.7").len(), 3);
        assert!(open("runc version 1.2.8").is_empty());
        assert_eq!(open("runc version 1.3.2").len(), 3);
        assert!(open("runc version 1.3.3").is_empty());
        assert_eq!(open("runc version 1.4.0-rc.1").len(), 3);
        assert!(open("runc version 1.4.0").is_empty());
        assert!(open("runc version 2.0.0").is_empty());
    }

    #[test]
    fn another_program_is_not_runc() {
        assert_eq!(Runc::parse("crun version 1.8.1"), None);
        assert_eq!(Runc::parse("runc version unknown"), None);
    }
}
