//! Routes of blobs.

use std::io::{self, BufWriter, Cursor, Read, Seek as _, SeekFrom, Write};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sway_core::api::blobs::{DIGESTS_MAX, DigestList, FRAMES_MEDIA_TYPE, UploadSummary};
use sway_core::blob::{
    self, BLOB_LEN_MAX, BlobError, FRAME_HEADER_LEN, FrameHeader, TAG_RAW, TAG_ZSTD,
};
use sway_core::digest::{Digest, Hasher};
use sway_server::error::{Json, Path, Query, ServerError};
use sway_server::guard::Identity;

use super::access::{self, Of};
use super::body::{self, BodyWriter, PIECE_LEN};
use super::stripe::{self, StripeOf};
use super::{App, blocking, place};
use crate::blobs::{BlobStore, Claim, StoreError, StoredBlob, UploadError};

/// A request with this header is answered from verified bytes only.
const VERIFY_HEADER: &str = "x-sway-verify";

/// The longest body of one `POST /v1/blobs`, in bytes.
const UPLOAD_LEN_MAX: u64 = 4 << 30;

/// A batch is made durable when it holds so many blobs, or bytes.
const BATCH_BLOBS_MAX: usize = 4096;
const BATCH_BYTES_MAX: u64 = 256 << 20;

/// A body up to this length that comes by PUT is encoded anew, in whatever form is smaller.
const SMALL_LEN_MAX: usize = 64 << 10;

/// What is read of a refused upload, so that its sender gets to the answer.
const DRAIN_LEN_MAX: u64 = 64 << 20;

/// `POST /v1/blobs/missing`
pub(super) async fn missing(
    State(app): State<App>,
    identity: Identity,
    headers: HeaderMap,
    Json(list): Json<DigestList>,
) -> Result<Json<DigestList>, ServerError> {
    check_len(&list)?;
    let verify = wants_verified(&headers);
    let asked = list.digests.iter().copied();
    let hidden = access::hidden(&app, &identity, asked, Of::SentOrRead).await?;
    blocking(move || {
        let (mut missing, mut told) = (Vec::new(), Vec::new());
        for digest in list.digests {
            let there = !hidden.contains(&digest)
                && if verify {
                    app.blobs.open_verified(digest)?.is_some()
                } else {
                    app.blobs.contains(digest)?
                };
            if there { told.push(digest) } else { missing.push(digest) }
        }
        if !access::sees_all(&identity) {
            // Nobody has to send what is there: it counts as sent.
            app.holdings.add(&identity.user, told);
        }
        Ok::<_, StoreError>(Json(DigestList { digests: missing }))
    })
    .await
}

/// `POST /v1/blobs`
pub(super) async fn upload(
    State(app): State<App>,
    identity: Identity,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<UploadSummary>, ServerError> {
    check_content_length(&headers, UPLOAD_LEN_MAX)?;
    let place = place(&app.uploads).await?;
    let mut body = body::reader(body).take(UPLOAD_LEN_MAX);
    blocking(move || {
        let _place = place;
        let sender = Sender { app: &app, identity: &identity };
        drained(receive(&sender, &mut body), &mut body)
    })
    .await
    .map(Json)
}

/// `PUT /v1/blobs/{digest}`
pub(super) async fn put(
    State(app): State<App>,
    Path(digest): Path<Digest>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ServerError> {
    check_content_length(&headers, BLOB_LEN_MAX as u64)?;
    let tag = match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => TAG_RAW,
        Some(b"zstd") => TAG_ZSTD,
        Some(_) => {
            let message = "a blob's content-encoding is zstd or none";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(ServerError::new(status, "unsupported_encoding", message));
        }
    };
    let place = place(&app.uploads).await?;
    // One byte more than a blob may have, so that a longer one is told from one that fits.
    let mut body = body::reader(body).take(BLOB_LEN_MAX as u64 + 1);
    let summary = blocking(move || {
        let _place = place;
        drained(receive_one(&*app.blobs, digest, tag, &mut body), &mut body)
    })
    .await?;
    let status = if summary.stored > 0 { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [(header::ETAG, etag(digest))], Json(summary)).into_response())
}

/// `POST /v1/blobs/fetch`
pub(super) async fn fetch(
    State(app): State<App>,
    identity: Identity,
    Query(stripe): Query<StripeOf>,
    headers: HeaderMap,
    Json(list): Json<DigestList>,
) -> Result<Response, ServerError> {
    check_len(&list)?;
    stripe.check().map_err(|why| ServerError::bad_request("malformed_query", why))?;
    let verify = wants_verified(&headers);
    let asked = list.digests.iter().copied();
    let hidden = access::hidden(&app, &identity, asked, Of::Read).await?;
    let body = stripe::frames(&app, list.digests, hidden, stripe, verify).await?;
    Ok(([(header::CONTENT_TYPE, FRAMES_MEDIA_TYPE)], body).into_response())
}

/// `GET /v1/blobs/{digest}`
pub(super) async fn get(
    State(app): State<App>,
    Path(digest): Path<Digest>,
    headers: HeaderMap,
) -> Result<Response, ServerError> {
    let (stored, headers) = find(&app, digest, &headers).await?;
    let as_stored = headers.contains_key(header::CONTENT_ENCODING);
    let body = stream(&app, move |store, out| {
        let mut encoded = stored.encoded;
        if as_stored {
            encoded.read_exact(&mut [0u8])?;
            io::copy(&mut encoded, out)?;
        } else {
            let raw = blob::decoder(digest, encoded).map_err(io::Error::other)?;
            let mut raw = Hashing { from: raw, hasher: Hasher::new() };
            io::copy(&mut raw, out)?;
            // The last piece still waits in the buffer: a caller that does not verify gets no
            // wrong bytes without noticing that the answer broke off.
            if raw.hasher.finish() != digest {
                let _ = store.open_verified(digest);
                return Err(io::Error::other(format!("blob {digest} is corrupt")));
            }
        }
        Ok(())
    })
    .await?;
    Ok((headers, body).into_response())
}

/// Hashes what is read.
struct Hashing<R> {
    from: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(out)?;
        self.hasher.update(&out[..n]);
        Ok(n)
    }
}

/// `HEAD /v1/blobs/{digest}`
pub(super) async fn head(
    State(app): State<App>,
    Path(digest): Path<Digest>,
    headers: HeaderMap,
) -> Result<Response, ServerError> {
    let (_, headers) = find(&app, digest, &headers).await?;
    Ok((headers, Body::empty()).into_response())
}

/// A blob, and the headers of an answer with it: as it is stored if that is zstd and the caller
/// takes it, else raw.
async fn find(
    app: &App,
    digest: Digest,
    asked: &HeaderMap,
) -> Result<(StoredBlob, HeaderMap), ServerError> {
    let (store, verify) = (Arc::clone(&app.blobs), wants_verified(asked));
    let opening = blocking(move || {
        let Some(mut stored) = open(&*store, digest, verify)? else {
            return Ok(None);
        };
        let mut tag = [0u8];
        stored
            .encoded
            .read_exact(&mut tag)
            .map_err(StoreError::io(format!("read blob {digest}")))?;
        stored
            .encoded
            .seek(SeekFrom::Current(-1))
            .map_err(StoreError::io(format!("read blob {digest}")))?;
        Ok::<_, StoreError>(Some((stored, tag[0])))
    });
    let (stored, tag) = opening.await?.ok_or_else(|| blob_not_found(digest))?;

    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ETAG, etag(digest));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    let len = if tag == TAG_ZSTD && accepts_zstd(asked) {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        stored.header.encoded_len - 1
    } else {
        stored.header.raw_len
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    Ok((stored, headers))
}

/// Starts `fill` on a thread of its own; the body is what it writes, in pieces of [`PIECE_LEN`].
pub(super) async fn stream<F>(app: &App, fill: F) -> Result<Body, ServerError>
where
    F: FnOnce(&dyn BlobStore, &mut BufWriter<&mut BodyWriter>) -> io::Result<()> + Send + 'static,
{
    pieces(app, move |store, writer| {
        let mut out = BufWriter::with_capacity(PIECE_LEN, writer);
        let filled = fill(store, &mut out).and_then(|()| out.flush());
        // What is left in the buffer after an error must not follow.
        let _ = out.into_parts();
        filled
    })
    .await
}

/// Starts `fill` on a thread of its own; the body is what it writes, each piece as it comes.
pub(super) async fn pieces<F>(app: &App, fill: F) -> Result<Body, ServerError>
where
    F: FnOnce(&dyn BlobStore, &mut BodyWriter) -> io::Result<()> + Send + 'static,
{
    let place = place(&app.downloads).await?;
    let store = Arc::clone(&app.blobs);
    let (body, mut writer) = body::channel();
    app.tasks.spawn_blocking("stream blobs", move || {
        let _place = place;
        if let Err(error) = fill(&*store, &mut writer) {
            if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::TimedOut) {
                tracing::error!(%error, "an answer broke off");
            }
            writer.abort(error);
        }
    });
    Ok(body)
}

pub(super) fn open(
    store: &dyn BlobStore,
    digest: Digest,
    verify: bool,
) -> Result<Option<StoredBlob>, StoreError> {
    if verify { store.open_verified(digest) } else { store.open(digest) }
}

pub(super) fn wants_verified(headers: &HeaderMap) -> bool {
    headers.get(VERIFY_HEADER).is_some_and(|value| value == "1")
}

pub(super) fn blob_not_found(digest: Digest) -> ServerError {
    ServerError::not_found("blob_not_found", format!("there is no blob {digest}"))
}

pub(super) fn etag(digest: Digest) -> HeaderValue {
    HeaderValue::try_from(format!("\"{digest}\"")).expect("hex digits are ASCII")
}

fn accepts_zstd(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).any(
        |value| {
            value.split(',').any(|one| {
                let (coding, weight) = one.split_once(';').unwrap_or((one, ""));
                let refused = matches!(weight.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
                coding.trim().eq_ignore_ascii_case("zstd") && !refused
            })
        },
    )
}

fn check_len(list: &DigestList) -> Result<(), ServerError> {
    if list.digests.len() <= DIGESTS_MAX {
        return Ok(());
    }
    let message = format!("{} digests in one list", list.digests.len());
    Err(ServerError::too_large(message).hint(format!("send at most {DIGESTS_MAX} at a time")))
}

fn check_content_length(headers: &HeaderMap, len_max: u64) -> Result<(), ServerError> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length > len_max => Err(ServerError::too_large(format!(
            "a body of {length} bytes; at most {len_max} are taken"
        ))),
        _ => Ok(()),
    }
}

/// Reads on after a refusal: a sender that is still sending would see a broken connection
/// instead of the answer.
fn drained<T>(result: Result<T, UploadError>, body: &mut impl Read) -> Result<T, UploadError> {
    match &result {
        Ok(_) | Err(UploadError::Broken(_)) => {}
        Err(_) => {
            let _ = io::copy(&mut body.take(DRAIN_LEN_MAX), &mut io::sink());
        }
    }
    result
}

/// Who sends blobs.
struct Sender<'a> {
    app: &'a App,
    identity: &'a Identity,
}

impl Sender<'_> {
    /// What is told of a batch that was stored. To a user, a blob is new that the user has not sent
    /// before: whether others have it is theirs to know.
    fn told(&self, sent: &mut Vec<Digest>, stored: UploadSummary) -> UploadSummary {
        count(&stored);
        let sent = std::mem::take(sent);
        if access::sees_all(self.identity) {
            return stored;
        }
        let all = sent.len() as u64;
        let stored = self.app.holdings.add(&self.identity.user, sent);
        UploadSummary { stored, known: all - stored }
    }
}

/// Takes frames until the body ends. Whole batches that came before a bad frame stay.
fn receive(sender: &Sender<'_>, body: &mut impl Read) -> Result<UploadSummary, UploadError> {
    let store = &*sender.app.blobs;
    let (mut total, mut sent) = (UploadSummary::default(), Vec::new());
    let mut batch = store.batch()?;
    while let Some(header) = read_header(body)? {
        let mut encoded = body.take(header.encoded_len.into());
        if let Err(error) = batch.add(header.into(), &mut encoded) {
            return Err(cut_short(error, &mut encoded));
        }
        sent.push(header.digest);
        let (blobs, bytes) = batch.size();
        if blobs >= BATCH_BLOBS_MAX || bytes >= BATCH_BYTES_MAX {
            add(&mut total, &sender.told(&mut sent, batch.commit()?));
            batch = store.batch()?;
        }
    }
    add(&mut total, &sender.told(&mut sent, batch.commit()?));
    Ok(total)
}

/// The next frame's header; none at the end of the body.
fn read_header(body: &mut impl Read) -> Result<Option<FrameHeader>, UploadError> {
    let mut bytes = Vec::with_capacity(FRAME_HEADER_LEN);
    body.take(FRAME_HEADER_LEN as u64).read_to_end(&mut bytes).map_err(UploadError::Broken)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let bytes = bytes.try_into().map_err(|_| ended_early())?;
    let header = FrameHeader::from_bytes(&bytes)?;
    if header.is_missing() {
        let reason = "its frame has no bytes".to_owned();
        return Err(BlobError::Malformed { digest: header.digest, reason }.into());
    }
    Ok(Some(header))
}

/// Bytes that broke off are told from bytes that are wrong.
fn cut_short(error: UploadError, encoded: &mut io::Take<&mut impl Read>) -> UploadError {
    let unread = encoded.limit() > 0;
    if unread && matches!(encoded.read(&mut [0u8]), Ok(0)) { ended_early() } else { error }
}

fn ended_early() -> UploadError {
    UploadError::Broken(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends within a frame"))
}

/// Takes one blob that comes without a frame.
fn receive_one(
    store: &dyn BlobStore,
    digest: Digest,
    tag: u8,
    body: &mut impl Read,
) -> Result<UploadSummary, UploadError> {
    let mut start = vec![tag];
    body.take(SMALL_LEN_MAX as u64 + 1).read_to_end(&mut start).map_err(UploadError::Broken)?;
    let claim = Claim { digest, lens: None };
    let mut batch = store.batch()?;
    match small_again(digest, &start) {
        Some(encoded) => batch.add(claim, &mut &encoded[..])?,
        None => batch.add(claim, &mut Cursor::new(start).chain(body))?,
    }
    let summary = batch.commit()?;
    count(&summary);
    Ok(summary)
}

/// A small blob in its smallest form: compression by the sender may have made it longer.
fn small_again(digest: Digest, encoded: &[u8]) -> Option<Vec<u8>> {
    if encoded.len() > SMALL_LEN_MAX {
        return None;
    }
    blob::decode(digest, encoded, 16 * SMALL_LEN_MAX).ok().map(|raw| blob::encode(&raw))
}

fn add(total: &mut UploadSummary, part: &UploadSummary) {
    total.stored += part.stored;
    total.known += part.known;
}

fn count(summary: &UploadSummary) {
    metrics::counter!("sway_fileserver_stored_blobs_total").increment(summary.stored);
    metrics::counter!("sway_fileserver_known_blobs_total").increment(summary.known);
}
