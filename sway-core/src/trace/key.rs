//! Which trace: the entry that a job runs, and the ref of its trace.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::TraceError;
use crate::digest::Digest;
use crate::job::Program;
use crate::name::{RefName, UserName};

/// The longest key, in bytes.
const KEY_LEN_MAX: usize = 64;

/// Hex digits of the hash behind a name that had to be altered.
const HASH_LEN: usize = 8;

/// Programs whose first argument says what is run; a version behind the name does not matter.
const INTERPRETERS: [&str; 16] = [
    "python", "pypy", "sh", "bash", "dash", "ash", "zsh", "node", "nodejs", "deno", "perl", "ruby",
    "php", "lua", "Rscript", "julia",
];

/// The entry of a job, as a part of a ref: jobs of one image and one key touch much the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceKey(String);

impl TraceKey {
    /// The image's default trace: of its own command, or of whatever ran first.
    pub fn any() -> Self {
        Self("_".to_owned())
    }

    /// The key of what a job runs: the base name of the script, of the folder's entry, or of the
    /// command, or the handler; of a command that is an interpreter, of the file or module that it is given. A
    /// job that runs the image's own command has the image's default trace.
    pub fn of_program(program: &Program) -> Self {
        match program {
            Program::Script { .. } | Program::Folder { .. } | Program::Handler(_) => {
                Self::of_name(program.filename())
            }
            Program::Command { argv } => match argv.split_first() {
                None => Self::any(),
                Some((program, arguments)) => Self::of_command(program, arguments),
            },
        }
    }

    fn of_command(program: &str, arguments: &[String]) -> Self {
        let program = base_name(program);
        let stem = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        if !INTERPRETERS.contains(&stem) {
            return Self::of_name(program);
        }
        let mut arguments = arguments.iter().map(String::as_str);
        while let Some(argument) = arguments.next() {
            match argument {
                // A program within the arguments has no name.
                "-c" | "-e" => break,
                "-m" => return Self::of_name(arguments.next().unwrap_or(program)),
                option if option.starts_with('-') => {}
                file => return Self::of_name(base_name(file)),
            }
        }
        Self::of_name(program)
    }

    /// A key for any name. One that is no key itself is altered, and told from others that are
    /// altered to the same by a hash.
    fn of_name(name: &str) -> Self {
        let any = Self::any();
        match name.parse() {
            Ok(key) if key != any => key,
            _ => {
                let keep = KEY_LEN_MAX - HASH_LEN - 1;
                let known = name
                    .bytes()
                    .take(keep)
                    .map(|byte| if is_key_byte(byte) { char::from(byte) } else { '-' });
                let mut key: String = known.collect();
                if key.starts_with('.') {
                    key.replace_range(..1, "-");
                }
                let hash = Digest::of(name.as_bytes()).to_hex();
                Self(format!("{key}-{}", &hash[..HASH_LEN]))
            }
        }
    }
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

impl FromStr for TraceKey {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let good = (1..=KEY_LEN_MAX).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(is_key_byte);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(TraceError::Key(text.chars().take(160).collect()))
        }
    }
}

impl fmt::Display for TraceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for TraceKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TraceKey {
    type Error = TraceError;

    fn try_from(text: String) -> Result<Self, TraceError> {
        text.parse()
    }
}

impl From<TraceKey> for String {
    fn from(key: TraceKey) -> Self {
        key.0
    }
}

/// The ref that leads to the bundle of `user`'s trace of an image:
/// `traces/<user>/<manifest>/<key>`, the user percent-encoded.
pub fn trace_ref(user: &UserName, manifest: Digest, key: &TraceKey) -> RefName {
    RefName::of_parts(format!("traces/{}/{manifest}/{key}", user.to_ref_part()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(line: &str) -> String {
        let argv = line.split_whitespace().map(str::to_owned).collect();
        TraceKey::of_program(&Program::Command { argv }).to_string()
    }

    #[test]
    fn a_command_is_known_by_what_it_runs() {
        for (line, key) in [
            ("", "_"),
            ("/usr/bin/convert a.png b.png", "convert"),
            ("python app.py", "app.py"),
            ("/usr/bin/python3.11 -u /srv/app.py --port 80", "app.py"),
            ("python3 -m http.server", "http.server"),
            ("python3 -m", "python3"),
            ("python3 -c pass", "python3"),
            ("sh /entry.sh", "entry.sh"),
            ("node", "node"),
            ("shasum x", "shasum"),
        ] {
            assert_eq!(command(line), key, "{line}");
        }
    }

    #[test]
    fn a_name_that_is_no_key_is_altered_and_stays_itself() {
        let of = |name: &str| TraceKey::of_name(name).to_string();
        assert_eq!(of("my app.py"), "my-app.py-8cd2941f");
        assert_ne!(of("my app.py"), of("my?app.py"));
        assert_ne!(of("_"), "_", "the default trace is not for a script of that name");
        assert!(of(".hidden").starts_with("-hidden-"));
        let long = of(&"x".repeat(300));
        assert_eq!(long.len(), 64);
        assert_ne!(long, of(&"x".repeat(301)));
    }

    proptest! {
        #[test]
        fn every_name_makes_a_key_and_a_ref(name in any::<String>(), user in "[a-z.+@_-]{1,9}") {
            let key = TraceKey::of_name(&name);
            prop_assert_eq!(key.to_string().parse::<TraceKey>().unwrap(), key.clone());
            if let Ok(user) = user.parse::<UserName>() {
                let _ = trace_ref(&user, Digest::of(b""), &key);
            }
        }
    }
}
