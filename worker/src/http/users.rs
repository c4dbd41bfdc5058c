//! `/v1/me`, `/v1/users`, `/v1/tokens`: who may come in.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sway_core::api::users::{
    MadePass, MadeToken, Me, NewPass, NewToken, NewUser, TokenList, TokenView, UserList, UserView,
};
use sway_core::name::UserName;
use sway_server::error::{Json, Path, ServerError};
use sway_server::guard::Identity;

use super::App;
use super::error::no_pass;
use super::openapi::{Changed, FromFileserver, Guarded, Named};
use crate::db::Caller;

/// Who is asking, and what for.
#[utoipa::path(get, path = "/v1/me", tag = "users",
    responses((status = 200, description = "As the worker sees it.", body = Me), Guarded))]
pub(super) async fn me(State(app): State<App>, identity: Identity) -> Json<Me> {
    let role = app.users.role(&identity);
    let token = identity.token.as_deref().map(str::to_owned);
    Json(Me { user: identity.user, role, scopes: identity.scopes, token })
}

/// A pass for the fileserver, for some minutes: what the caller may do there, at most what its token
/// is for.
#[utoipa::path(post, path = "/v1/passes", tag = "users", request_body = NewPass,
    responses((status = 201, description = "The pass.", body = MadePass),
        Guarded, Changed, FromFileserver))]
pub(super) async fn make_pass(
    State(app): State<App>,
    identity: Identity,
    Json(NewPass { scopes }): Json<NewPass>,
) -> Result<Response, ServerError> {
    let scopes = scopes.unwrap_or(identity.scopes);
    identity.needs_all_of(scopes)?;
    let made = app.passes.make(&identity, scopes).await.map_err(|error| no_pass(&error))?;
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, no_store, Json(made)).into_response())
}

/// All users.
#[utoipa::path(get, path = "/v1/users", tag = "users",
    responses((status = 200, description = "Revoked ones included.", body = UserList), Guarded))]
pub(super) async fn list(State(app): State<App>) -> Json<UserList> {
    Json(UserList { users: app.users.users() })
}

/// Adds a user, who has no token yet. One that was revoked may come back.
#[utoipa::path(post, path = "/v1/users", tag = "users", request_body = NewUser,
    responses((status = 201, description = "There is one now.", body = UserView),
        Guarded, Changed))]
pub(super) async fn add(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewUser>,
) -> Result<(StatusCode, Json<UserView>), ServerError> {
    Ok((StatusCode::CREATED, Json(app.users.add_user(caller, new).await?)))
}

/// Ends a user and all tokens of it at once. Jobs, runs and images stay.
#[utoipa::path(delete, path = "/v1/users/{id}", tag = "users",
    params(("id" = String, Path, description = "The user's name")),
    responses((status = 200, description = "The user.", body = UserView), Guarded, Named))]
pub(super) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<UserView>, ServerError> {
    let name: UserName = name
        .parse()
        .map_err(|error| ServerError::bad_request("malformed_user", format!("{error}")))?;
    Ok(Json(app.users.revoke_user(caller, &name).await?))
}

/// The caller's tokens without their secrets; everybody's for the scope admin.
#[utoipa::path(get, path = "/v1/tokens", tag = "users",
    responses((status = 200, description = "The newest first.", body = TokenList), Guarded))]
pub(super) async fn list_tokens(State(app): State<App>, identity: Identity) -> Json<TokenList> {
    Json(TokenList { tokens: app.users.tokens(owner(&identity)) })
}

/// Makes a token of a user. Its secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/tokens", tag = "users", request_body = NewToken,
    responses((status = 201, description = "The token.", body = MadeToken),
        Guarded, Named, Changed))]
pub(super) async fn add_token(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewToken>,
) -> Result<Response, ServerError> {
    let made: MadeToken = app.users.add_token(caller, new).await?;
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, no_store, Json(made)).into_response())
}

/// Ends a token of the caller's at once; anybody's for the scope admin.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "users",
    params(("id" = String, Path, description = "The token's public id")),
    responses((status = 200, description = "The token.", body = TokenView), Guarded, Named))]
pub(super) async fn revoke_token(
    State(app): State<App>,
    identity: Identity,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<TokenView>, ServerError> {
    Ok(Json(app.users.revoke_token(caller, &id, owner(&identity)).await?))
}

/// Whose tokens the caller may see and end: none where they are everybody's.
fn owner(identity: &Identity) -> Option<&UserName> {
    (!identity.is_operator()).then_some(&identity.user)
}
