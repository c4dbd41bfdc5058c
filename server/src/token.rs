//! The bearer token of a data directory: whoever can read the directory is its operator.
//!
//! It is made at the first start and asked for also on loopback, where any local process, a page
//! in a browser or a job could otherwise speak.

use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use fs_err as fs;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Name of the file in the data directory.
pub const TOKEN_FILE: &str = "token";

const TOKEN_LEN_MAX: usize = 512;

/// No token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file can't be read or made.
    #[error("no token in {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that no header can carry.
    #[error("the token of {0} is malformed (expected 1 to 512 visible ASCII characters)")]
    Malformed(String),
    /// Others may have read it.
    #[error("token file {path} has mode {mode:03o}: others can read it (chmod 600, or remove it)")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// A secret; never printed.
#[derive(Clone)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// `from_env` (the value of `SWAY_TOKEN`) where it is given and not empty, else the token of
    /// `data_dir`, which is made if there is none, with the directory.
    pub fn load_or_create(data_dir: &Path, from_env: Option<String>) -> Result<Self, TokenError> {
        if let Some(text) = from_env.filter(|text| !text.is_empty()) {
            return Self::parse(&text).ok_or_else(|| TokenError::Malformed("SWAY_TOKEN".into()));
        }
        let path = data_dir.join(TOKEN_FILE);
        let text = secret_file(data_dir, &path)?;
        Self::parse(&text).ok_or_else(|| TokenError::Malformed(path.display().to_string()))
    }

    /// The token of an existing file that only its owner can read.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        Self::parse(&read_secret(path)?)
            .ok_or_else(|| TokenError::Malformed(path.display().to_string()))
    }

    /// A token from its text; none where no header could carry it.
    pub fn parse(text: &str) -> Option<Self> {
        let good = (1..=TOKEN_LEN_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        good.then(|| Self(text.to_owned()))
    }

    /// The secret itself, to be sent and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `other` is this token, in a time that tells nothing about it.
    pub fn matches(&self, other: &str) -> bool {
        hash_of(&self.0).ct_eq(&hash_of(other)).into()
    }
}

/// What is kept of a secret that is not this machine's own: its SHA-256. A secret of 256 random bits
/// needs no slower hash, since nobody can try them.
pub fn hash_of(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// `LEN` bytes of the cryptographic generator, in hex.
///
/// # Panics
/// Where the system has no randomness to give, which no secret can be made without.
pub fn random_hex<const LEN: usize>() -> String {
    let mut bytes = [0; LEN];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.secure_random.fill(&mut bytes).expect("the system gives random bytes");
    hex::encode(bytes)
}

/// What is in a file of `data_dir` that its owner alone can read: 256 random bits in hex, where
/// there is none yet. The directory is made if need be.
pub(crate) fn secret_file(data_dir: &Path, path: &Path) -> Result<String, TokenError> {
    let io = |source| TokenError::Io { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(io)?;
    if !path.exists() {
        create(data_dir, path).map_err(io)?;
    }
    read_secret(path)
}

fn read_secret(path: &Path) -> Result<String, TokenError> {
    let io = |source| TokenError::Io { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TokenError::Exposed { path: path.to_owned(), mode });
    }
    Ok(fs::read_to_string(path).map_err(io)?.trim_end().to_owned())
}

/// Makes the file whole or not at all; a process that came first wins.
fn create(data_dir: &Path, path: &Path) -> io::Result<()> {
    // tempfile makes files with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
    writeln!(file, "{}", random_hex::<32>())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => fs::File::open(data_dir)?.sync_all(),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_only_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let first = Token::load_or_create(&data, None).unwrap();
        let second = Token::load_or_create(&data, Some(String::new())).unwrap();
        assert_eq!(first.expose(), second.expose());
        assert_eq!(first.expose().len(), 64);
        let mode = fs::metadata(data.join(TOKEN_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(format!("{first:?}"), "Token(…)");
    }

    #[test]
    fn processes_that_race_get_one_token() {
        let dir = tempfile::tempdir().unwrap();
        let tokens: Vec<String> = std::thread::scope(|scope| {
            let load = || Token::load_or_create(dir.path(), None).unwrap().expose().to_owned();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(tokens.iter().all(|token| *token == tokens[0]));
    }

    #[test]
    fn the_environment_comes_first_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let token = Token::load_or_create(dir.path(), Some("s3cret".to_owned())).unwrap();
        assert!(token.matches("s3cret"));
        assert!(!token.matches("s3cret "));
        assert!(!token.matches(""));
        assert!(!dir.path().join(TOKEN_FILE).exists());
        assert!(Token::load_or_create(dir.path(), Some("a b".to_owned())).is_err());
    }

    #[test]
    fn a_token_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TOKEN_FILE);
        fs::write(&path, "secret\n").unwrap();
        fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Token::load_or_create(dir.path(), None),
            Err(TokenError::Exposed { mode: 0o644, .. })
        ));
    }
}
