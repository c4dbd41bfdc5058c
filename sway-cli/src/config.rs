//! Settings: flags, else the environment, else the config file, else defaults.
//!
//! The only reader of the environment. [`Settings::resolve`] is pure; [`Settings::load`] gives
//! it what is there. The token is looked for where a server on this machine leaves it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sway_core::name::{NameError, UserName};
use url::Url;

use crate::cli::GlobalOptions;

/// Where `sway up` listens unless told otherwise, and where the CLI looks for it.
pub(crate) const FILESERVER_LISTEN: &str = "127.0.0.1:8443";
/// Likewise, the worker.
pub(crate) const WORKER_LISTEN: &str = "127.0.0.1:8444";

/// A setting that can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The config file is there and can't be read.
    #[error("can't read the config file {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The config file is not what it should be.
    #[error("the config file {path} is not valid")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// An address that is none.
    #[error(
        "{origin} is not a URL of a server: {value:?} (expected such as http://127.0.0.1:8444)"
    )]
    Url {
        /// Flag, variable or key.
        origin: String,
        /// What it says.
        value: String,
    },
    /// A user name that is none.
    #[error("{origin} can't be used")]
    User {
        /// Flag, variable or key.
        origin: String,
        /// Why.
        source: NameError,
    },
    /// Nobody says who is asking.
    #[error("can't tell your user name: set SWAY_USERNAME")]
    NoUser,
    /// A variable holds something that is not text.
    #[error("the environment variable {0} is not valid UTF-8")]
    NotText(&'static str),
    /// There is no home directory to keep data in.
    #[error("can't tell where Sway's data is: set SWAY_DATA (HOME is not set)")]
    NoData,
    /// The token's file is there and can't be read.
    #[error("can't read the token in {path}")]
    Token {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The variables that count, as they were when the program started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<&'static str, String>);

/// All that Sway reads. `SERVER_URL` is an old name of `FILESERVER_URL`, `LOG_LEVEL` another of
/// `SWAY_LOG`.
const VARIABLES: [&str; 14] = [
    "FILESERVER_URL",
    "SERVER_URL",
    "WORKER_URL",
    "SWAY_USERNAME",
    "SWAY_TOKEN",
    "SWAY_DATA",
    "SWAY_CONFIG",
    "SWAY_LOG",
    "LOG_LEVEL",
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "USER",
    "LOGNAME",
];

impl Environment {
    fn read() -> Result<Self, ConfigError> {
        let mut known = BTreeMap::new();
        for name in VARIABLES {
            if let Some(value) = variable(name) {
                let value = value.into_string().map_err(|_| ConfigError::NotText(name))?;
                known.insert(name, value);
            }
        }
        Ok(Self(known))
    }

    /// An empty variable counts as none.
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The first of several that is set, with its name.
    fn first(&self, names: &[&'static str]) -> Option<(&'static str, &str)> {
        names.iter().find_map(|&name| Some((name, self.get(name)?)))
    }
}

/// One variable of the caller's environment; for `--env NAME`.
#[expect(clippy::disallowed_methods, reason = "this is config.rs")]
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// `config.toml`. Every key may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    /// As `FILESERVER_URL`.
    fileserver_url: Option<String>,
    /// As `WORKER_URL`.
    worker_url: Option<String>,
    /// As `SWAY_USERNAME`.
    username: Option<String>,
    /// As `SWAY_TOKEN`.
    token: Option<String>,
    /// As `SWAY_DATA`.
    data: Option<PathBuf>,
    /// As `SWAY_LOG`.
    log: Option<String>,
    /// SHA-256 fingerprint of the fileserver's certificate, for self-signed ones.
    fileserver_pin: Option<String>,
    /// Likewise, the worker's.
    worker_pin: Option<String>,
}

/// Who is at the keyboard, as far as the system says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Login {
    /// Effective user id 0.
    pub(crate) root: bool,
    /// The user's name in the system's list.
    pub(crate) name: Option<String>,
}

impl Login {
    /// Asks the system.
    pub(crate) fn current() -> Self {
        let uid = rustix::process::geteuid();
        let list = fs_err::read_to_string("/etc/passwd").unwrap_or_default();
        Self { root: uid.is_root(), name: name_of(&list, uid.as_raw()) }
    }
}

/// The name of a user id in the text of `/etc/passwd`.
fn name_of(list: &str, uid: u32) -> Option<String> {
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    })
}

/// Checked values for every command.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Where the fileserver is.
    pub(crate) fileserver_url: Url,
    /// Where the worker is.
    pub(crate) worker_url: Url,
    /// Whether the command line names it: then it is everybody's.
    pub(crate) worker_is_named: bool,
    /// Who is asking.
    pub(crate) user: UserName,
    /// Where Sway's data is on this machine, whether or not something is there.
    pub(crate) data: PathBuf,
    /// Log filter.
    pub(crate) log: Option<String>,
    /// The fileserver's certificate, if it is pinned.
    pub(crate) fileserver_pin: Option<String>,
    /// The worker's.
    pub(crate) worker_pin: Option<String>,
    token_given: Option<String>,
}

impl Settings {
    /// Reads environment and config file.
    pub(crate) fn load(options: &GlobalOptions) -> Result<Self, ConfigError> {
        let environment = Environment::read()?;
        let file = match config_path(options, &environment) {
            Some((path, must_exist)) => read_config(&path, must_exist)?,
            None => ConfigFile::default(),
        };
        Self::resolve(options, &environment, &file, &Login::current())
    }

    /// What holds: flags, else the environment, else the file, else defaults.
    fn resolve(
        options: &GlobalOptions,
        environment: &Environment,
        file: &ConfigFile,
        login: &Login,
    ) -> Result<Self, ConfigError> {
        let fileserver_url = first([
            options.fileserver.as_deref().map(|value| ("--fileserver", value)),
            environment.first(&["FILESERVER_URL", "SERVER_URL"]),
            file.fileserver_url.as_deref().map(|value| ("fileserver_url in config.toml", value)),
        ]);
        let worker_url = first([
            options.worker.as_deref().map(|value| ("--worker", value)),
            environment.first(&["WORKER_URL"]),
            file.worker_url.as_deref().map(|value| ("worker_url in config.toml", value)),
        ]);
        let user = first([
            options.username.as_deref().map(|value| ("--username", value)),
            environment.first(&["SWAY_USERNAME"]),
            file.username.as_deref().map(|value| ("username in config.toml", value)),
            login.name.as_deref().map(|value| ("your login name", value)),
            environment.first(&["USER", "LOGNAME"]),
        ]);
        let (origin, user) = user.ok_or(ConfigError::NoUser)?;
        let user = user
            .parse()
            .map_err(|source| ConfigError::User { origin: origin.to_owned(), source })?;
        let data = match environment.get("SWAY_DATA") {
            Some(data) => PathBuf::from(data),
            None => match &file.data {
                Some(data) => data.clone(),
                None => default_data(environment, login).ok_or(ConfigError::NoData)?,
            },
        };
        let log = environment.first(&["SWAY_LOG", "LOG_LEVEL"]).map(|(_, value)| value.to_owned());
        Ok(Self {
            fileserver_url: server_url(fileserver_url, FILESERVER_LISTEN)?,
            worker_url: server_url(worker_url, WORKER_LISTEN)?,
            worker_is_named: options.worker.is_some(),
            user,
            data,
            log: log.or_else(|| file.log.clone()),
            fileserver_pin: file.fileserver_pin.clone(),
            worker_pin: file.worker_pin.clone(),
            token_given: environment
                .get("SWAY_TOKEN")
                .map(str::to_owned)
                .or_else(|| file.token.clone()),
        })
    }

    /// The token that was given by hand.
    pub(crate) fn token_given(&self) -> Option<&str> {
        self.token_given.as_deref()
    }

    /// Where the servers on this machine leave their token.
    pub(crate) fn token_path(&self) -> PathBuf {
        self.data.join("token")
    }

    /// The token to show to servers: the given one, else the one in the data directory. None
    /// where there is none, or where only another user may read it.
    pub(crate) fn token(&self) -> Result<Option<String>, ConfigError> {
        if let Some(token) = &self.token_given {
            return Ok(Some(token.trim().to_owned()));
        }
        let path = self.token_path();
        match fs_err::read_to_string(&path) {
            Ok(token) => Ok(Some(token.trim().to_owned())),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::PermissionDenied
                ) =>
            {
                Ok(None)
            }
            Err(source) => Err(ConfigError::Token { path, source }),
        }
    }
}

fn first<const N: usize>(
    choices: [Option<(&'static str, &str)>; N],
) -> Option<(&'static str, String)> {
    let (origin, value) = choices.into_iter().flatten().next()?;
    Some((origin, value.to_owned()))
}

fn server_url(
    choice: Option<(&'static str, String)>,
    default_address: &str,
) -> Result<Url, ConfigError> {
    let (origin, value) =
        choice.unwrap_or_else(|| ("the default", format!("http://{default_address}")));
    server_url_of(origin, &value)
}

/// The address of a server, as `origin` says it.
pub(crate) fn server_url_of(origin: &str, value: &str) -> Result<Url, ConfigError> {
    let url = Url::parse(value).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https") && url.host().is_some() && url.query().is_none()
    });
    url.ok_or_else(|| ConfigError::Url { origin: origin.to_owned(), value: value.to_owned() })
}

/// `/var/lib/sway` for root, else below the home directory.
fn default_data(environment: &Environment, login: &Login) -> Option<PathBuf> {
    if login.root {
        return Some(PathBuf::from("/var/lib/sway"));
    }
    match environment.get("XDG_DATA_HOME") {
        Some(base) => Some(Path::new(base).join("sway")),
        None => Some(Path::new(environment.get("HOME")?).join(".local/share/sway")),
    }
}

/// The config file, and whether it was asked for by name.
fn config_path(options: &GlobalOptions, environment: &Environment) -> Option<(PathBuf, bool)> {
    if let Some(path) = &options.config {
        return Some((path.clone(), true));
    }
    if let Some(path) = environment.get("SWAY_CONFIG") {
        return Some((PathBuf::from(path), true));
    }
    let base = match environment.get("XDG_CONFIG_HOME") {
        Some(base) => PathBuf::from(base),
        None => Path::new(environment.get("HOME")?).join(".config"),
    };
    Some((base.join("sway/config.toml"), false))
}

fn read_config(path: &Path, must_exist: bool) -> Result<ConfigFile, ConfigError> {
    let text = match fs_err::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
            return Ok(ConfigFile::default());
        }
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    toml::from_str(&text)
        .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&'static str, &str)]) -> Environment {
        Environment(pairs.iter().map(|&(name, value)| (name, value.to_owned())).collect())
    }

    fn ada() -> Login {
        Login { root: false, name: Some("ada".to_owned()) }
    }

    fn resolve(
        options: &GlobalOptions,
        pairs: &[(&'static str, &str)],
        file: &str,
    ) -> Result<Settings, ConfigError> {
        let file = toml::from_str(file).unwrap();
        let home = [("HOME", "/home/ada")];
        let pairs: Vec<_> = home.iter().chain(pairs).copied().collect();
        Settings::resolve(options, &environment(&pairs), &file, &ada())
    }

    #[test]
    fn flags_win_over_the_environment_which_wins_over_the_file() {
        let file = "worker_url = 'http://file:1'\nusername = 'file'\ndata = '/file'";
        let env = [("WORKER_URL", "http://env:1"), ("SWAY_USERNAME", "env"), ("SWAY_DATA", "/env")];
        let flags = GlobalOptions {
            worker: Some("http://flag:1".to_owned()),
            username: Some("flag".to_owned()),
            ..GlobalOptions::default()
        };
        let shown = |settings: Settings| {
            (settings.worker_url.to_string(), settings.user.to_string(), settings.data)
        };
        let none = GlobalOptions::default();
        assert_eq!(
            shown(resolve(&flags, &env, file).unwrap()),
            ("http://flag:1/".to_owned(), "flag".to_owned(), "/env".into())
        );
        assert_eq!(
            shown(resolve(&none, &env, file).unwrap()),
            ("http://env:1/".to_owned(), "env".to_owned(), "/env".into())
        );
        assert_eq!(
            shown(resolve(&none, &[], file).unwrap()),
            ("http://file:1/".to_owned(), "file".to_owned(), "/file".into())
        );
        assert_eq!(
            shown(resolve(&none, &[], "").unwrap()),
            (
                "http://127.0.0.1:8444/".to_owned(),
                "ada".to_owned(),
                "/home/ada/.local/share/sway".into()
            )
        );
    }

    #[test]
    fn the_old_name_of_the_fileservers_url_still_counts() {
        let options = GlobalOptions::default();
        let url = |env: &[_]| resolve(&options, env, "").unwrap().fileserver_url.to_string();
        assert_eq!(url(&[("SERVER_URL", "http://old:1")]), "http://old:1/");
        assert_eq!(
            url(&[("SERVER_URL", "http://old:1"), ("FILESERVER_URL", "http://new:1")]),
            "http://new:1/"
        );
        assert_eq!(url(&[("FILESERVER_URL", "")]), "http://127.0.0.1:8443/");
    }

    #[test]
    fn a_bad_value_is_told_with_its_origin() {
        let options = GlobalOptions::default();
        let error = |env: &[_], file| resolve(&options, env, file).err().unwrap().to_string();
        assert!(error(&[("WORKER_URL", "localhost")], "").starts_with("WORKER_URL is not a URL"));
        assert!(error(&[("WORKER_URL", "ftp://x")], "").contains("\"ftp://x\""));
        assert!(error(&[("SWAY_USERNAME", "a b")], "").starts_with("SWAY_USERNAME"));
        assert!(error(&[], "username = '../x'").starts_with("username in config.toml"));
    }

    #[test]
    fn root_keeps_its_data_in_var_lib() {
        let login = Login { root: true, name: Some("root".to_owned()) };
        let settings = Settings::resolve(
            &GlobalOptions::default(),
            &environment(&[("HOME", "/root")]),
            &ConfigFile::default(),
            &login,
        );
        assert_eq!(settings.unwrap().data, Path::new("/var/lib/sway"));
    }

    #[test]
    fn a_login_name_is_found_by_its_number() {
        let list = "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(name_of(list, 1000).as_deref(), Some("ada"));
        assert_eq!(name_of(list, 7), None);
    }

    #[test]
    fn the_token_comes_from_the_environment_else_from_the_data_directory() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().to_str().unwrap();
        let options = GlobalOptions::default();
        let token = |env: &[_]| resolve(&options, env, "").unwrap().token().unwrap();
        assert_eq!(token(&[("SWAY_DATA", path)]), None);
        fs_err::write(data.path().join("token"), "abc\n").unwrap();
        assert_eq!(token(&[("SWAY_DATA", path)]).as_deref(), Some("abc"));
        assert_eq!(token(&[("SWAY_DATA", path), ("SWAY_TOKEN", "xyz")]).as_deref(), Some("xyz"));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(toml::from_str::<ConfigFile>("worker = 'x'").is_err());
    }
}
