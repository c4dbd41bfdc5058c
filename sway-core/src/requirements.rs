//! What a job's `requirements.txt` may say: packages by name, and nothing else.
//!
//! pip's files can do more. They can name indexes, addresses, folders and other files, ask for source
//! distributions, and expand variables; each of these would have something of the submitter's choice
//! fetched, read or run before anybody has approved the job. So the grammar is a list of what is
//! good (PEP 508 without addresses, and hashes), and everything else is refused with its line.

use std::iter::Peekable;
use std::str::Chars;

/// Where a job's packages are named: at the top of its folder.
pub const FILE: &str = "requirements.txt";

/// Bytes of the file.
const LEN_MAX: usize = 64 << 10;

/// Packages that it names.
const REQUIREMENTS_MAX: usize = 500;

/// What stands between a name and a version; longer ones first.
const COMPARISONS: [&str; 8] = ["===", "==", "~=", "!=", "<=", ">=", "<", ">"];

/// A file that asks for something else than packages by name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequirementsError {
    /// Not for people to read.
    #[error("it is not text of at most {LEN_MAX} bytes with at most {REQUIREMENTS_MAX} packages")]
    Size,
    /// A line.
    #[error("line {line}: {reason}: packages are asked for by name and version, as in numpy>=1.26")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// The requirements of a file, one for each package, without comments. None where it asks for
/// nothing.
pub fn parse(content: &[u8]) -> Result<Vec<String>, RequirementsError> {
    let text = std::str::from_utf8(content).ok().filter(|text| text.len() <= LEN_MAX);
    let text = text.ok_or(RequirementsError::Size)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut requirements = Vec::new();
    // A line that ends with a backslash goes on with the next one.
    let (mut joined, mut first) = (String::new(), 0);
    for (number, line) in (1..).zip(text.lines()) {
        if joined.is_empty() {
            first = number;
        }
        match line.strip_suffix('\\') {
            Some(begun) => {
                joined.push_str(begun);
                joined.push(' ');
                continue;
            }
            None => joined.push_str(line),
        }
        let whole = std::mem::take(&mut joined);
        let requirement = without_comment(&whole).trim();
        if !requirement.is_empty() {
            check(requirement).map_err(|reason| RequirementsError::Line { line: first, reason })?;
            requirements.push(requirement.to_owned());
        }
    }
    if !joined.is_empty() {
        let reason = "it goes on, and nothing follows";
        return Err(RequirementsError::Line { line: first, reason });
    }
    match requirements.len() {
        0..=REQUIREMENTS_MAX => Ok(requirements),
        _ => Err(RequirementsError::Size),
    }
}

/// A comment begins the line, or has a space before it.
fn without_comment(line: &str) -> &str {
    let is_start = |at: usize| line[..at].chars().next_back().is_none_or(char::is_whitespace);
    let comment = line.match_indices('#').find(|(at, _)| is_start(*at));
    comment.map_or(line, |(at, _)| &line[..at])
}

fn check(requirement: &str) -> Result<(), &'static str> {
    if requirement.starts_with('-') {
        return Err("it is an option");
    }
    let (requirement, hashes) = match requirement.split_once(" --") {
        Some((requirement, hashes)) => (requirement, Some(hashes)),
        None => (requirement, None),
    };
    for hash in hashes.into_iter().flat_map(|hashes| hashes.split(" --")) {
        let is_hash = hash.trim().strip_prefix("hash=").and_then(|hash| hash.split_once(':'));
        let is_plain =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if !is_hash.is_some_and(|(name, hex)| is_plain(name) && is_plain(hex)) {
            return Err("it has an option");
        }
    }
    let (requirement, marker) = match requirement.split_once(';') {
        Some((requirement, marker)) => (requirement, Some(marker)),
        None => (requirement, None),
    };
    let of_marker = |c: char| c.is_ascii_alphanumeric() || " _.'\"()<>=!~,-".contains(c);
    if !marker.is_none_or(|marker| marker.chars().all(of_marker)) {
        return Err("its condition has other letters than conditions have");
    }
    let mut rest = requirement.chars().peekable();
    if name(&mut rest).is_none() {
        return Err("it begins with no package's name");
    }
    spaces(&mut rest);
    if rest.next_if_eq(&'[').is_some() {
        loop {
            spaces(&mut rest);
            name(&mut rest).ok_or("between [ and ] are names")?;
            spaces(&mut rest);
            match rest.next() {
                Some(',') => {}
                Some(']') => break,
                _ => return Err("its [ has no ]"),
            }
        }
    }
    let rest: String = rest.collect();
    let versions = rest.trim();
    let inner = versions.strip_prefix('(').and_then(|inner| inner.strip_suffix(')'));
    let versions = inner.unwrap_or(versions);
    if versions.is_empty() {
        return Ok(());
    }
    let of_version = |c: char| c.is_ascii_alphanumeric() || ".*+!_-".contains(c);
    let is_version = |version: &str| {
        let comparison = COMPARISONS.iter().find_map(|sign| version.trim().strip_prefix(sign));
        let version = comparison.map(str::trim);
        version.is_some_and(|version| !version.is_empty() && version.chars().all(of_version))
    };
    match versions.split(',').all(is_version) {
        true => Ok(()),
        false => Err("what follows the name is no version"),
    }
}

/// Letters and digits, with `.`, `_` and `-` between them.
fn name(rest: &mut Peekable<Chars<'_>>) -> Option<()> {
    let mut last = rest.next_if(char::is_ascii_alphanumeric)?;
    while let Some(next) = rest.next_if(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)) {
        last = next;
    }
    last.is_ascii_alphanumeric().then_some(())
}

fn spaces(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if_eq(&' ').is_some() {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packages_are_asked_for_by_name_version_and_hash() {
        let text = "\u{feff}# what it needs\nnumpy\nscipy >= 1.10, <2  # not 2\r\n\n\
            requests[socks,use-chardet]~=2.31 ; python_version < \"3.13\" and os_name == 'posix'\n\
            zope.interface (==5.0)\npinned==1.0 \\\n    --hash=sha256:00ff \\\n    --hash=sha512:ab\n";
        let expected = [
            "numpy",
            "scipy >= 1.10, <2",
            "requests[socks,use-chardet]~=2.31 ; python_version < \"3.13\" and os_name == 'posix'",
            "zope.interface (==5.0)",
            "pinned==1.0      --hash=sha256:00ff      --hash=sha512:ab",
        ];
        assert_eq!(parse(text.as_bytes()).unwrap(), expected);
        assert_eq!(parse(b"# nothing\n\n").unwrap(), [""; 0]);
    }

    #[test]
    fn what_would_fetch_read_or_run_something_else_is_refused_with_its_line() {
        for bad in [
            "-e .",
            "--index-url https://example.org/simple",
            "--no-binary :all:",
            "-r other.txt",
            "numpy --no-binary :all:",
            "numpy --hash=sha256:00 --pre",
            "numpy --config-settings=x=y",
            "numpy @ https://example.org/numpy.whl",
            "https://example.org/numpy.whl",
            "git+https://example.org/x.git",
            "./local",
            "../local",
            "/code/local",
            "local/",
            "file:local",
            "~/local",
            "numpy==${VERSION}",
            "numpy==1 ; os_name == $X",
            "numpy 1.0",
            "numpy==",
            "numpy[",
            "numpy[]",
            ".numpy",
            "numpy-",
            "numpy; x\\",
        ] {
            let text = format!("good\n{bad}\n");
            let refused = parse(text.as_bytes()).unwrap_err();
            assert!(matches!(refused, RequirementsError::Line { line: 2, .. }), "{bad}: {refused}");
        }
        assert_eq!(parse(b"numpy\xff"), Err(RequirementsError::Size));
        assert_eq!(parse("a\n".repeat(501).as_bytes()), Err(RequirementsError::Size));
        assert_eq!(parse(" ".repeat(LEN_MAX + 1).as_bytes()), Err(RequirementsError::Size));
    }

    proptest! {
        #[test]
        fn nothing_that_is_taken_can_be_an_option_a_path_or_an_address(text in "[ -~\n]{0,60}") {
            for requirement in parse(text.as_bytes()).unwrap_or_default() {
                prop_assert!(!requirement.starts_with(['-', '.', '/']));
                prop_assert!(!requirement.contains(['/', '\\', '$', '@', '\n']));
                let options = requirement.matches(" --").count();
                prop_assert_eq!(options, requirement.matches(" --hash=").count());
            }
        }
    }
}
