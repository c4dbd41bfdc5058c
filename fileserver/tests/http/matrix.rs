//! The authorisation matrix: every route x every caller x own objects, the library's and those of
//! others.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::TryStreamExt as _;
use sway_client::refs::Expect;
use sway_client::{Client, ClientError};
use sway_core::access::{Role, Scope, Scopes};
use sway_core::api::blobs::UploadSummary;
use sway_core::blob::FrameHeader;
use sway_core::chunk::CutChunk;
use sway_core::digest::Digest;
use sway_core::manifest::{FileContent, Metadata, NodeKind, RunConfig, Tree};
use sway_core::name::RefName;
use sway_fileserver::http::ROUTES;
use sway_server::pass::{Claims, PassKey};

use crate::server::{Answer, Server, TOKEN, body_of, client_as, frame};

/// Whom a route admits.
#[derive(Clone, Copy)]
enum Open {
    /// Anybody, without a token.
    Public,
    /// Tokens and passes with one of these scopes.
    For(&'static [Scope]),
}

use Open::{For, Public};
use Scope::{Admin, Export, Read, Run, Worker};

const ROWS: &[(&str, &str, Open)] = &[
    ("POST", "/v1/blobs", For(&[Run, Export, Worker])),
    ("POST", "/v1/blobs/missing", For(&[Run, Export, Worker])),
    ("POST", "/v1/blobs/fetch", For(&[Read, Worker])),
    ("GET", "/v1/blobs/{digest}", For(&[Worker])),
    ("HEAD", "/v1/blobs/{digest}", For(&[Worker])),
    ("PUT", "/v1/blobs/{digest}", For(&[Worker])),
    ("GET", "/v1/refs", For(&[Read, Run, Export, Worker])),
    ("GET", "/v1/refs/{*name}", For(&[Read, Run, Export, Worker])),
    ("PUT", "/v1/refs/{*name}", For(&[Run, Export, Worker])),
    ("DELETE", "/v1/refs/{*name}", For(&[Export, Worker])),
    ("GET", "/v1/bundles/{*name}", For(&[Worker])),
    ("GET", "/v1/start", For(&[Worker])),
    ("GET", "/healthz", Public),
    ("GET", "/metrics", For(&[Worker])),
];

/// A server that knows a worker, and that worker's key.
struct Site {
    server: Server,
    key: PassKey,
    id: String,
    _keys: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let keys = tempfile::tempdir().unwrap();
        let key = PassKey::load_or_create(keys.path()).unwrap();
        let server = Server::start_with(|config| config.workers = vec![key.public()]).await;
        let health = server.client().health().await.unwrap();
        let id = health["id"].as_str().unwrap().to_owned();
        Self { server, key, id, _keys: keys }
    }

    fn pass(&self, user: &str, scopes: Scopes) -> String {
        self.key.make(user.parse().unwrap(), scopes, self.id.clone(), "1".to_owned())
    }

    fn client(&self, user: &str, role: Role) -> Client {
        self.client_with(&self.pass(user, role.scopes()))
    }

    fn client_with(&self, secret: &str) -> Client {
        client_as(secret, &format!("http://{}", self.server.addr))
    }
}

/// A pass that begins at `issued_at` and lasts five minutes.
fn claims(audience: &str, issued_at: u64) -> Claims {
    Claims {
        user: "ada".parse().unwrap(),
        scopes: Scopes::ALL,
        audience: audience.to_owned(),
        token: "1".to_owned(),
        issued_at,
        expires_at: issued_at + 300,
    }
}

fn now() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Who knocks.
struct Caller {
    name: String,
    secret: Option<String>,
    /// None where it opens nothing.
    scopes: Option<Scopes>,
}

/// A request as the caller sends it, with a body that no route takes. What it names is the caller's
/// own, or a worker's where the caller has no own.
async fn knock(site: &Site, method: &str, path: &str, caller: &Caller) -> Answer {
    let scopes = caller.scopes.unwrap_or_default();
    let has_own = scopes.contains(Export) || scopes.contains(Run) || !scopes.contains(Worker);
    let name = if has_own { "images/ada/x:1" } else { "jobs/x" };
    let target = path.replace("{digest}", &"0".repeat(40)).replace("{*name}", name);
    let mut request = format!("{method} {target} HTTP/1.1");
    let body: &[u8] = if matches!(method, "POST" | "PUT") { b"{\"?\":1}" } else { b"" };
    if !body.is_empty() {
        request.push_str("\ncontent-type: application/json");
    }
    match &caller.secret {
        Some(secret) => site.server.send_as(secret, &request, body).await,
        None => site.server.send_bare(&request, body).await,
    }
}

#[tokio::test]
async fn each_route_of_the_fileserver_admits_those_with_its_scope_and_nobody_else() {
    let routes: BTreeSet<_> = ROUTES.iter().map(|(method, path, _)| (*method, *path)).collect();
    let rows: BTreeSet<_> = ROWS.iter().map(|(method, path, _)| (*method, *path)).collect();
    assert_eq!(routes, rows, "each route has a row");

    let site = Site::start().await;
    let stranger = tempfile::tempdir().unwrap();
    let stranger = PassKey::load_or_create(stranger.path()).unwrap();
    let good = site.pass("ada", Scopes::ALL);
    let nothing =
        |name: &str, secret: Option<String>| Caller { name: name.to_owned(), secret, scopes: None };
    let mut callers = vec![
        nothing("nobody", None),
        nothing("a wrong token", Some("wrong".to_owned())),
        nothing("a user's token", Some(format!("sway_3f9a01b2c3d4_{}", "0".repeat(64)))),
        nothing("a pass of a stranger", Some(stranger.sign(&claims(&site.id, now())))),
        nothing("a pass for another server", Some(site.key.sign(&claims("there", now())))),
        nothing("an expired pass", Some(site.key.sign(&claims(&site.id, now() - 301)))),
        nothing("a cut pass", Some(good[..good.len() - 1].to_owned())),
        Caller {
            name: "the data directory's".to_owned(),
            secret: Some(TOKEN.to_owned()),
            scopes: Some(Scopes::ALL),
        },
    ];
    let roles = Role::ALL.map(|role| (role.to_string(), role.scopes()));
    let alone = Scope::ALL.map(|scope| (format!("{scope} alone"), Scopes::of(&[scope])));
    for (name, scopes) in roles.into_iter().chain(alone).chain([("none".into(), Scopes::NONE)]) {
        let secret = Some(site.pass("ada", scopes));
        callers.push(Caller { name, secret, scopes: Some(scopes) });
    }
    for caller in &callers {
        for &(method, path, open) in ROWS {
            let answer = knock(&site, method, path, caller).await;
            let body = String::from_utf8_lossy(&answer.body);
            let told = format!("{} {method} {path}: {} {body}", caller.name, answer.status);
            let admitted = match (open, caller.scopes) {
                (Public, _) => true,
                (For(needed), Some(scopes)) => needed.iter().any(|&one| scopes.contains(one)),
                (For(_), None) => false,
            };
            match (admitted, caller.scopes) {
                (true, _) => assert!(![401, 403].contains(&answer.status), "{told}"),
                (false, Some(_)) => {
                    assert_eq!(answer.status, 403, "{told}");
                    assert!(method == "HEAD" || body.contains("scope_missing"), "{told}");
                }
                (false, None) => assert_eq!(answer.status, 401, "{told}"),
            }
            assert!(answer.status < 500, "{told}");
        }
    }
    site.server.stop().await;
}

/// An image of one file for each of `contents`: its manifest and all blobs, the manifest's frame last.
fn image(contents: &[&[u8]]) -> (Digest, Vec<(FrameHeader, Bytes)>) {
    let mut tree = Tree::new();
    let mut frames = Vec::new();
    for (at, raw) in contents.iter().enumerate() {
        let mut content = FileContent::new();
        content.push_chunk(CutChunk::of(raw));
        let file = tree.add(Metadata::default(), NodeKind::Regular(content));
        let name = format!("file{at}").into_bytes();
        tree.entries_mut(Tree::ROOT).unwrap().insert(name, file);
        frames.push(frame(raw));
    }
    let (manifest, page_roots) = tree.to_manifest(RunConfig::default()).unwrap();
    frames.extend(page_roots.iter().map(|raw| frame(raw)));
    let encoded = manifest.encode().unwrap();
    frames.push(frame(&encoded));
    (Digest::of(&encoded), frames)
}

fn name(text: &str) -> RefName {
    text.parse().unwrap()
}

/// Contents that are one chunk each, and long enough to have page roots.
fn content(text: &str) -> Vec<u8> {
    text.repeat(2000).into_bytes()
}

async fn store(client: &Client, to: &str, contents: &[&[u8]]) -> Digest {
    let (manifest, frames) = image(contents);
    client.blobs().upload_batch(&frames).await.unwrap();
    client.refs().put(&name(to), manifest, Expect::Any).await.unwrap();
    manifest
}

/// What the server has of these, as the caller is told.
async fn fetched(client: &Client, digests: &[Digest]) -> Vec<bool> {
    let frames: Vec<_> = client.blobs().fetch(digests).try_collect().await.unwrap();
    frames.iter().map(|(header, _)| !header.is_missing()).collect()
}

/// A refusal without the names in it, so that two can be compared.
fn refusal(result: Result<(), ClientError>, digest: Digest) -> (u16, String, String) {
    match result.unwrap_err() {
        ClientError::Refused { status, code, message, .. } => {
            (status, code, message.replace(&digest.to_hex(), "_"))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_user_exports_and_reads_own_refs_and_the_librarys() {
    let site = Site::start().await;
    let operator = site.server.client();
    let (shared, own) = (content("shared"), content("own"));
    let library = store(&operator, "images/library/base:1", &[&shared]).await;
    let ada = site.client("ada", Role::Owner);
    let digests = [Digest::of(&shared), Digest::of(&own)];
    // What the library has need not be sent.
    assert_eq!(ada.blobs().missing(&digests).await.unwrap(), digests[1..]);
    let (manifest, frames) = image(&[&shared, &own]);
    let new: Vec<_> =
        frames.iter().filter(|(header, _)| header.digest != digests[0]).cloned().collect();
    let sent = ada.blobs().upload_batch(&new).await.unwrap();
    assert_eq!(sent, UploadSummary { stored: new.len() as u64, known: 0 });
    let again = ada.blobs().upload_batch(&new).await.unwrap();
    assert_eq!(again, UploadSummary { stored: 0, known: new.len() as u64 });
    assert!(ada.blobs().missing(&digests).await.unwrap().is_empty());
    // Sent is not readable yet: no ref leads there.
    assert_eq!(fetched(&ada, &digests).await, [true, false]);
    ada.refs().put(&name("images/ada/x:1"), manifest, Expect::Absent).await.unwrap();
    ada.refs().put(&name("data/ada/x"), manifest, Expect::Any).await.unwrap();
    assert_eq!(fetched(&ada, &digests).await, [true, true]);
    assert_eq!(fetched(&ada, &[manifest, library]).await, [true, true]);
    assert!(ada.blobs().missing(&digests).await.unwrap().is_empty());
    let sue = site.client("sue", Role::Submitter);
    assert_eq!(fetched(&sue, &[digests[0], digests[1], manifest]).await, [true, false, false]);
    let names = |refs: Vec<sway_core::api::blobs::RefEntry>| {
        refs.into_iter().map(|entry| entry.name.to_string()).collect::<Vec<_>>()
    };
    let all = ["data/ada/x", "images/ada/x:1", "images/library/base:1"];
    assert_eq!(names(ada.refs().list("").await.unwrap()), all);
    assert_eq!(names(ada.refs().list("images/").await.unwrap()), all[1..]);
    assert_eq!(names(ada.refs().list("images/ada/x").await.unwrap()), all[1..2]);
    assert_eq!(names(sue.refs().list("").await.unwrap()), all[2..]);
    ada.refs().delete(&name("images/ada/x:1"), Expect::Is(manifest)).await.unwrap();
    ada.refs().delete(&name("data/ada/x"), Expect::Any).await.unwrap();
    assert_eq!(fetched(&ada, &digests).await, [true, false]);
    site.server.stop().await;
}

#[tokio::test]
async fn what_others_stored_is_answered_like_what_is_not_there() {
    let site = Site::start().await;
    let (secret, nothing) = (content("secret"), content("nothing"));
    let bob = site.client("bob", Role::Owner);
    let bobs = store(&bob, "images/bob/secret:1", &[&secret]).await;
    bob.refs().put(&name("data/bob/secret"), bobs, Expect::Any).await.unwrap();
    let (never, _) = image(&[&nothing]);
    let [foreign, missing] = [&secret, &nothing].map(|raw| Digest::of(raw));
    for (user, role) in [("ada", Role::Owner), ("sue", Role::Submitter)] {
        let client = site.client(user, role);
        for kind in ["images/bob/secret:1", "data/bob/secret"] {
            let [there, not_there] = [kind.to_owned(), kind.replace("secret", "nothing")];
            let mut told = Vec::new();
            for text in [&there, &not_there] {
                let pass = site.pass(user, role.scopes());
                for method in ["GET", "DELETE"] {
                    let request = format!("{method} /v1/refs/{text} HTTP/1.1");
                    let answer = site.server.send_as(&pass, &request, b"").await;
                    let body = String::from_utf8(answer.body).unwrap().replace(text.as_str(), "_");
                    told.push((answer.status, body));
                }
            }
            assert_eq!(told[..2], told[2..], "{user} {kind}");
            assert_eq!((told[0].0, told[1].0), (404, 403), "{user} {kind}");
            assert_eq!(client.refs().get(&name(&there)).await.unwrap(), None);
        }
        assert!(client.refs().list("").await.unwrap().is_empty());
        assert!(client.refs().list("images/bob/").await.unwrap().is_empty());
        assert_eq!(fetched(&client, &[foreign, missing, bobs, never]).await, [false; 4]);
    }
    let ada = site.client("ada", Role::Owner);
    let asked = [foreign, missing, bobs, never];
    assert_eq!(ada.blobs().missing(&asked).await.unwrap(), asked);

    // Who knows a name has not what it names: no own ref leads there.
    let own = name("images/ada/x:1");
    let refused = |result, digest| refusal(result, digest);
    let of_foreign = refused(ada.refs().put(&own, bobs, Expect::Any).await, bobs);
    let of_missing = refused(ada.refs().put(&own, never, Expect::Any).await, never);
    assert_eq!(of_foreign, of_missing);
    assert_eq!(of_foreign.0, 404);
    // Nor one whose manifest ada made, of names alone.
    let mut found = Vec::new();
    for (raw, digest) in [(&secret, foreign), (&nothing, missing)] {
        let (manifest, frames) = image(&[raw]);
        let named: Vec<_> =
            frames.into_iter().filter(|(header, _)| header.digest != digest).collect();
        let sent = ada.blobs().upload_batch(&named).await.unwrap();
        assert_eq!(sent, UploadSummary { stored: named.len() as u64, known: 0 });
        found.push(refused(ada.refs().put(&own, manifest, Expect::Any).await, digest));
        let unnamed = name(&format!("data/ada/{manifest}"));
        assert!(ada.refs().put(&unnamed, manifest, Expect::Any).await.is_err());
    }
    assert_eq!(found[0], found[1]);
    assert_eq!(fetched(&ada, &[foreign, bobs]).await, [false; 2]);
    assert_eq!(ada.refs().get(&own).await.unwrap(), None);
    // Who has the bytes says so by sending them, and is told nothing about bob.
    let sent = ada.blobs().upload_batch(&[frame(&secret)]).await.unwrap();
    assert_eq!(sent, UploadSummary { stored: 1, known: 0 });
    ada.refs().put(&own, bobs, Expect::Any).await.unwrap();
    assert_eq!(fetched(&ada, &[foreign, bobs]).await, [true; 2]);
    site.server.stop().await;
}

#[tokio::test]
async fn nobody_writes_into_the_names_of_others_but_the_operator() {
    let site = Site::start().await;
    let raw = content("x");
    let ada = site.client("ada", Role::Owner);
    let manifest = store(&ada, "images/ada/x:1", &[&raw]).await;
    let foreign =
        ["images/bob/x:1", "images/library/x:1", "data/bob/x", "traces/ada/x/_", "jobs/1", "x"];
    for text in foreign {
        let put = ada.refs().put(&name(text), manifest, Expect::Any).await;
        assert_eq!(refusal(put, manifest).0, 403, "{text}");
        let deleted = ada.refs().delete(&name(text), Expect::Any).await;
        assert_eq!(refusal(deleted, manifest).0, 403, "{text}");
    }
    let worker = site.client_with(&site.pass("worker", Scopes::of(&[Worker])));
    for (text, allowed) in foreign.into_iter().zip([false, false, false, true, true, true]) {
        let put = worker.refs().put(&name(text), manifest, Expect::Any).await;
        assert_eq!(put.is_ok(), allowed, "{text}");
    }
    let root = site.client_with(&site.pass("root", Scopes::of(&[Admin, Export])));
    for text in &foreign[..3] {
        root.refs().put(&name(text), manifest, Expect::Any).await.unwrap();
        site.server.client().refs().put(&name(text), manifest, Expect::Any).await.unwrap();
    }
    site.server.stop().await;
}

#[tokio::test]
async fn who_may_run_stores_data_under_its_digest_alone() {
    let site = Site::start().await;
    let runner = site.client_with(&site.pass("ada", Scopes::of(&[Run])));
    let raw = content("data");
    let (manifest, frames) = image(&[&raw]);
    runner.blobs().upload_batch(&frames).await.unwrap();
    for text in ["images/ada/x:1", "data/ada/x", &format!("data/ada/{}", Digest::of(b"other"))] {
        let put = runner.refs().put(&name(text), manifest, Expect::Any).await;
        assert_eq!(refusal(put, manifest).0, 403, "{text}");
    }
    let unnamed = name(&format!("data/ada/{manifest}"));
    runner.refs().put(&unnamed, manifest, Expect::Any).await.unwrap();
    // And to no other digest than its own.
    let other = store(&site.client("ada", Role::Owner), "data/ada/o", &[&content("o")]).await;
    let put = runner.refs().put(&unnamed, other, Expect::Any).await;
    assert_eq!(refusal(put, other).0, 403);
    site.server.stop().await;
}

#[tokio::test]
async fn a_users_ref_leads_to_a_manifest() {
    let site = Site::start().await;
    let ada = site.client("ada", Role::Owner);
    let digest = ada.blobs().put(b"no manifest").await.unwrap();
    let put = ada.refs().put(&name("images/ada/x:1"), digest, Expect::Any).await;
    assert_eq!(refusal(put, digest).1, "not_a_manifest");
    // An upload that breaks counts as far as it came, and no further.
    let [first, second] = [frame(b"first"), frame(b"second")];
    let mut body = body_of(&[first, second]);
    body.pop();
    let request = "POST /v1/blobs HTTP/1.1\ncontent-type: application/vnd.sway.frames";
    let pass = site.pass("ada", Role::Owner.scopes());
    assert_eq!(site.server.send_as(&pass, request, &body).await.status, 400);
    let asked = [Digest::of(b"first"), Digest::of(b"second")];
    assert!(ada.blobs().missing(&asked).await.unwrap().contains(&asked[1]));
    site.server.stop().await;
}

#[tokio::test]
async fn a_users_requests_to_the_fileserver_come_only_so_often() {
    let keys = tempfile::tempdir().unwrap();
    let key = PassKey::load_or_create(keys.path()).unwrap();
    let server = Server::start_with(|config| {
        config.workers = vec![key.public()];
        config.requests_per_second = std::num::NonZeroU32::new(1);
    })
    .await;
    let health = server.client().health().await.unwrap();
    let id = health["id"].as_str().unwrap().to_owned();
    let pass = |user: &str, scopes| key.make(user.parse().unwrap(), scopes, id.clone(), "1".into());
    let asking = async |secret: &str| {
        let mut statuses = Vec::new();
        for _ in 0..200 {
            statuses.push(server.send_as(secret, "GET /v1/refs HTTP/1.1", b"").await.status);
        }
        statuses
    };
    let statuses = asking(&pass("ada", Role::Owner.scopes())).await;
    assert!(statuses[..10].iter().all(|&status| status == 200), "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    for secret in [pass("worker", Scopes::of(&[Worker])), TOKEN.to_owned()] {
        assert!(asking(&secret).await.iter().all(|&status| status == 200));
    }
    server.stop().await;
}
