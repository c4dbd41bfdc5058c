//! Who asks, for the audit: the identity with its token, and the address that the request came from.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use sway_server::error::ServerError;
use sway_server::guard::Identity;

use crate::db::Caller;

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ServerError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ServerError> {
        let identity = <Identity as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map(|ConnectInfo(peer)| peer.ip().to_canonical().to_string());
        Ok(Self {
            user: Some(identity.user),
            token: identity.token.as_deref().map(str::to_owned),
            peer,
        })
    }
}
