//! Passes: what the worker says of its users to a real fileserver.

use sway_client::refs::Expect;
use sway_client::{Client, ClientConfig, ClientError};
use sway_core::access::{Role, Scope, Scopes};
use sway_core::api::users::{NewPass, NewToken, NewUser};
use sway_core::digest::Digest;
use sway_worker::config::FileserverAccess;

use crate::support::{TOKEN, Worker, job_when, spec};

fn client(url: &str, secret: &str) -> Client {
    let mut config = ClientConfig::new(url.parse().unwrap());
    config.token = Some(secret.to_owned());
    Client::new(&config).unwrap()
}

/// The token of a new user.
async fn token(worker: &Worker, name: &str, role: Role) -> String {
    let operator = client(&worker.url("/"), TOKEN);
    let name: sway_core::name::UserName = name.parse().unwrap();
    operator.users().add(&NewUser { name: name.clone(), role }).await.unwrap();
    let new = NewToken { user: name, label: None, scopes: None, expires_in_s: None };
    operator.users().add_token(&new).await.unwrap().secret
}

async fn pass(
    worker: &Worker,
    secret: &str,
    scopes: Option<Scopes>,
) -> Result<String, (u16, String)> {
    let asked = client(&worker.url("/"), secret);
    match asked.users().pass(&NewPass { scopes }).await {
        Ok(made) => Ok(made.pass),
        Err(ClientError::Refused { status, code, .. }) => Err((status, code)),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_pass_opens_the_fileserver_for_what_its_token_is_for() {
    let worker = Worker::start().await;
    let ada = token(&worker, "ada", Role::Owner).await;
    let made = client(&worker.url("/"), &ada).users().pass(&NewPass::default()).await.unwrap();
    assert_eq!((made.user.as_ref(), made.scopes), ("ada", Role::Owner.scopes()));
    assert!((60..=900).contains(&made.expires_in_s));
    assert!(!format!("{made:?}").contains(&made.pass));
    let fileserver = client(&worker.fileserver, &made.pass);
    let names = fileserver.refs().list("images/").await.unwrap();
    let names: Vec<_> = names.iter().map(|entry| entry.name.as_ref()).collect();
    let library = ["node", "science", "scipy"].map(|name| format!("images/library/{name}:latest"));
    assert_eq!(names, [&["images/ada/own:1".to_owned()][..], &library].concat());

    // At most what the token is for; what is asked for is what the pass says.
    let sue = token(&worker, "sue", Role::Submitter).await;
    for scope in Scope::ALL {
        let made = pass(&worker, &sue, Some(Scopes::of(&[scope]))).await;
        if Role::Submitter.scopes().contains(scope) {
            assert!(made.is_ok(), "{scope}");
        } else {
            assert_eq!(made, Err((403, "scope_missing".to_owned())), "{scope}");
        }
    }
    let reading = pass(&worker, &ada, Some(Scopes::of(&[Scope::Read]))).await.unwrap();
    let put = client(&worker.fileserver, &reading).blobs().put(b"x").await;
    assert!(matches!(put, Err(ClientError::Refused { status: 403, .. })), "{put:?}");
    // The token itself is not the fileserver's to know.
    let refused = client(&worker.fileserver, &ada).refs().list("").await;
    assert!(matches!(refused, Err(ClientError::Refused { status: 401, .. })), "{refused:?}");
    // A pass is no token of the worker's.
    let refused = client(&worker.url("/"), &made.pass).users().me().await;
    assert!(matches!(refused, Err(ClientError::Refused { status: 401, .. })), "{refused:?}");
}

#[tokio::test]
async fn who_was_revoked_gets_no_pass_and_the_operator_does() {
    let worker = Worker::start().await;
    let ada = token(&worker, "ada", Role::Owner).await;
    assert!(pass(&worker, &ada, None).await.is_ok());
    let operator = client(&worker.url("/"), TOKEN);
    operator.users().revoke(&"ada".parse().unwrap()).await.unwrap();
    let refused = Err((401, "unauthorized".to_owned()));
    assert_eq!(pass(&worker, &ada, None).await, refused);
    let again = token(&worker, "ada", Role::Owner).await;
    assert!(pass(&worker, &again, None).await.is_ok());
    let id = again.split('_').nth(1).unwrap();
    operator.users().revoke_token(id).await.unwrap();
    assert_eq!(pass(&worker, &again, None).await, refused);

    // The operator's says all, and whom it speaks for.
    let made = worker.client("bob").users().pass(&NewPass::default()).await.unwrap();
    assert_eq!((made.user.as_ref(), made.scopes), ("bob", Scopes::ALL));
    let fileserver = client(&worker.fileserver, &made.pass);
    let digest = Digest::of(b"secret");
    let name = "images/library/new:1".parse().unwrap();
    fileserver.refs().put(&name, digest, Expect::Absent).await.unwrap();
}

#[tokio::test]
async fn a_worker_without_the_fileservers_token_shows_passes_of_its_own() {
    let worker = Worker::start_with(|config| {
        config.fileserver_access = FileserverAccess::Passes;
    })
    .await;
    let ada = worker.client("ada");
    let job = ada.jobs().submit(&spec(&["say", "hello"])).await.unwrap();
    job_when(&ada, &job.id, |job| job.state.is_final()).await;
    assert_eq!(ada.jobs().images().await.unwrap().len(), 4);
}
