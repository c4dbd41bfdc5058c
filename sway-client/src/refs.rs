//! The fileserver's refs: names that move.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use reqwest::header::{IF_MATCH, IF_NONE_MATCH};
use reqwest::{Method, RequestBuilder};
use sway_core::api::blobs::{RefEntry, RefList, RefTarget};
use sway_core::digest::Digest;
use sway_core::name::RefName;

use crate::client::Client;
use crate::error::ClientError;

/// What a ref must be at the moment when it is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever it is.
    Any,
    /// Not there.
    Absent,
    /// Pointing to this blob.
    Is(Digest),
}

impl Expect {
    fn on(self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Any => request,
            Self::Absent => request.header(IF_NONE_MATCH, "*"),
            Self::Is(digest) => request.header(IF_MATCH, format!("\"{digest}\"")),
        }
    }
}

/// Code of the refusal of a move that expected the ref to be something else (HTTP 412).
pub const REF_CONFLICT: &str = "ref_conflict";

/// See [`Client::refs`].
#[derive(Clone, Copy, Debug)]
pub struct Refs<'a>(pub(crate) &'a Client);

impl Refs<'_> {
    /// What `name` points to; none if there is no such ref.
    pub async fn get(&self, name: &RefName) -> Result<Option<Digest>, ClientError> {
        let path = path(name);
        let target: Result<RefTarget, _> = self.0.call(|| self.0.request(Method::GET, &path)).await;
        match target {
            Ok(target) => Ok(Some(target.digest)),
            Err(ClientError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Points `name` to a blob that the server has, if the ref is what is expected; else the
    /// refusal is [`REF_CONFLICT`]. A move that expects something is repeated too: it can't
    /// happen twice, but after a lost answer the repetition may find it done and be refused, so
    /// a refusal is checked against what the ref is.
    pub async fn put(
        &self,
        name: &RefName,
        digest: Digest,
        expect: Expect,
    ) -> Result<(), ClientError> {
        let path = path(name);
        let target = RefTarget { digest };
        let request = || expect.on(self.0.request(Method::PUT, &path).json(&target));
        match self.0.retry(|| self.0.answer_once(request())).await {
            Ok(_) => Ok(()),
            Err(refusal @ ClientError::Refused { status: 412, .. }) => {
                // Whoever moved it there, it is where the caller wants it.
                if expect != Expect::Absent && self.get(name).await? == Some(digest) {
                    Ok(())
                } else {
                    Err(refusal)
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Removes `name` if it is what is expected; no error if there is none.
    pub async fn delete(&self, name: &RefName, expect: Expect) -> Result<(), ClientError> {
        let path = path(name);
        let request = || expect.on(self.0.request(Method::DELETE, &path));
        match self.0.retry(|| self.0.answer_once(request())).await {
            Ok(_) | Err(ClientError::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All refs whose names start with `prefix`, sorted by name.
    pub async fn list(&self, prefix: &str) -> Result<Vec<RefEntry>, ClientError> {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("prefix", prefix)
            .finish();
        let path = format!("/v1/refs?{query}");
        let request = || self.0.request(Method::GET, &path);
        let list: RefList = self.0.call(request).await?;
        Ok(list.refs)
    }
}

fn path(name: &RefName) -> String {
    format!("/v1/refs/{}", encoded(name.as_ref()))
}

/// A ref's name for a URL's path: its slashes stay, its percent signs are its own.
pub(crate) fn encoded(name: &str) -> String {
    const IN_PATH: &AsciiSet =
        &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'`');
    utf8_percent_encode(name, IN_PATH).to_string()
}
