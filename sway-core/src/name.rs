//! Names that people and programs type: users, images, refs.
//!
//! `[user/]name[:tag][@digest]` names an image; the ref behind it is
//! `images/<user>/<name>:<tag>`, the user percent-encoded. `library` is the user of shared images.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The user that owns images shared by all.
pub const LIBRARY: &str = "library";

/// The tag where none is given.
pub const LATEST: &str = "latest";

const NAME_LEN_MAX: usize = 128;
const REF_LEN_MAX: usize = 1024;

/// A name that breaks its rule.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Not a user name.
    #[error("not a user name: {0:?} (1 to 128 of letters, digits, and . _ - + @)")]
    User(String),
    /// Not an image name.
    #[error(
        "not an image name: {0:?} (expected [user/]name[:tag][@digest]; a name has lower-case \
         letters and digits, joined by single . _ or -)"
    )]
    Image(String),
    /// Not a dataset name.
    #[error(
        "not a dataset name: {0:?} (expected [user/]name; a name has 1 to 128 letters, digits and \
         . _ -, and begins with a letter or digit)"
    )]
    Dataset(String),
    /// Not a ref name.
    #[error("not a ref name: {0:?} (parts of letters, digits and . _ - : % + @, joined by /)")]
    Ref(String),
}

/// Cut for error messages: foreign text can be of any length.
fn excerpt(text: &str) -> String {
    text.chars().take(160).collect()
}

macro_rules! text_type {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
    };
}

/// Describes a name in `OpenAPI` documents.
macro_rules! text_schema {
    ($type:ident, $pattern:expr, $example:literal, $description:literal) => {
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                utoipa::openapi::Object::builder()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some($pattern))
                    .examples([$example])
                    .description(Some($description))
                    .into()
            }
        }
        impl utoipa::ToSchema for $type {}
    };
}
pub(crate) use text_schema;

/// A user: 1 to 128 letters, digits, and `.` `_` `-` `+` `@`, so that e-mail addresses work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

text_type!(UserName);
text_schema!(UserName, "^[A-Za-z0-9._+@-]{1,128}$", "ada", "Not of dots alone.");

impl UserName {
    /// The user of shared images.
    pub fn library() -> Self {
        Self(LIBRARY.to_owned())
    }

    /// As a part of a ref: `+`, `@` and a leading `.` percent-encoded.
    pub fn to_ref_part(&self) -> String {
        let part = self.0.replace('+', "%2B").replace('@', "%40");
        match part.strip_prefix('.') {
            Some(rest) => format!("%2E{rest}"),
            None => part,
        }
    }

    /// Reads back what [`UserName::to_ref_part`] wrote.
    pub fn from_ref_part(part: &str) -> Result<Self, NameError> {
        part.replace("%40", "@").replace("%2B", "+").replace("%2E", ".").parse()
    }
}

impl FromStr for UserName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+@".contains(&byte);
        // `.` and `..` would walk out of a folder that is named by a user.
        if (1..=NAME_LEN_MAX).contains(&text.len())
            && text.bytes().all(known)
            && text.bytes().any(|byte| byte != b'.')
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::User(excerpt(text)))
        }
    }
}

/// `[user/]name[:tag][@digest]` as it was typed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    /// Whose image; where absent the caller's own, then the library's.
    pub user: Option<UserName>,
    /// The name proper.
    pub name: String,
    /// The tag, `latest` where absent.
    pub tag: Option<String>,
    /// The manifest that the name must lead to.
    pub digest: Option<Digest>,
}

text_schema!(
    ImageName,
    concat!(
        "^([A-Za-z0-9._+@-]{1,128}/)?[a-z0-9]+([._-][a-z0-9]+)*",
        "(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@(sha1:)?[0-9a-f]{40})?$"
    ),
    "ada/scipy:1.2",
    "`[user/]name[:tag][@digest]`; without a user the caller's own, then the library's."
);

impl ImageName {
    /// The tag to look for.
    pub fn tag_or_latest(&self) -> &str {
        self.tag.as_deref().unwrap_or(LATEST)
    }

    /// The ref under which `user`'s image of this name is stored.
    pub fn to_ref(&self, user: &UserName) -> RefName {
        let user = self.user.as_ref().unwrap_or(user);
        RefName(format!("images/{}/{}:{}", user.to_ref_part(), self.name, self.tag_or_latest()))
    }

    /// The image that a ref under `images/` names, with its user.
    pub fn from_ref(name: &RefName) -> Option<Self> {
        let (user, rest) = name.0.strip_prefix("images/")?.split_once('/')?;
        let mut image: Self = rest.parse().ok()?;
        image.user = Some(UserName::from_ref_part(user).ok()?);
        Some(image)
    }

    /// Turns a folder's name into an image name: lower case, everything else a dash.
    pub fn from_folder(folder: &str) -> Option<Self> {
        let mut name = String::new();
        for c in folder.chars().map(|c| c.to_ascii_lowercase()).take(NAME_LEN_MAX) {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                name.push(c);
            } else if !name.is_empty() && !name.ends_with('-') {
                name.push('-');
            }
        }
        name.trim_end_matches('-').parse().ok()
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::Image(excerpt(text));
        let (rest, digest) = match text.rsplit_once('@') {
            // A user name may hold an `@` too; a digest holds no `/`.
            Some((rest, digest)) if !digest.contains('/') => {
                let digest = digest.strip_prefix("sha1:").unwrap_or(digest);
                (rest, Some(digest.parse().map_err(|_| bad())?))
            }
            _ => (text, None),
        };
        let (user, rest) = match rest.rsplit_once('/') {
            Some((user, rest)) => (Some(user.parse().map_err(|_| bad())?), rest),
            None => (None, rest),
        };
        let (name, tag) = match rest.split_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (rest, None),
        };
        if !is_image_part(name) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad());
        }
        Ok(Self { user, name: name.to_owned(), tag: tag.map(str::to_owned), digest })
    }
}

impl TryFrom<String> for ImageName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}/")?;
        }
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// OCI distribution spec, one path component: `[a-z0-9]+([._-][a-z0-9]+)*`, here up to 128.
fn is_image_part(text: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&text.len())
        && text.split(['.', '_', '-']).all(|part| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        })
}

/// OCI distribution spec: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
fn is_tag(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_LEN_MAX).contains(&text.len())
        && text.bytes().all(known)
        && !text.starts_with(['.', '-'])
}

/// `[user/]name` of a dataset; the ref behind it is `data/<user>/<name>`, the user
/// percent-encoded. A dataset that nobody named goes by its manifest's digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatasetName {
    /// Whose dataset; where absent the caller's own.
    pub user: Option<UserName>,
    /// The name.
    pub name: String,
}

text_schema!(
    DatasetName,
    "^([A-Za-z0-9._+@-]{1,128}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
    "ada/weather",
    "`[user/]name`; without a user the caller's own."
);

impl DatasetName {
    /// The name that a dataset has by its content.
    pub fn of_digest(digest: Digest) -> Self {
        Self { user: None, name: digest.to_hex() }
    }

    /// The ref of this dataset where `owner` owns it.
    pub fn to_ref(&self, owner: &UserName) -> RefName {
        RefName::of_parts(format!("data/{}/{}", owner.to_ref_part(), self.name))
    }
}

impl FromStr for DatasetName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::Dataset(excerpt(text));
        let (user, name) = match text.rsplit_once('/') {
            Some((user, name)) => (Some(user.parse().map_err(|_| bad())?), name),
            None => (None, text),
        };
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=NAME_LEN_MAX).contains(&name.len())
            && name.bytes().all(known)
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        {
            Ok(Self { user, name: name.to_owned() })
        } else {
            Err(bad())
        }
    }
}

impl TryFrom<String> for DatasetName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<DatasetName> for String {
    fn from(name: DatasetName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{user}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A mutable name on the fileserver, such as `images/ada/scipy:latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefName(String);

text_type!(RefName);

impl RefName {
    /// A name of parts that are good by themselves. Only its length may still be refused, where
    /// it is read back.
    pub(crate) fn of_parts(name: String) -> Self {
        Self(name)
    }
}

/// Refs are sorted as their texts are, so that a range of them can be had by a prefix.
impl Borrow<str> for RefName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for RefName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:%+@".contains(&byte);
        let part_is_good = |part: &str| {
            !part.is_empty()
                && part.len() <= 255
                && !part.starts_with('.')
                && part.bytes().all(known)
        };
        if text.len() <= REF_LEN_MAX && text.split('/').all(part_is_good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Ref(excerpt(text)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn image_names_read_back() {
        let digest = Digest::of(b"");
        for text in [
            "scipy".to_owned(),
            "scipy:1.0".to_owned(),
            "ada/scipy".to_owned(),
            "ada@example.org/scipy:x".to_owned(),
            format!("ada@example.org/scipy:x@{digest}"),
            format!("scipy@{digest}"),
        ] {
            let name: ImageName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for text in [
            "", "/", "a/", "/a", "A", "a..b", "../a", "a:", "a:.x", "a@b", "a\0", "a\nb", "a b",
            "a/b/c", "..", ".", "a:b:c", "-a", "a-", "a/..",
        ] {
            assert!(text.parse::<ImageName>().is_err(), "{text:?}");
        }
        for text in ["", ".", "..", "a/b", "a\0", "a b", "é", &"x".repeat(129)] {
            assert!(text.parse::<UserName>().is_err(), "{text:?}");
        }
        for text in ["", "/a", "a/", "a//b", "a/../b", ".a", "a/.b", "a\0b", "a b"] {
            assert!(text.parse::<RefName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_ref_leads_back_to_its_image() {
        let ada: UserName = "ada+x@example.org".parse().unwrap();
        let name: ImageName = "scipy:1".parse().unwrap();
        let reference = name.to_ref(&ada);
        assert_eq!(reference.as_ref(), "images/ada%2Bx%40example.org/scipy:1");
        assert_eq!(
            ImageName::from_ref(&reference).unwrap().to_string(),
            "ada+x@example.org/scipy:1"
        );
    }

    #[test]
    fn a_dataset_has_a_ref_of_its_owner() {
        let ada: UserName = "ada@example.org".parse().unwrap();
        let name: DatasetName = "bob/Sales-2025.csv".parse().unwrap();
        assert_eq!(name.to_string(), "bob/Sales-2025.csv");
        assert_eq!(name.to_ref(&ada).as_ref(), "data/ada%40example.org/Sales-2025.csv");
        let nameless = DatasetName::of_digest(Digest::of(b""));
        assert_eq!(nameless.to_string().parse::<DatasetName>(), Ok(nameless));
        for text in ["", "/a", "a/", ".a", "-a", "a/b/c", "a b", "a\0", "é", &"x".repeat(129)] {
            assert!(text.parse::<DatasetName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_folder_lends_its_name() {
        assert_eq!(ImageName::from_folder("My App (2)").unwrap().to_string(), "my-app-2");
        assert_eq!(ImageName::from_folder("..."), None);
    }

    proptest! {
        #[test]
        fn every_image_name_makes_a_valid_ref(text in "([a-z.+@]{1,9}/)?[a-z0-9._-]{1,9}(:[a-z0-9.]{1,5})?") {
            if let Ok(name) = text.parse::<ImageName>() {
                let reference = name.to_ref(&UserName::library()).to_string();
                prop_assert!(reference.parse::<RefName>().is_ok(), "{}", reference);
            }
        }
    }
}
