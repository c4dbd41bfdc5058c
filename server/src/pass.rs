//! Passes: how a fileserver, which has no list of users, knows whom a worker takes a caller for.
//!
//! A worker signs who somebody is, what for, at which fileserver and until when; the fileserver
//! checks that with the worker's public key and asks nobody. A pass lasts minutes: a revoked token
//! gets no new one, and the last one ends by itself. `docs/format.md` has the bytes. There is one
//! algorithm (Ed25519) and no field that names one.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fs_err as fs;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use sway_core::access::Scopes;
use sway_core::name::UserName;

use crate::guard::{Authority, Identity, WrongToken};
use crate::token::{Token, TokenError, hash_of, secret_file};

/// Name of the file in a worker's data directory that has the key which signs.
pub const PASS_KEY_FILE: &str = "pass-key";

/// And of the one that fileservers are told of.
pub const PUBLIC_KEY_FILE: &str = "pass-key.pub";

/// For how long a pass is made.
pub const PASS_LIFETIME: Duration = Duration::from_secs(300);

/// Passes that were made for longer are refused, whoever signed them.
const LIFETIME_MAX_S: u64 = 900;

/// How far the clocks of worker and fileserver may be apart.
const SKEW_S: u64 = 60;

/// What each pass begins with; the number is the version. Its signature covers it.
const PREFIX: &str = "sway-pass-1.";

/// Passes whose signature is known to be good.
const OPENED_MAX: usize = 1024;

/// The longest pass, in bytes.
const PASS_LEN_MAX: usize = 2048;

/// A key that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file with the key that signs.
    #[error(transparent)]
    Secret(#[from] TokenError),
    /// Something else than a key.
    #[error("{0} is no key of a worker (expected 64 hex digits, or a file that has them)")]
    Malformed(String),
    /// A file with a public key.
    #[error("can't use the key file {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What a pass says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Who shows it.
    pub user: UserName,
    /// What for.
    pub scopes: Scopes,
    /// To whom: the id of the fileserver.
    pub audience: String,
    /// The public id of the token that it was made for.
    pub token: String,
    /// Since when, in seconds since 1970.
    pub issued_at: u64,
    /// Until when, likewise.
    pub expires_at: u64,
}

/// What signs a worker's passes.
pub struct PassKey {
    pair: Ed25519KeyPair,
}

impl fmt::Debug for PassKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PassKey").field(&self.public()).finish()
    }
}

impl PassKey {
    /// The key of a worker's data directory; it is made if there is none. Its public part lies
    /// beside it, for whoever sets up a fileserver.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, KeyError> {
        let path = data_dir.join(PASS_KEY_FILE);
        let text = secret_file(data_dir, &path)?;
        let malformed = || KeyError::Malformed(path.display().to_string());
        let seed: [u8; 32] = bytes_of(&text).ok_or_else(malformed)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| malformed())?;
        let key = Self { pair };
        let path = data_dir.join(PUBLIC_KEY_FILE);
        key.tell(data_dir, &path).map_err(|source| KeyError::Io { path, source })?;
        Ok(key)
    }

    fn tell(&self, data_dir: &Path, path: &Path) -> std::io::Result<()> {
        let text = format!("{}\n", self.public());
        if fs::read_to_string(path).is_ok_and(|known| known == text) {
            return Ok(());
        }
        let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|error| error.error)
    }

    /// What checks passes of this key.
    pub fn public(&self) -> PublicKey {
        let bytes = self.pair.public_key().as_ref().try_into().expect("it has 32 bytes");
        PublicKey::from_bytes(bytes).expect("the library made it")
    }

    /// A pass that says this.
    pub fn sign(&self, claims: &Claims) -> String {
        let json = serde_json::to_vec(claims).expect("plain data");
        let mut pass = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json));
        let signature = self.pair.sign(pass.as_bytes());
        pass.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut pass);
        pass
    }

    /// A pass from now on, for [`PASS_LIFETIME`].
    pub fn make(&self, user: UserName, scopes: Scopes, audience: String, token: String) -> String {
        let issued_at = now();
        let expires_at = issued_at + PASS_LIFETIME.as_secs();
        self.sign(&Claims { user, scopes, audience, token, issued_at, expires_at })
    }
}

/// What checks a worker's passes. As text, 64 hex digits.
#[derive(Clone)]
pub struct PublicKey {
    key: ParsedPublicKey,
    bytes: [u8; 32],
}

impl PublicKey {
    fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        let key = ParsedPublicKey::new(&ED25519, bytes).ok()?;
        Some(Self { key, bytes })
    }

    /// The key itself, or the path of a file that has it.
    pub fn of_text_or_file(text: &str) -> Result<Self, KeyError> {
        if let Ok(key) = text.parse() {
            return Ok(key);
        }
        let path = PathBuf::from(text);
        match fs::read_to_string(&path) {
            Ok(content) => content.trim().parse().map_err(|_| KeyError::Malformed(text.to_owned())),
            Err(source) => Err(KeyError::Io { path, source }),
        }
    }

    /// What `pass` says, if this key signed it.
    fn open(&self, pass: &str) -> Option<Claims> {
        if pass.len() > PASS_LEN_MAX {
            return None;
        }
        let (signed, signature) = pass.rsplit_once('.')?;
        let claims = signed.strip_prefix(PREFIX)?;
        // Strict: of all texts that could mean these bytes, one is taken.
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.key.verify_sig(signed.as_bytes(), &signature).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let malformed = || KeyError::Malformed(text.chars().take(80).collect());
        bytes_of(text).and_then(Self::from_bytes).ok_or_else(malformed)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// Lets in the operator of a data directory, and whoever has a pass.
#[derive(Debug)]
pub struct PassGate {
    operator: Token,
    audience: String,
    workers: Vec<PublicKey>,
    /// What passes say whose signature was found good, by their SHA-256: a worker shows one in
    /// every request. Their times are looked at each time.
    opened: Cache<[u8; 32], Arc<Claims>>,
}

impl PassGate {
    /// A gate of the data directory with the token `operator` and the id `audience`, which
    /// believes the owners of the keys `workers`.
    pub fn new(operator: Token, audience: String, workers: Vec<PublicKey>) -> Self {
        Self { operator, audience, workers, opened: Cache::new(OPENED_MAX) }
    }

    fn open(&self, pass: &str) -> Option<Arc<Claims>> {
        let key = hash_of(pass);
        if let Some(known) = self.opened.get(&key) {
            return Some(known);
        }
        let claims = Arc::new(self.workers.iter().find_map(|key| key.open(pass))?);
        self.opened.insert(key, Arc::clone(&claims));
        Some(claims)
    }

    fn identify_at(&self, pass: &str, now: u64) -> Result<Identity, WrongToken> {
        let claims = self.open(pass).ok_or(WrongToken::Unsigned)?;
        if claims.audience != self.audience {
            return Err(WrongToken::Elsewhere);
        }
        let (issued_at, expires_at) = (claims.issued_at, claims.expires_at);
        let lifetime = expires_at.checked_sub(issued_at);
        let is_well_made = lifetime.is_some_and(|lifetime| lifetime <= LIFETIME_MAX_S);
        if !is_well_made || issued_at > now.saturating_add(SKEW_S) {
            return Err(WrongToken::Unsigned);
        }
        if expires_at <= now {
            return Err(WrongToken::Expired);
        }
        let token = Some(claims.token.as_str().into());
        Ok(Identity { user: claims.user.clone(), scopes: claims.scopes, token })
    }
}

impl Authority for PassGate {
    fn identify(&self, secret: &str) -> Result<Identity, WrongToken> {
        if secret.starts_with(PREFIX) {
            self.identify_at(secret, now())
        } else {
            self.operator.identify(secret)
        }
    }
}

fn bytes_of(text: &str) -> Option<[u8; 32]> {
    hex::decode(text).ok()?.try_into().ok()
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sway_core::access::{Role, Scope};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn key() -> PassKey {
        PassKey { pair: Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap() }
    }

    fn claims() -> Claims {
        Claims {
            user: "ada@example.org".parse().unwrap(),
            scopes: Scopes::of(&[Scope::Read, Scope::Export]),
            audience: "here".to_owned(),
            token: "3f9a01b2c3d4".to_owned(),
            issued_at: NOW,
            expires_at: NOW + 300,
        }
    }

    fn gate(workers: &[&PassKey]) -> PassGate {
        let operator = Token::parse("operators").unwrap();
        PassGate::new(operator, "here".to_owned(), workers.iter().map(|key| key.public()).collect())
    }

    #[test]
    fn a_pass_says_who_shows_it_and_what_for() {
        let gate = gate(&[&key()]);
        let identity = gate.identify_at(&key().sign(&claims()), NOW).unwrap();
        assert_eq!(identity.user.as_ref(), "ada@example.org");
        assert_eq!(identity.scopes, Scopes::of(&[Scope::Read, Scope::Export]));
        assert_eq!(identity.token.as_deref(), Some("3f9a01b2c3d4"));
        assert!(!identity.is_operator());
        // Made now, it is taken now.
        let (user, scopes) = ("ada".parse().unwrap(), Role::Owner.scopes());
        let pass = key().make(user, scopes, "here".to_owned(), "1".to_owned());
        assert_eq!(gate.identify(&pass).unwrap().scopes, scopes);
        assert!(pass.len() < PASS_LEN_MAX);
    }

    #[test]
    fn the_operators_token_is_taken_as_before() {
        let gate = gate(&[]);
        assert_eq!(gate.identify("operators"), Ok(Identity::operator()));
        assert_eq!(gate.identify("wrong"), Err(WrongToken::Unknown));
        assert_eq!(gate.identify("sway_3f9a01b2c3d4_00"), Err(WrongToken::Unknown));
    }

    #[test]
    fn a_pass_of_an_unknown_worker_opens_nothing() {
        let other = PassKey { pair: Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap() };
        let pass = other.sign(&claims());
        assert_eq!(gate(&[&key()]).identify_at(&pass, NOW), Err(WrongToken::Unsigned));
        assert_eq!(gate(&[]).identify_at(&pass, NOW), Err(WrongToken::Unsigned));
        // Of two workers, each is known by its own key.
        assert!(gate(&[&key(), &other]).identify_at(&pass, NOW).is_ok());
    }

    #[test]
    fn a_pass_for_another_fileserver_opens_nothing() {
        let pass = key().sign(&Claims { audience: "there".to_owned(), ..claims() });
        assert_eq!(gate(&[&key()]).identify_at(&pass, NOW), Err(WrongToken::Elsewhere));
        let pass = key().sign(&Claims { audience: String::new(), ..claims() });
        assert_eq!(gate(&[&key()]).identify_at(&pass, NOW), Err(WrongToken::Elsewhere));
    }

    #[test]
    fn a_pass_ends_with_its_time() {
        let gate = gate(&[&key()]);
        let pass = key().sign(&claims());
        assert!(gate.identify_at(&pass, NOW + 299).is_ok());
        for later in [NOW + 300, NOW + 301, u64::MAX] {
            assert_eq!(gate.identify_at(&pass, later), Err(WrongToken::Expired), "{later}");
        }
        // The worker's clock may be a little ahead, not much.
        assert!(gate.identify_at(&pass, NOW - SKEW_S).is_ok());
        assert_eq!(gate.identify_at(&pass, NOW - SKEW_S - 1), Err(WrongToken::Unsigned));
        // One that would last for long is none, nor one that ends before it begins.
        for expires_at in [NOW + LIFETIME_MAX_S + 1, u64::MAX, NOW - 1, 0] {
            let pass = key().sign(&Claims { expires_at, ..claims() });
            assert_eq!(gate.identify_at(&pass, NOW), Err(WrongToken::Unsigned), "{expires_at}");
        }
    }

    /// What a key signs, whatever it says.
    fn signed(key: &PassKey, prefix: &str, claims: &[u8]) -> String {
        let text = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(claims));
        let signature = key.pair.sign(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    #[test]
    fn what_is_signed_but_no_pass_opens_nothing() {
        let gate = gate(&[&key()]);
        let good = serde_json::to_string(&claims()).unwrap();
        assert!(gate.identify_at(&signed(&key(), PREFIX, good.as_bytes()), NOW).is_ok());
        for bad in [
            "",
            "{}",
            "null",
            &good.replace("\"user\"", "\"User\""),
            &good.replacen('{', "{\"admin\":true,", 1),
            &good.replacen('{', "{\"user\":\"bob\",", 1),
            &good.replace("\"export\"", "\"everything\""),
            &good.replace("ada@example.org", "../ada"),
            &format!("{good}{good}"),
            &good.replace("here", &"x".repeat(PASS_LEN_MAX)),
        ] {
            let pass = signed(&key(), PREFIX, bad.as_bytes());
            assert_eq!(gate.identify_at(&pass, NOW), Err(WrongToken::Unsigned), "{bad}");
        }
        for prefix in ["", "sway-pass-2.", "sway-pass-1", "sway-pass-1..", "x.sway-pass-1."] {
            let pass = signed(&key(), prefix, good.as_bytes());
            assert_eq!(gate.identify_at(&pass, NOW), Err(WrongToken::Unsigned), "{prefix}");
        }
    }

    #[test]
    fn a_cut_pass_opens_nothing() {
        let gate = gate(&[&key()]);
        let pass = key().sign(&claims());
        for len in 0..pass.len() {
            assert!(gate.identify_at(&pass[..len], NOW).is_err(), "{len}");
            assert!(gate.identify_at(&pass[pass.len() - len..], NOW).is_err(), "{len}");
        }
        for longer in [format!("{pass}A"), format!("{pass}="), format!("{pass}.")] {
            assert!(gate.identify_at(&longer, NOW).is_err(), "{longer}");
        }
    }

    #[test]
    fn any_flipped_bit_makes_a_pass_worthless() {
        let gate = gate(&[&key()]);
        let pass = key().sign(&claims());
        assert!(gate.identify_at(&pass, NOW).is_ok());
        for at in 0..pass.len() {
            for bit in 0..7 {
                let mut bytes = pass.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let Ok(changed) = String::from_utf8(bytes) else { continue };
                assert!(gate.identify_at(&changed, NOW).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_changed_byte_makes_a_pass_worthless(
            at in any::<prop::sample::Index>(),
            byte in 0x20u8..0x7f,
            seconds in 0u64..300,
        ) {
            let pass = key().sign(&claims());
            let at = at.index(pass.len());
            prop_assume!(pass.as_bytes()[at] != byte);
            let mut bytes = pass.into_bytes();
            bytes[at] = byte;
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert!(gate(&[&key()]).identify_at(&changed, NOW + seconds).is_err());
        }

        #[test]
        fn no_other_text_is_a_pass(text in "\\PC{0,200}") {
            let gate = gate(&[&key()]);
            prop_assert!(gate.identify_at(&text, NOW).is_err());
            let begun = [PREFIX, &text].concat();
            prop_assert!(gate.identify_at(&begun, NOW).is_err());
        }
    }

    #[test]
    fn a_key_is_made_once_and_tells_its_public_part() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("worker");
        let key = PassKey::load_or_create(&data).unwrap();
        let again = PassKey::load_or_create(&data).unwrap();
        assert_eq!(key.public().to_string(), again.public().to_string());
        let mode = fs::metadata(data.join(PASS_KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let told = data.join(PUBLIC_KEY_FILE);
        let read = PublicKey::of_text_or_file(told.to_str().unwrap()).unwrap();
        assert_eq!(read.to_string(), key.public().to_string());
        let typed = PublicKey::of_text_or_file(&key.public().to_string()).unwrap();
        assert_eq!(typed.to_string(), key.public().to_string());
        let secret = fs::read_to_string(data.join(PASS_KEY_FILE)).unwrap();
        assert!(!format!("{key:?}").contains(secret.trim()));
        assert_ne!(secret.trim(), key.public().to_string());
        for bad in ["", "00", "/nowhere/at/all", &"0".repeat(63)] {
            assert!(PublicKey::of_text_or_file(bad).is_err(), "{bad}");
        }
        fs::write(data.join(PASS_KEY_FILE), "not a key").unwrap();
        assert!(matches!(PassKey::load_or_create(&data), Err(KeyError::Malformed(_))));
    }
}
