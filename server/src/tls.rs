//! TLS with given certificates, or with one of the server's own making that clients pin.

use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

const CERT_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";

/// File beside a self-signed certificate: the SHA-256 of its DER form in hex, which clients pin.
pub const FINGERPRINT_FILE: &str = "fingerprint";

/// No certificate to serve with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or written.
    #[error("can't use the certificate in {path}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not PEM of the right kind.
    #[error("{path} holds no PEM {what}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate could not be made.
    #[error("can't make a self-signed certificate")]
    SelfSigned(#[from] rcgen::Error),
    /// Certificate and key don't fit, or are of an unknown kind.
    #[error("certificate {path} and its key can't be used")]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// How connections are encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Not at all: loopback only.
    Off,
    /// With a certificate chain and its key, both PEM.
    Files {
        /// The chain, leaf first.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// With a certificate that is made once and kept in `dir`.
    SelfSigned {
        /// `DATA/tls`.
        dir: PathBuf,
    },
}

impl Tls {
    /// What `--tls-cert`, `--tls-key` and `--tls-self-signed` ask for.
    pub fn from_flags(
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
        self_signed: bool,
        data_dir: &Path,
    ) -> Result<Self, &'static str> {
        match (cert, key, self_signed) {
            (None, None, false) => Ok(Self::Off),
            (None, None, true) => Ok(Self::SelfSigned { dir: data_dir.join("tls") }),
            (Some(cert), Some(key), false) => Ok(Self::Files { cert, key }),
            (_, _, true) => Err("--tls-self-signed excludes --tls-cert and --tls-key"),
            (_, _, false) => Err("--tls-cert and --tls-key go together"),
        }
    }

    /// The configuration to serve with; none for [`Tls::Off`]. Makes a self-signed certificate
    /// where there is none yet, and logs its fingerprint.
    pub fn server_config(&self) -> Result<Option<Arc<ServerConfig>>, TlsError> {
        let (cert_path, key_path) = match self {
            Self::Off => return Ok(None),
            Self::Files { cert, key } => (cert.clone(), key.clone()),
            Self::SelfSigned { dir } => {
                let fingerprint = self_signed(dir)?;
                tracing::info!(
                    tls.fingerprint = fingerprint,
                    "serving with a self-signed certificate"
                );
                (dir.join(CERT_FILE), dir.join(KEY_FILE))
            }
        };
        install_provider();
        let pem = |path: &Path, what| {
            let path = path.to_owned();
            move |source| TlsError::Pem { path, what, source }
        };
        let chain: Vec<_> = CertificateDer::pem_file_iter(&cert_path)
            .and_then(Iterator::collect)
            .map_err(pem(&cert_path, "certificate"))?;
        let key = PrivateKeyDer::from_pem_file(&key_path).map_err(pem(&key_path, "private key"))?;
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|source| TlsError::Unusable { path: cert_path, source })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Some(Arc::new(config)))
    }

    /// The fingerprint that clients pin, in hex: of the self-signed certificate, made if need be.
    pub fn fingerprint(&self) -> Result<Option<String>, TlsError> {
        match self {
            Self::Off | Self::Files { .. } => Ok(None),
            Self::SelfSigned { dir } => self_signed(dir).map(Some),
        }
    }
}

/// Makes aws-lc-rs the process's cryptography, once.
pub fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Another crate of this process may have been first; any provider will do.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

/// Makes the certificate in `dir` unless it is there; returns its fingerprint.
fn self_signed(dir: &Path) -> Result<String, TlsError> {
    let io = |source| TlsError::Io { path: dir.to_owned(), source };
    let fingerprint_path = dir.join(FINGERPRINT_FILE);
    if !fingerprint_path.exists() {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names)?;
        let fingerprint = hex::encode(Sha256::digest(made.cert.der()));
        let parent = dir.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(io)?;
        // Whole or not at all: made aside, then renamed. A process that came first wins, since a
        // directory can't be renamed over one with files in it.
        let private = std::fs::Permissions::from_mode(0o700);
        let aside = tempfile::Builder::new()
            .prefix(".tls-")
            .permissions(private)
            .tempdir_in(parent)
            .map_err(io)?;
        for (name, text) in [
            (CERT_FILE, made.cert.pem()),
            (KEY_FILE, made.signing_key.serialize_pem()),
            (FINGERPRINT_FILE, format!("{fingerprint}\n")),
        ] {
            let path = aside.path().join(name);
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            let mut file = options.open(&path).map_err(io)?;
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        }
        if let Err(error) = std::fs::rename(aside.path(), dir)
            && !fingerprint_path.exists()
        {
            return Err(io(error));
        }
    }
    let text = fs::read_to_string(&fingerprint_path).map_err(io)?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_self_signed_certificate_is_made_once() {
        let data = tempfile::tempdir().unwrap();
        let tls = Tls::SelfSigned { dir: data.path().join("tls") };
        let first = tls.fingerprint().unwrap().unwrap();
        assert!(tls.server_config().unwrap().is_some());
        assert_eq!(tls.fingerprint().unwrap().unwrap(), first);
        assert_eq!(first.len(), 64);
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 1, "nothing is left aside");
        for (path, mode) in [("tls", 0o700), ("tls/key.pem", 0o600)] {
            let metadata = fs::metadata(data.path().join(path)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
        }
    }

    #[test]
    fn a_file_that_is_no_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let cert = dir.path().join("cert.pem");
        fs::write(&cert, "nonsense").unwrap();
        let error = Tls::Files { cert: cert.clone(), key: cert }.server_config().unwrap_err();
        assert!(error.to_string().contains("cert.pem"), "{error}");
    }
}
