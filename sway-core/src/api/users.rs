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

/// Code of the refusal of a pass that is right for another server (HTTP 401).
pub const PASS_REFUSED: &str = "pass_refused";

/// A pass to be: what shows the fileserver whom the worker takes the caller for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPass {
    /// What for, at most what the token is for; all of that where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Scopes>,
}

/// A pass.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct MadePass {
    /// To be sent to the fileserver as a bearer token (`docs/format.md`).
    pub pass: String,
    /// Whom it speaks for.
    pub user: UserName,
    /// What for.
    pub scopes: Scopes,
    /// For how many seconds.
    pub expires_in_s: u64,
}

impl std::fmt::Debug for MadePass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadePass")
            .field("user", &self.user)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

/// Whether a secret is a user's token, which only the worker knows: no other server must be shown
/// it. The operator's are any text.
pub fn is_of_user(secret: &str) -> bool {
    let rest = secret.strip_prefix("sway_").and_then(|rest| rest.split_once('_'));
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    rest.is_some_and(|(id, random)| is_hex(id) && is_hex(random))
}

#[cfg(test)]
mod tests {
    use super::is_of_user;

    #[test]
    fn a_users_token_is_told_from_the_operators() {
        assert!(is_of_user("sway_3f9a01b2c3d4_00ff"));
        for other in ["", "secret", "sway_", "sway__", "sway_3f_", "sway_zz_00", "3f9a01b2c3d4"] {
            assert!(!is_of_user(other), "{other}");
        }
    }
}
