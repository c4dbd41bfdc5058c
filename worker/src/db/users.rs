//! Users and their tokens.

use rusqlite::{Row, params};
use serde_json::json;
use sway_core::api::users::{TokenView, UserView};
use sway_core::name::UserName;

use super::audit::{self, Action, Caller};
use super::{Db, DbError};

/// A token as it is kept.
#[derive(Clone, Debug)]
pub struct TokenRow {
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// All else.
    pub view: TokenView,
}

impl Db {
    /// All users, sorted by name.
    pub async fn users(&self) -> Result<Vec<UserView>, DbError> {
        self.call(|connection| {
            let mut statement = connection
                .prepare("SELECT name, role, created_at, revoked_at FROM users ORDER BY name")?;
            let mut rows = statement.query([])?;
            let mut users = Vec::new();
            while let Some(row) = rows.next()? {
                users.push(UserView {
                    name: parsed(row, "name")?,
                    role: parsed(row, "role")?,
                    created_at: row.get("created_at")?,
                    revoked_at: row.get("revoked_at")?,
                });
            }
            Ok(users)
        })
        .await
    }

    /// All tokens, the oldest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, DbError> {
        self.call(|connection| {
            let mut statement = connection.prepare(
                "SELECT id, hash, username, label, scopes, created_at, expires_at, last_used_at,
                        revoked_at
                 FROM tokens ORDER BY created_at, rowid",
            )?;
            let mut rows = statement.query([])?;
            let mut tokens = Vec::new();
            while let Some(row) = rows.next()? {
                tokens.push(TokenRow {
                    hash: row.get("hash")?,
                    view: TokenView {
                        id: row.get("id")?,
                        user: parsed(row, "username")?,
                        label: row.get("label")?,
                        scopes: parsed(row, "scopes")?,
                        created_at: row.get("created_at")?,
                        expires_at: row.get("expires_at")?,
                        last_used_at: row.get("last_used_at")?,
                        revoked_at: row.get("revoked_at")?,
                    },
                });
            }
            Ok(tokens)
        })
        .await
    }

    /// Writes a user down, in place of what was known before.
    pub async fn put_user(&self, user: UserView, caller: Caller) -> Result<(), DbError> {
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT INTO users (name, role, created_at, revoked_at) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (name) DO UPDATE SET role = excluded.role,
                     created_at = excluded.created_at, revoked_at = excluded.revoked_at",
                params![user.name.as_ref(), user.role.as_str(), user.created_at, user.revoked_at],
            )?;
            let detail = json!({ "user": user.name, "role": user.role });
            audit::append(&transaction, &caller, Action::UserAdded, None, &detail)?;
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Ends a user, and all tokens of it, at `now`.
    pub async fn revoke_user(
        &self,
        name: UserName,
        now: String,
        caller: Caller,
    ) -> Result<(), DbError> {
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let mut ended = 0;
            for end in [
                "UPDATE users SET revoked_at = ?2 WHERE name = ?1 AND revoked_at IS NULL",
                "UPDATE tokens SET revoked_at = ?2 WHERE username = ?1 AND revoked_at IS NULL",
            ] {
                ended += transaction.execute(end, params![name.as_ref(), now])?;
            }
            if ended > 0 {
                let detail = json!({ "user": name });
                audit::append(&transaction, &caller, Action::UserRevoked, None, &detail)?;
            }
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Writes a new token down, and forgets the one of id `instead_of`.
    pub async fn put_token(
        &self,
        token: TokenRow,
        instead_of: Option<String>,
        caller: Caller,
    ) -> Result<(), DbError> {
        self.call(move |connection| {
            let view = token.view;
            let transaction = connection.transaction()?;
            transaction.execute("DELETE FROM tokens WHERE id = ?1", params![instead_of])?;
            transaction.execute(
                "INSERT INTO tokens (id, hash, username, label, scopes, created_at, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    view.id,
                    token.hash,
                    view.user.as_ref(),
                    view.label,
                    view.scopes.to_string(),
                    view.created_at,
                    view.expires_at
                ],
            )?;
            let detail = json!({ "token": view.id, "user": view.user, "scopes": view.scopes });
            audit::append(&transaction, &caller, Action::TokenAdded, None, &detail)?;
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Ends a token at `now`.
    pub async fn revoke_token(
        &self,
        id: String,
        now: String,
        caller: Caller,
    ) -> Result<(), DbError> {
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let end = "UPDATE tokens SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL";
            if transaction.execute(end, params![id, now])? > 0 {
                let detail = json!({ "token": id });
                audit::append(&transaction, &caller, Action::TokenRevoked, None, &detail)?;
            }
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Notes that a token was used at `now`.
    pub async fn note_token_used(&self, id: String, now: String) -> Result<(), DbError> {
        self.call(move |connection| {
            let note = "UPDATE tokens SET last_used_at = ?2 WHERE id = ?1";
            connection.execute(note, params![id, now])?;
            Ok(())
        })
        .await
    }
}

fn parsed<T: std::str::FromStr>(row: &Row<'_>, column: &'static str) -> Result<T, DbError> {
    let value: String = row.get(column)?;
    value.parse().map_err(|_| DbError::Row { column, value })
}
