//! The worker's users and tokens.

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sway_core::api::users::{
    MadePass, MadeToken, Me, NewPass, NewToken, NewUser, TokenList, TokenView, UserList, UserView,
};
use sway_core::name::UserName;

use crate::client::Client;
use crate::error::ClientError;
use crate::refs::encoded;

/// See [`Client::users`].
#[derive(Clone, Copy, Debug)]
pub struct Users<'a>(pub(crate) &'a Client);

impl Users<'_> {
    /// Who the worker takes the caller for.
    pub async fn me(&self) -> Result<Me, ClientError> {
        self.0.call(|| self.0.request(Method::GET, "/v1/me")).await
    }

    /// All users.
    pub async fn list(&self) -> Result<Vec<UserView>, ClientError> {
        let list: UserList = self.0.call(|| self.0.request(Method::GET, "/v1/users")).await?;
        Ok(list.users)
    }

    /// Adds a user. Sent once: whether it arrived shows in the list.
    pub async fn add(&self, new: &NewUser) -> Result<UserView, ClientError> {
        self.post("/v1/users", new).await
    }

    /// Ends a user and all tokens of it.
    pub async fn revoke(&self, name: &UserName) -> Result<UserView, ClientError> {
        let path = format!("/v1/users/{}", encoded(name.as_ref()));
        self.0.call(|| self.0.request(Method::DELETE, &path)).await
    }

    /// The caller's tokens, or everybody's for the operator, the newest first.
    pub async fn tokens(&self) -> Result<Vec<TokenView>, ClientError> {
        let list: TokenList = self.0.call(|| self.0.request(Method::GET, "/v1/tokens")).await?;
        Ok(list.tokens)
    }

    /// Makes a token. Sent once: its secret is told once.
    pub async fn add_token(&self, new: &NewToken) -> Result<MadeToken, ClientError> {
        self.post("/v1/tokens", new).await
    }

    /// Ends a token.
    pub async fn revoke_token(&self, id: &str) -> Result<TokenView, ClientError> {
        let path = format!("/v1/tokens/{}", encoded(id));
        self.0.call(|| self.0.request(Method::DELETE, &path)).await
    }

    /// Makes a pass of the caller's, for the worker's fileserver.
    pub async fn pass(&self, new: &NewPass) -> Result<MadePass, ClientError> {
        let body = Bytes::from(serde_json::to_vec(new).expect("plain data"));
        let request = || {
            let request = self.0.request(Method::POST, "/v1/passes");
            request.header(CONTENT_TYPE, "application/json").body(body.clone())
        };
        self.0.call(request).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = Bytes::from(serde_json::to_vec(body).expect("plain data"));
        let request = self.0.request(Method::POST, path);
        self.0.call_once(request.header(CONTENT_TYPE, "application/json").body(body)).await
    }
}
