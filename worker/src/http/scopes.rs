//! What a route needs: said once, in the list of routes, checked before the route is reached and
//! told in the description.

use axum::middleware;
use sway_core::access::{Scope, Scopes};
use sway_server::guard;
use utoipa_axum::router::{UtoipaMethodRouter, UtoipaMethodRouterExt as _};

use super::{App, openapi};

/// Routes for callers that have one of `scopes`.
pub(super) fn needs(scopes: &[Scope], routes: UtoipaMethodRouter<App>) -> UtoipaMethodRouter<App> {
    let check = middleware::from_fn_with_state(Scopes::of(scopes), guard::needs);
    let (schemas, mut paths, methods) = routes.layer(check);
    for operation in paths.paths.values_mut().flat_map(openapi::operations) {
        operation.security = Some(scopes.iter().map(|&scope| openapi::token_for(scope)).collect());
    }
    (schemas, paths, methods)
}
