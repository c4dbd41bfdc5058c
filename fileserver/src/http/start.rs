//! Route of starts: what a cold start needs, in one answer, in the order in which it needs it.
//!
//! The body is one stream of frames. It is cut into pieces that are dealt out to the stripes, so
//! that several connections carry it at once and their slow starts add up. Each stripe walks over
//! all frames, and seeks over what is not its own.

use std::io::{self, Cursor, Read as _};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sway_core::api::blobs::FRAMES_MEDIA_TYPE;
use sway_core::api::start::{
    START_BUNDLE_HEADER, START_HAVE_MAX, START_IMAGE_HEADER, START_MANIFEST_HEADER,
    START_NAMES_MAX, START_PIECE_LEN, STRIPES_MAX, start_etag,
};
use sway_core::blob::FrameHeader;
use sway_core::bundle::Bundle;
use sway_core::digest::Digest;
use sway_core::name::{RefName, UserName};
use sway_core::trace::{TraceKey, trace_ref};
use sway_server::error::{Query, ServerError};
use sway_server::guard::Identity;

use super::blobs::{open, pieces};
use super::body::{BodyWriter, Bytes};
use super::bundles::load;
use super::refs::ref_not_found;
use super::{App, blocking};
use crate::blobs::{BlobStore, ReadSeek};

/// `GET /v1/start`
pub(super) async fn get(
    State(app): State<App>,
    identity: Identity,
    Query(pairs): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ServerError> {
    let asked = Asked::read(&pairs, &identity)?;
    asked.check_allowed(&identity)?;
    let (image, manifest) = asked.resolve(&app)?;
    let trace = asked.trace(&app, manifest).await?;

    let etag = start_etag(manifest, trace.as_ref().map(|(digest, _)| *digest));
    let unchanged = is_known(&headers, &etag);
    let mut head = HeaderMap::new();
    let text = |text: String| HeaderValue::try_from(text).expect("refs and digests are ASCII");
    head.insert(header::ETAG, text(etag));
    head.insert(START_MANIFEST_HEADER, text(manifest.to_hex()));
    if let Some(image) = image {
        head.insert(START_IMAGE_HEADER, text(image.to_string()));
    }
    if let Some((bundle, _)) = &trace {
        head.insert(START_BUNDLE_HEADER, text(bundle.to_hex()));
    }
    if unchanged {
        return Ok((StatusCode::NOT_MODIFIED, head, Body::empty()).into_response());
    }
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static(FRAMES_MEDIA_TYPE));
    let members = trace.map_or_else(Vec::new, |(_, bundle)| bundle.members);
    let mut blobs: Vec<Digest> = [manifest].into_iter().chain(members).collect();
    blobs.retain(|digest| !asked.have.contains(digest));
    let body = pieces(&app, move |store, out| {
        let mut stripe = Stripe::new(out, asked.stripe, asked.stripes);
        blobs.into_iter().try_for_each(|digest| stripe.send_frame(store, digest))?;
        stripe.finish()
    })
    .await?;
    Ok((head, body).into_response())
}

/// The query.
#[derive(Debug)]
struct Asked {
    images: Vec<RefName>,
    manifest: Option<Digest>,
    user: UserName,
    keys: Vec<TraceKey>,
    have: Vec<Digest>,
    stripe: u8,
    stripes: u8,
}

impl Asked {
    fn read(pairs: &[(String, String)], identity: &Identity) -> Result<Self, ServerError> {
        let mut asked = Self {
            images: Vec::new(),
            manifest: None,
            user: identity.user.clone(),
            keys: Vec::new(),
            have: Vec::new(),
            stripe: 0,
            stripes: 1,
        };
        for (name, value) in pairs {
            match name.as_str() {
                "image" => asked.images.push(parsed(name, value.parse())?),
                "manifest" => asked.manifest = Some(parsed(name, value.parse())?),
                "user" => asked.user = parsed(name, UserName::from_ref_part(value))?,
                "key" => asked.keys.push(parsed(name, value.parse())?),
                "have" => asked.have.push(parsed(name, value.parse())?),
                "stripe" => asked.stripe = parsed(name, value.parse())?,
                "stripes" => asked.stripes = parsed(name, value.parse())?,
                _ => return Err(malformed(format!("there is no parameter {name:?}"))),
            }
        }
        if asked.images.is_empty() == asked.manifest.is_none() {
            return Err(malformed("give image, or manifest"));
        }
        if !(1..=STRIPES_MAX).contains(&asked.stripes) || asked.stripe >= asked.stripes {
            return Err(malformed(format!(
                "stripe I is of stripes N, which is 1 to {STRIPES_MAX}"
            )));
        }
        if asked.images.len().max(asked.keys.len()) > START_NAMES_MAX {
            return Err(malformed(format!("at most {START_NAMES_MAX} images and keys")));
        }
        if asked.have.len() > START_HAVE_MAX {
            return Err(malformed(format!("at most {START_HAVE_MAX} times have")));
        }
        Ok(asked)
    }

    /// Users start their own images and the library's, with their own traces.
    fn check_allowed(&self, identity: &Identity) -> Result<(), ServerError> {
        if identity.operator {
            return Ok(());
        }
        let own = |name: &RefName| {
            [&identity.user, &UserName::library()]
                .iter()
                .any(|user| name.as_ref().starts_with(&format!("images/{}/", user.to_ref_part())))
        };
        if self.user == identity.user && self.images.iter().all(own) {
            Ok(())
        } else {
            let user = &identity.user;
            Err(ServerError::forbidden(format!(
                "{user} may start own images and the library's only"
            )))
        }
    }

    /// The first of the images that is there, and the manifest.
    fn resolve(&self, app: &App) -> Result<(Option<&RefName>, Digest), ServerError> {
        if let Some(manifest) = self.manifest {
            return Ok((None, manifest));
        }
        let found = self.images.iter().find_map(|name| Some((name, app.refs.get(name)?.digest)));
        match (found, self.images.first()) {
            (Some((name, manifest)), _) => Ok((Some(name), manifest)),
            (None, Some(first)) => Err(ref_not_found(first)),
            (None, None) => Err(malformed("give image, or manifest")),
        }
    }

    /// The bundle of the first key that has one. One that can't be read is as if not there: a
    /// start without a trace is slower, and that is all.
    async fn trace(
        &self,
        app: &App,
        manifest: Digest,
    ) -> Result<Option<(Digest, Bundle)>, ServerError> {
        let refs = self.keys.iter().map(|key| trace_ref(&self.user, manifest, key));
        let found: Vec<_> = refs.filter_map(|name| app.refs.get(&name)).collect();
        if found.is_empty() {
            return Ok(None);
        }
        let store = Arc::clone(&app.blobs);
        blocking(move || {
            Ok::<_, ServerError>(found.into_iter().find_map(|entry| {
                match load(&*store, entry.digest) {
                    Ok((_, _, bundle)) => Some((entry.digest, bundle)),
                    Err(error) => {
                        tracing::warn!(ref.name = %entry.name, %error, "a trace is not readable");
                        None
                    }
                }
            }))
        })
        .await
    }
}

fn parsed<T, E: std::fmt::Display>(name: &str, value: Result<T, E>) -> Result<T, ServerError> {
    value.map_err(|error| malformed(format!("parameter {name}: {error}")))
}

fn malformed(message: impl Into<String>) -> ServerError {
    ServerError::bad_request("malformed_query", message)
        .hint("see GET /v1/start in docs/http-api.md")
}

/// Whether `If-None-Match` names what would be sent (RFC 9110, 13.1.2).
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH);
    known.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(
        |known| {
            let known = known.trim();
            known.strip_prefix("W/").unwrap_or(known) == etag
        },
    )
}

/// Writes those pieces of a stream that are one stripe's.
struct Stripe<'a> {
    out: &'a BodyWriter,
    number: u64,
    of: u64,
    /// Bytes of the stream so far, whosesoever.
    position: u64,
    /// What is there of a piece of ours.
    piece: Vec<u8>,
}

impl<'a> Stripe<'a> {
    fn new(out: &'a BodyWriter, number: u8, of: u8) -> Self {
        Self { out, number: number.into(), of: of.into(), position: 0, piece: Vec::new() }
    }

    /// A blob's frame, or the frame that says that it is not here.
    fn send_frame(&mut self, store: &dyn BlobStore, digest: Digest) -> io::Result<()> {
        let Some(mut stored) = open(store, digest, false).map_err(io::Error::other)? else {
            return self.send_header(FrameHeader::missing(digest));
        };
        self.send_header(stored.header)?;
        self.send(&mut *stored.encoded, stored.header.encoded_len.into())
    }

    fn send_header(&mut self, header: FrameHeader) -> io::Result<()> {
        let bytes = header.to_bytes();
        self.send(&mut Cursor::new(&bytes), bytes.len() as u64)
    }

    /// The next `len` bytes of the stream. Each piece leaves as soon as it is whole: the first
    /// ones are what the other side waits for.
    fn send(&mut self, from: &mut dyn ReadSeek, len: u64) -> io::Result<()> {
        const PIECE: u64 = START_PIECE_LEN as u64;
        let (mut left, mut skipped) = (len, 0);
        while left > 0 {
            let here = left.min(PIECE - self.position % PIECE);
            if self.position / PIECE % self.of == self.number {
                if skipped > 0 {
                    from.seek_relative(skipped)?;
                    skipped = 0;
                }
                self.piece.reserve_exact(START_PIECE_LEN - self.piece.len());
                let copied = from.take(here).read_to_end(&mut self.piece)?;
                if copied as u64 != here {
                    return Err(io::Error::other("a blob changed while it was sent"));
                }
            } else {
                skipped += here.cast_signed();
            }
            self.position += here;
            left -= here;
            if self.position.is_multiple_of(PIECE) {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.out.send_piece(Bytes::from(std::mem::take(&mut self.piece)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sway_core::blob;

    use super::super::body;
    use super::*;
    use crate::blobs::memory::MemoryStore;

    fn pairs(query: &str) -> Vec<(String, String)> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn identity(user: &str, operator: bool) -> Identity {
        Identity { user: user.parse().unwrap(), operator }
    }

    #[test]
    fn users_start_their_own_images_and_the_librarys_with_their_own_traces() {
        let allowed = |query: &str, who: &Identity| {
            Asked::read(&pairs(query), who).unwrap().check_allowed(who).is_ok()
        };
        let [ada, operator] = [identity("ada", false), identity("ada", true)];
        for (query, own) in [
            ("image=images/ada/x:1&key=_", true),
            ("image=images/ada/x:1&image=images/library/x:1&user=ada", true),
            ("image=images/bob/x:1", false),
            ("image=images/ada/x:1&image=images/bob/x:1", false),
            ("image=images/ada/x:1&user=bob", false),
            ("image=images/adam/x:1", false),
            ("image=traces/ada/x", false),
        ] {
            assert_eq!(allowed(query, &ada), own, "{query}");
            assert!(allowed(query, &operator), "{query}");
        }
    }

    /// What a stripe writes of the frames of `blobs`.
    fn stripe_of(store: &MemoryStore, blobs: &[Digest], number: u8, of: u8) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let (body, writer) = runtime.block_on(async { body::channel() });
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut stripe = Stripe::new(&writer, number, of);
                blobs.iter().try_for_each(|digest| stripe.send_frame(store, *digest)).unwrap();
                stripe.finish().unwrap();
            });
            runtime.block_on(axum::body::to_bytes(body, usize::MAX)).unwrap().to_vec()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_stripes_are_the_stream(
            lens in prop::collection::vec(prop_oneof![0usize..80, 0usize..60_000, Just(START_PIECE_LEN - 29)], 0..9),
            absent in any::<prop::sample::Index>(),
            of in 1..=STRIPES_MAX,
        ) {
            let store = MemoryStore::default();
            let mut batch = store.batch().unwrap();
            let (mut blobs, mut stream) = (Vec::new(), Vec::new());
            for (at, len) in lens.iter().enumerate() {
                let raw: Vec<u8> = (0..*len).map(|i| (i * 31 + at * 7).to_le_bytes()[0]).collect();
                let (digest, encoded) = (Digest::of(&raw), blob::encode_raw(&raw));
                let header = FrameHeader::new(digest, raw.len(), encoded.len());
                blobs.push(digest);
                if absent.index(lens.len()) == at {
                    stream.extend(FrameHeader::missing(digest).to_bytes());
                } else {
                    batch.add(header.into(), &mut &encoded[..]).unwrap();
                    stream.extend([&header.to_bytes()[..], &encoded].concat());
                }
            }
            // A blob that comes twice is there both times.
            prop_assume!(blobs.iter().collect::<std::collections::HashSet<_>>().len() == blobs.len());
            batch.commit().unwrap();
            let mut due = vec![Vec::<u8>::new(); of.into()];
            for (number, piece) in stream.chunks(START_PIECE_LEN).enumerate() {
                due[number % usize::from(of)].extend(piece);
            }
            for (number, due) in (0..).zip(due) {
                prop_assert_eq!(stripe_of(&store, &blobs, number, of), due);
            }
        }
    }
}
