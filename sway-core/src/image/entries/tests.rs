//! Tars made by hand, one for each thing that builders write into them.

#![expect(clippy::cast_possible_truncation, reason = "all lengths here are small")]

use super::*;

/// A header block with its checksum.
fn header(flag: u8, name: &[u8], size: u64, edit: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkflag = [flag];
    header.set_size(size);
    header.set_mode(0o4755);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(9);
    edit(&mut header);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn block(mut data: Vec<u8>) -> Vec<u8> {
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

fn file(name: &[u8], data: &[u8]) -> Vec<u8> {
    [header(b'0', name, data.len() as u64, |_| {}), block(data.to_vec())].concat()
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut len = rest.len();
    while len != rest.len() + len.to_string().len() {
        len = rest.len() + len.to_string().len();
    }
    [len.to_string().into_bytes(), rest].concat()
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let data: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    [header(b'x', b"pax", data.len() as u64, |_| {}), block(data)].concat()
}

fn end() -> Vec<u8> {
    vec![0; 1024]
}

fn read(parts: &[Vec<u8>]) -> Result<Vec<(Entry, Vec<ContentPiece>)>, EntryError> {
    let bytes = parts.concat();
    let mut entries = Entries::new(&bytes[..]);
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry()? {
        let pieces = entries.pieces(&entry).collect::<Result<_, _>>()?;
        found.push((entry, pieces));
    }
    Ok(found)
}

fn read_one(parts: &[Vec<u8>]) -> (Entry, Vec<ContentPiece>) {
    let mut found = read(parts).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

/// The bytes of a file whose pieces are these.
fn bytes_of(pieces: &[ContentPiece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        match piece {
            ContentPiece::Data(data) => bytes.extend_from_slice(data),
            ContentPiece::Holes(count) => {
                bytes.resize(bytes.len() + *count as usize * CHUNK_LEN as usize, 0);
            }
        }
    }
    bytes
}

#[test]
fn a_plain_file_is_read_with_all_of_its_header() {
    let (entry, pieces) = read_one(&[file(b"./a/b", b"hello"), end()]);
    assert_eq!(entry.path, b"./a/b");
    assert_eq!(entry.kind, EntryKind::Regular);
    assert_eq!((entry.permissions, entry.uid, entry.gid), (0o4755, 7, 8));
    assert_eq!(entry.mtime, Timestamp { seconds: 9, nanoseconds: 0 });
    assert_eq!(pieces, [ContentPiece::Data(b"hello".to_vec())]);
}

#[test]
fn pax_values_replace_those_of_the_header() {
    let long = vec![b'n'; 300];
    let (entry, pieces) = read_one(&[
        pax(&[
            ("path", &long),
            ("size", b"3"),
            ("uid", b"123456789"),
            ("gid", b"4000000000"),
            ("mtime", b"-1.25"),
            ("SCHILY.xattr.security.capability", b"\x01\n\0=\n2"),
            ("SCHILY.xattr.user.gone", b""),
        ]),
        header(b'0', b"short", 0, |_| {}),
        block(b"abc".to_vec()),
        end(),
    ]);
    assert_eq!(entry.path, long);
    assert_eq!((entry.uid, entry.gid), (123_456_789, 4_000_000_000));
    assert_eq!(entry.mtime, Timestamp { seconds: -2, nanoseconds: 750_000_000 });
    assert_eq!(entry.xattrs.len(), 1);
    assert_eq!(entry.xattrs[&b"security.capability"[..]], b"\x01\n\0=\n2");
    assert_eq!(bytes_of(&pieces), b"abc");
}

#[test]
fn pax_times_have_nanoseconds() {
    for (text, seconds, nanoseconds) in [
        ("0", 0, 0),
        ("1.5", 1, 500_000_000),
        ("1.1234567899", 1, 123_456_789),
        ("-1", -1, 0),
        ("-0.000000001", -1, 999_999_999),
        ("1.", 1, 0),
    ] {
        let expected = Timestamp { seconds, nanoseconds };
        assert_eq!(pax_time(text.as_bytes()), Some(expected), "{text}");
    }
    for text in ["", "x", "1.x", "--1", ".5", "1e3"] {
        assert_eq!(pax_time(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn gnu_long_names_and_targets_are_joined_to_their_entry() {
    let (name, target) = (vec![b'a'; 200], vec![b'b'; 3000]);
    let with_nul = |text: &[u8]| block([text, b"\0"].concat());
    let (entry, _) = read_one(&[
        header(b'L', b"././@LongLink", 201, |_| {}),
        with_nul(&name),
        header(b'K', b"././@LongLink", 3001, |_| {}),
        with_nul(&target),
        header(b'2', b"aaa", 0, |_| {}),
        end(),
    ]);
    assert_eq!((entry.path, entry.target, entry.kind), (name, target, EntryKind::Symlink));
}

#[test]
fn numbers_may_be_binary_and_negative() {
    let (entry, _) = read_one(&[
        header(b'0', b"f", 0, |header| {
            header.as_old_mut().uid = [0x80, 0, 0, 0, 0x12, 0x34, 0x56, 0x78];
            header.as_old_mut().mtime = [0xff; 12];
        }),
        end(),
    ]);
    assert_eq!(entry.uid, 0x1234_5678);
    assert_eq!(entry.mtime.seconds, -1);
    assert_eq!(number(b"0000017\0"), Some(15));
    assert_eq!(number(b"   17 \0\0"), Some(15));
    assert_eq!(number(b"\0\0\0\0"), Some(0));
    assert_eq!(number(b"12x4"), None);
}

#[test]
fn a_ustar_prefix_belongs_to_the_name() {
    let mut header = Header::new_ustar();
    header.as_ustar_mut().unwrap().prefix[..3].copy_from_slice(b"a/b");
    header.as_old_mut().name[0] = b'c';
    header.set_cksum();
    let (entry, _) = read_one(&[header.as_bytes().to_vec(), end()]);
    assert_eq!(entry.path, b"a/b/c");
}

#[test]
fn device_numbers_are_packed_as_glibc_does() {
    let device = |major, minor| {
        let (entry, _) = read_one(&[
            header(b'3', b"d", 0, |header| {
                header.set_device_major(major).unwrap();
                header.set_device_minor(minor).unwrap();
            }),
            end(),
        ]);
        entry.device
    };
    assert_eq!(device(1, 3), 0x103);
    assert_eq!(device(259, 0x1_2345), 0x1231_0345);
}

/// A PAX 1.0 sparse file whose data areas are `(start, bytes)`.
fn sparse_1_0(size: u64, areas: &[(u64, &[u8])]) -> Vec<u8> {
    let mut map = format!("{}\n", areas.len());
    let mut data = Vec::new();
    for (start, bytes) in areas {
        map += &format!("{start}\n{}\n", bytes.len());
        data.extend_from_slice(bytes);
    }
    let stored = [block(map.into_bytes()), data].concat();
    [
        pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", size.to_string().as_bytes()),
        ]),
        header(b'0', b"GNUSparseFile.1/sparse", stored.len() as u64, |_| {}),
        block(stored),
    ]
    .concat()
}

#[test]
fn all_forms_of_sparse_files_give_the_same_bytes() {
    let chunk = u64::from(CHUNK_LEN);
    let size = 5 * chunk + 10;
    let areas: [(u64, &[u8]); 3] = [(3, b"start"), (2 * chunk - 2, b"seam"), (size - 1, b"!")];
    let mut expected = vec![0; size as usize];
    let mut data = Vec::new();
    for (start, bytes) in areas {
        expected[start as usize..][..bytes.len()].copy_from_slice(bytes);
        data.extend_from_slice(bytes);
    }
    let stored = data.len() as u64;
    let plain = [header(b'0', b"sparse", stored, |_| {}), block(data.clone())].concat();
    let list: Vec<String> =
        areas.iter().map(|(start, bytes)| format!("{start},{}", bytes.len())).collect();
    let real_size = size.to_string();
    let mut pax_0_0: Vec<(&str, Vec<u8>)> = vec![("GNU.sparse.size", real_size.clone().into())];
    for (start, bytes) in areas {
        pax_0_0.push(("GNU.sparse.offset", start.to_string().into()));
        pax_0_0.push(("GNU.sparse.numbytes", bytes.len().to_string().into()));
    }
    let pax_0_0: Vec<(&str, &[u8])> =
        pax_0_0.iter().map(|(key, value)| (*key, value.as_slice())).collect();
    let forms = [
        sparse_1_0(size, &areas),
        [
            pax(&[
                ("GNU.sparse.size", real_size.as_bytes()),
                ("GNU.sparse.map", list.join(",").as_bytes()),
            ]),
            plain.clone(),
        ]
        .concat(),
        [pax(&pax_0_0), plain].concat(),
        [
            header(b'S', b"sparse", stored, |header| {
                let gnu = header.as_gnu_mut().unwrap();
                gnu.set_real_size(size);
                for (field, (start, bytes)) in gnu.sparse.iter_mut().zip(areas) {
                    field.set_offset(start);
                    field.set_length(bytes.len() as u64);
                }
            }),
            block(data),
        ]
        .concat(),
    ];
    for (form, bytes) in forms.into_iter().enumerate() {
        let found = read(&[bytes, file(b"next", b"n"), end()]).unwrap();
        assert_eq!(found.len(), 2, "form {form}");
        let (entry, pieces) = &found[0];
        assert_eq!((entry.path.as_slice(), entry.size), (&b"sparse"[..], size), "form {form}");
        assert_eq!(bytes_of(pieces), expected, "form {form}");
        assert!(pieces.contains(&ContentPiece::Holes(2)), "form {form}");
        assert_eq!(bytes_of(&found[1].1), b"n", "form {form}");
    }
}

#[test]
fn the_old_sparse_form_goes_on_in_further_blocks() {
    let mut more = GnuExtSparseHeader::new();
    for (index, field) in more.sparse_mut().iter_mut().enumerate().take(2) {
        field.set_offset(100 + index as u64 * 10);
        field.set_length(1);
    }
    let bytes = [
        header(b'S', b"sparse", 6, |header| {
            let gnu = header.as_gnu_mut().unwrap();
            gnu.set_real_size(120);
            gnu.set_is_extended(true);
            for (index, field) in gnu.sparse.iter_mut().enumerate() {
                field.set_offset(index as u64 * 10);
                field.set_length(1);
            }
        }),
        more.as_bytes().to_vec(),
        block(b"abcdef".to_vec()),
    ]
    .concat();
    let (_, pieces) = read_one(&[bytes, end()]);
    let bytes = bytes_of(&pieces);
    assert_eq!((bytes[0], bytes[30], bytes[100], bytes[110]), (b'a', b'd', b'e', b'f'));
    assert_eq!(bytes.len(), 120);
}

#[test]
fn two_tebibytes_of_holes_are_a_few_pieces() {
    let size = 2u64 << 40;
    let (entry, pieces) = read_one(&[sparse_1_0(size, &[(1 << 40, b"middle")]), end()]);
    assert_eq!(entry.size, size);
    assert_eq!(pieces.len(), 3);
    assert_eq!(pieces[0], ContentPiece::Holes(1 << 23));
    assert_eq!(pieces[2], ContentPiece::Holes((1 << 23) - 1));
}

#[test]
fn a_map_that_lies_is_refused() {
    let chunk = u64::from(CHUNK_LEN);
    for (size, areas) in [
        (10, vec![(8, &b"abc"[..])]),
        (chunk, vec![(5, b"abc"), (6, b"abc")]),
        (chunk, vec![(50, b"abc"), (6, b"abc")]),
        (u64::MAX, vec![(u64::MAX - 1, b"abc")]),
        (1 << 60, vec![]),
    ] {
        let result = read(&[sparse_1_0(size, &areas), end()]);
        assert!(matches!(result, Err(EntryError::Malformed { .. })), "{size} {areas:?}");
    }
}

#[test]
fn every_truncation_but_between_entries_is_noticed() {
    let bytes = [file(b"a", &[1; 700]), pax(&[("path", b"b")]), file(b"x", b"y")].concat();
    let whole = read(std::slice::from_ref(&bytes)).unwrap().len();
    assert_eq!(whole, 2);
    for len in (1..bytes.len()).filter(|&len| len != 512 + 1024) {
        let result = read(&[bytes[..len].to_vec()]);
        assert!(matches!(result, Err(EntryError::Truncated)), "{len}: {result:?}");
    }
}

#[test]
fn other_bytes_are_no_archive() {
    for bytes in [vec![b'x'; 512], {
        let mut bytes = file(b"a", b"b");
        bytes[0] = b'z';
        bytes
    }] {
        assert!(matches!(read(&[bytes]), Err(EntryError::Malformed { .. })));
    }
    assert_eq!(read(&[]).unwrap().len(), 0);
}

#[test]
fn an_extended_header_of_a_gigabyte_is_refused_unread() {
    let result = read(&[header(b'x', b"pax", 1 << 30, |_| {})]);
    assert!(matches!(result, Err(EntryError::Malformed { .. })));
}

#[test]
fn links_and_nodes_have_no_data_whatever_their_size_says() {
    let bytes = [header(b'1', b"l", 1000, |_| {}), file(b"a", b"b"), end()];
    assert_eq!(read(&bytes).unwrap().len(), 2);
}

proptest::proptest! {
    #[test]
    fn foreign_bytes_never_panic(mut bytes in proptest::collection::vec(0u8.., 0..3000)) {
        let _ = read(&[bytes.clone()]);
        // The same behind a header that is sound.
        if bytes.len() >= 512 {
            let flag = b"0123456xgLKS"[usize::from(bytes[0]) % 12];
            let sound = header(flag, b"n", u64::from(bytes[1]), |_| {});
            bytes[..512].copy_from_slice(&sound);
            let _ = read(&[bytes]);
        }
    }
}
