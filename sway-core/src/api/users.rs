//! Users and tokens, as the worker tells of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::{Role, Scopes};
use crate::name::UserName;

/// Who is asking, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Me {
    /// The user that the request speaks for.
    pub user: UserName,
    /// The role of whoever holds the token.
    pub role: Role,
    /// What the token is for.
    pub scopes: Scopes,
    /// Its public id; the operator's, which lies in the data directory, has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A user to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The name.
    pub name: UserName,
    /// The role.
    pub role: Role,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserView {
    /// The name.
    pub name: UserName,
    /// The role.
    pub role: Role,
    /// Since when, RFC 3339.
    pub created_at: String,
    /// Until when, RFC 3339; none while the user may have tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
}

/// `GET /v1/users`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UserList {
    /// Sorted by name.
    pub users: Vec<UserView>,
}

/// A token to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Whose.
    pub user: UserName,
    /// What it is called, such as where it lies: 1 to 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 100)]
    pub label: Option<String>,
    /// What for; all that the user's role allows where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Scopes>,
    /// For how many seconds; until it is revoked where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub expires_in_s: Option<u64>,
}

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Public: names the token and opens nothing.
    pub id: String,
    /// Whose.
    pub user: UserName,
    /// What it is called; empty where nobody said.
    pub label: String,
    /// What for.
    pub scopes: Scopes,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339; none where it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// RFC 3339, to the hour or so; none before it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
    /// RFC 3339; none while it opens something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
}

/// A token with its secret, which is told this once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct MadeToken {
    /// To be sent as a bearer token.
    pub secret: String,
    /// What will be told of it from now on.
    pub token: TokenView,
}

impl std::fmt::Debug for MadeToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeToken").field("token", &self.token).finish_non_exhaustive()
    }
}

/// `GET /v1/tokens`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// The newest first.
    pub tokens: Vec<TokenView>,
}
