//! What a caller may do: scopes, which a token has, and roles, which say what scopes a user's
//! tokens may have.
//!
//! Who somebody is, is decided where a request arrives; whose objects they reach, where those are
//! looked up. Here is only the order between roles and scopes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that names no scope or role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Not a scope.
    #[error("not a scope: {0:?} (there are {all})", all = Scopes::ALL)]
    Scope(String),
    /// Not a role.
    #[error("not a role: {0:?} (there are submitter, owner and operator)")]
    Role(String),
}

/// One thing that a token may be for.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Run jobs at once.
    Run,
    /// Ask an owner to run a job.
    Submit,
    /// See one's own jobs, runs, outputs and images.
    Read,
    /// Store images and datasets under one's own name.
    Export,
    /// Decide on jobs that others ask one to run.
    Approve,
    /// Everything of everybody: their jobs, their names, users and tokens.
    Admin,
    /// What machines do: read any blob by its digest, and the figures of a server.
    Worker,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Run,
        Self::Submit,
        Self::Read,
        Self::Export,
        Self::Approve,
        Self::Admin,
        Self::Worker,
    ];

    /// The name in columns, JSON and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Export => "export",
            Self::Approve => "approve",
            Self::Admin => "admin",
            Self::Worker => "worker",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, AccessError> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| AccessError::Scope(text.chars().take(40).collect()))
    }
}

/// A set of scopes. As text `run,read`, in JSON an array of names.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Vec<Scope>", from = "Vec<Scope>")]
pub struct Scopes(u8);

impl Scopes {
    /// None.
    pub const NONE: Self = Self(0);

    /// Every one.
    pub const ALL: Self = Self::of(&Scope::ALL);

    /// These.
    pub const fn of(scopes: &[Scope]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < scopes.len() {
            bits |= scopes[at].bit();
            at += 1;
        }
        Self(bits)
    }

    /// Whether `scope` is one of them.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether all of them are among `others`.
    pub const fn is_subset(self, others: Self) -> bool {
        self.0 & !others.0 == 0
    }

    /// Those that are in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// One after the other, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |&scope| self.contains(scope))
    }
}

impl From<Vec<Scope>> for Scopes {
    fn from(scopes: Vec<Scope>) -> Self {
        Self::of(&scopes)
    }
}

impl From<Scopes> for Vec<Scope> {
    fn from(scopes: Scopes) -> Self {
        scopes.iter().collect()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, scope) in self.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl FromStr for Scopes {
    type Err = AccessError;

    /// Names with commas or spaces between them.
    fn from_str(text: &str) -> Result<Self, AccessError> {
        let names = text.split([',', ' ']).filter(|name| !name.is_empty());
        Ok(Self::from(names.map(str::parse).collect::<Result<Vec<Scope>, _>>()?))
    }
}

impl utoipa::PartialSchema for Scopes {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        Vec::<Scope>::schema()
    }
}

impl utoipa::ToSchema for Scopes {
    fn schemas(all: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>)>) {
        <Vec<Scope> as utoipa::ToSchema>::schemas(all);
    }
}

/// What a user is to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Asks owners to run jobs, and sees their results.
    Submitter,
    /// Runs jobs, stores images and datasets, decides on the jobs of submitters.
    Owner,
    /// Does everything, in everybody's name.
    Operator,
}

impl Role {
    /// All of them, the one with the fewest scopes first.
    pub const ALL: [Self; 3] = [Self::Submitter, Self::Owner, Self::Operator];

    /// What a token of such a user may have at most.
    pub const fn scopes(self) -> Scopes {
        match self {
            Self::Submitter => Scopes::of(&[Scope::Submit, Scope::Read]),
            Self::Owner => {
                Scopes::of(&[Scope::Run, Scope::Submit, Scope::Read, Scope::Export, Scope::Approve])
            }
            Self::Operator => Scopes::ALL,
        }
    }

    /// The name in columns, JSON and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitter => "submitter",
            Self::Owner => "owner",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, AccessError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| AccessError::Role(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some() -> impl Strategy<Value = Vec<Scope>> {
        prop::collection::vec(prop::sample::select(Scope::ALL.to_vec()), 0..12)
    }

    proptest! {
        #[test]
        fn scopes_read_back_from_text_and_json(list in some()) {
            let scopes = Scopes::of(&list);
            prop_assert_eq!(scopes.to_string().parse::<Scopes>(), Ok(scopes));
            let json = serde_json::to_string(&scopes).unwrap();
            prop_assert_eq!(serde_json::from_str::<Scopes>(&json).unwrap(), scopes);
        }

        #[test]
        fn scopes_are_a_set(list in some(), other in some()) {
            let (scopes, others) = (Scopes::of(&list), Scopes::of(&other));
            for scope in Scope::ALL {
                prop_assert_eq!(scopes.contains(scope), list.contains(&scope));
            }
            let is_subset = list.iter().all(|scope| other.contains(scope));
            prop_assert_eq!(scopes.is_subset(others), is_subset);
            let both = scopes.intersection(others);
            prop_assert!(both.is_subset(scopes) && both.is_subset(others));
            prop_assert_eq!(scopes.is_subset(others), both == scopes);
            prop_assert_eq!(scopes.is_empty(), list.is_empty());
        }

        #[test]
        fn no_other_word_is_a_scope_or_role(word in "[a-z]{0,12}") {
            let known = Scope::ALL.iter().any(|scope| scope.as_str() == word);
            prop_assert_eq!(word.parse::<Scope>().is_ok(), known);
            let known = Role::ALL.iter().any(|role| role.as_str() == word);
            prop_assert_eq!(word.parse::<Role>().is_ok(), known);
        }
    }

    #[test]
    fn each_role_may_do_what_the_one_before_may() {
        for pair in Role::ALL.windows(2) {
            assert!(pair[0].scopes().is_subset(pair[1].scopes()));
        }
        assert_eq!(Role::Submitter.scopes().to_string(), "submit,read");
        assert_eq!(Role::Owner.scopes().to_string(), "run,submit,read,export,approve");
        assert_eq!(Role::Operator.scopes(), Scopes::ALL);
    }

    #[test]
    fn an_unknown_scope_is_told_with_those_that_there_are() {
        let error = "run,fly".parse::<Scopes>().unwrap_err().to_string();
        assert!(error.contains("\"fly\"") && error.contains("run,submit,read"), "{error}");
        assert_eq!("run, read".parse(), Ok(Scopes::of(&[Scope::Read, Scope::Run])));
    }
}
