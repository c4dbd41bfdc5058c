//! What every store must do; each implementation runs all of it.

use std::io::{self, Cursor, Read, Seek as _, SeekFrom};

use sway_core::api::blobs::UploadSummary;
use sway_core::blob::{self, Blob, BlobError, FrameHeader};
use sway_core::digest::Digest;

use super::{Batch, BlobStore, Claim, UploadError};

/// Runs the suite; `make` gives an empty store each time.
pub(super) fn check<S: BlobStore>(make: impl Fn() -> S) {
    a_stored_blob_reads_back(&make());
    a_part_of_a_blob_can_be_left_out(&make());
    what_is_not_committed_is_not_there(&make());
    bytes_that_are_not_the_blob_are_refused(&make());
    a_refused_blob_harms_none_beside_it(&make());
    a_collision_is_refused(&make());
    a_batch_counts_what_is_new(&make());
    a_blob_put_aside_is_gone_until_it_comes_again(&make());
    threads_that_upload_one_blob_don_t_disturb_each_other(&make());
}

fn frame(raw: &[u8]) -> (FrameHeader, Vec<u8>) {
    let encoded = blob::encode(raw);
    (FrameHeader::new(Digest::of(raw), raw.len(), encoded.len()), encoded)
}

fn add(batch: &mut dyn Batch, raw: &[u8]) {
    let (header, encoded) = frame(raw);
    batch.add(header.into(), &mut &encoded[..]).unwrap();
}

fn store_one(store: &dyn BlobStore, raw: &[u8]) -> UploadSummary {
    let mut batch = store.batch().unwrap();
    add(&mut *batch, raw);
    batch.commit().unwrap()
}

fn read(store: &dyn BlobStore, digest: Digest) -> Option<Vec<u8>> {
    let mut stored = store.open(digest).unwrap()?;
    assert_eq!(stored.header.digest, digest);
    let mut encoded = Vec::new();
    stored.encoded.read_to_end(&mut encoded).unwrap();
    assert_eq!(encoded.len(), stored.header.encoded_len as usize);
    let blob = Blob::decode(digest, &encoded, stored.header.raw_len as usize).unwrap();
    Some(blob.as_ref().to_vec())
}

fn a_stored_blob_reads_back(store: &dyn BlobStore) {
    let long = b"long ".repeat(100_000);
    for raw in [&b""[..], b"a", &long] {
        let digest = Digest::of(raw);
        assert!(!store.contains(digest).unwrap());
        assert!(store.open(digest).unwrap().is_none());
        assert_eq!(store_one(store, raw), UploadSummary { stored: 1, known: 0 });
        assert!(store.contains(digest).unwrap());
        assert_eq!(read(store, digest).unwrap(), raw);
        assert!(store.open_verified(digest).unwrap().is_some());
    }
}

fn a_part_of_a_blob_can_be_left_out(store: &dyn BlobStore) {
    let raw = b"0123456789".repeat(1000);
    store_one(store, &raw);
    let (header, encoded) = frame(&raw);
    let mut stored = store.open(header.digest).unwrap().unwrap();
    stored.encoded.seek(SeekFrom::Current(7)).unwrap();
    let mut rest = Vec::new();
    stored.encoded.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, encoded[7..]);
}

fn what_is_not_committed_is_not_there(store: &dyn BlobStore) {
    let mut batch = store.batch().unwrap();
    add(&mut *batch, b"a");
    let (blobs, bytes) = batch.size();
    assert!(blobs == 1 && bytes > 0);
    drop(batch);
    assert!(!store.contains(Digest::of(b"a")).unwrap());
}

fn bytes_that_are_not_the_blob_are_refused(store: &dyn BlobStore) {
    let (header, encoded) = frame(&b"hello ".repeat(100));
    let mut batch = store.batch().unwrap();
    let mut refused = |header: FrameHeader, encoded: &[u8]| {
        batch.add(header.into(), &mut &encoded[..]).unwrap_err()
    };
    let other = FrameHeader { digest: Digest::of(b"other"), ..header };
    assert!(matches!(refused(other, &encoded), UploadError::Blob(BlobError::Mismatch { .. })));
    let short = FrameHeader { raw_len: header.raw_len - 1, ..header };
    assert!(matches!(refused(short, &encoded), UploadError::Blob(BlobError::TooLong { .. })));
    let long = FrameHeader { raw_len: header.raw_len + 1, ..header };
    assert!(matches!(refused(long, &encoded), UploadError::Length { form: "raw", .. }));
    let more = FrameHeader { encoded_len: header.encoded_len + 1, ..header };
    assert!(matches!(refused(more, &encoded), UploadError::Length { form: "encoded", .. }));
    let trailing = [&encoded[..], b"smuggled"].concat();
    assert!(matches!(refused(header, &trailing), UploadError::Blob(_)));
    assert!(matches!(refused(header, b"\x07unknown tag"), UploadError::Blob(_)));
    assert!(matches!(refused(header, b""), UploadError::Blob(_)));

    let broken = Claim::from(header);
    let mut breaks_off = Cursor::new(&encoded[..4]).chain(FailingRead);
    assert!(matches!(batch.add(broken, &mut breaks_off), Err(UploadError::Broken(_))));

    // zstd of a byte is longer than the byte.
    let inflated = [&[blob::TAG_ZSTD][..], &zstd::bulk::compress(b"a", 3).unwrap()].concat();
    let claim = Claim { digest: Digest::of(b"a"), lens: None };
    assert!(matches!(batch.add(claim, &mut &inflated[..]), Err(UploadError::Inflated(_))));

    assert_eq!(batch.commit().unwrap(), UploadSummary::default(), "nothing was taken");
    assert!(!store.contains(header.digest).unwrap());
}

fn a_refused_blob_harms_none_beside_it(store: &dyn BlobStore) {
    let raws: Vec<_> = (0..40u8).map(|i| vec![i; 10_000]).collect();
    let mut batch = store.batch().unwrap();
    for raw in &raws {
        add(&mut *batch, raw);
        let (header, _) = frame(raw);
        let (_, other) = frame(&b"other".repeat(1000));
        let lied = Claim { digest: header.digest, lens: None };
        batch.add(lied, &mut &other[..]).unwrap_err();
        let lied = FrameHeader { encoded_len: other.len().try_into().unwrap(), ..header };
        batch.add(lied.into(), &mut &other[..]).unwrap_err();
    }
    assert_eq!(batch.commit().unwrap(), UploadSummary { stored: 40, known: 0 });
    for raw in &raws {
        assert_eq!(&read(store, Digest::of(raw)).unwrap(), raw);
    }
}

/// Fails as a broken connection does.
struct FailingRead;

impl Read for FailingRead {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

fn a_collision_is_refused(store: &dyn BlobStore) {
    // The first 320 bytes of the two files of <https://shattered.io>: one SHA-1, other bytes.
    let files = [
        &include_bytes!("../../tests/data/shattered-1.bin")[..],
        &include_bytes!("../../tests/data/shattered-2.bin")[..],
    ];
    assert_ne!(files[0], files[1]);
    assert_eq!(Digest::of(files[0]), Digest::of(files[1]));
    for raw in files {
        let (header, encoded) = frame(raw);
        let mut batch = store.batch().unwrap();
        let error = batch.add(header.into(), &mut &encoded[..]).unwrap_err();
        assert!(matches!(error, UploadError::Collision(_)), "{error:?}");
    }
}

fn a_batch_counts_what_is_new(store: &dyn BlobStore) {
    store_one(store, b"0");
    let mut batch = store.batch().unwrap();
    // More than are synced one by one.
    let blobs: Vec<_> = (0..40).map(|i: u32| i.to_string().into_bytes()).collect();
    for raw in &blobs {
        add(&mut *batch, raw);
    }
    assert_eq!(batch.commit().unwrap(), UploadSummary { stored: 39, known: 1 });
    for raw in &blobs {
        assert_eq!(&read(store, Digest::of(raw)).unwrap(), raw);
    }
}

fn a_blob_put_aside_is_gone_until_it_comes_again(store: &dyn BlobStore) {
    let digest = Digest::of(b"a");
    store_one(store, b"a");
    store.put_aside(digest).unwrap();
    store.put_aside(digest).unwrap();
    assert!(!store.contains(digest).unwrap());
    store_one(store, b"a");
    assert_eq!(read(store, digest).unwrap(), b"a");
}

fn threads_that_upload_one_blob_don_t_disturb_each_other(store: &dyn BlobStore) {
    let raw = b"shared ".repeat(50_000);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                store_one(store, &raw);
                assert_eq!(read(store, Digest::of(&raw)).unwrap(), raw);
            });
        }
    });
}
