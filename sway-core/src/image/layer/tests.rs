//! One case for each rule, and random layers against a model that knows only whole paths.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;

/// A layer written by the tar crate.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, name: &str, target: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o750 } else { 0o640 });
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(1000);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, name, "", data.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, b"")
    }

    fn layer(self) -> Result<Layer, LayerError> {
        let mut chunks = Vec::new();
        let bytes = self.0.into_inner().unwrap();
        let draft = read_layer(&bytes[..], |bytes| {
            chunks.push(CutChunk::of(&bytes));
            true
        })?;
        Ok(draft.finish(chunks))
    }
}

fn tree(layers: impl IntoIterator<Item = Tar>) -> Result<Tree, LayerError> {
    let mut tree = Tree::new();
    for layer in layers {
        let layer = layer.layer()?;
        assert_eq!(Layer::decode(&layer.encode()).as_ref(), Some(&layer));
        layer.apply(&mut tree)?;
    }
    Ok(tree)
}

/// Paths and what is there: `/` for directories, `-> target`, `= size` of files. Names of one
/// node bear its first name.
fn listing(tree: &Tree) -> Vec<String> {
    fn walk(
        tree: &Tree,
        node: NodeId,
        path: &str,
        seen: &mut BTreeMap<NodeId, String>,
        out: &mut Vec<String>,
    ) {
        for (name, &child) in tree.entries(node).unwrap() {
            let path = format!("{path}{}", String::from_utf8_lossy(name));
            let kind = match tree.kind(child) {
                NodeKind::Directory(_) => {
                    out.push(format!("{path}/"));
                    walk(tree, child, &format!("{path}/"), seen, out);
                    continue;
                }
                NodeKind::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
                NodeKind::Regular(content) => format!("= {}", content.size()),
                other => format!("{other:?}"),
            };
            match seen.get(&child) {
                Some(first) => out.push(format!("{path} is {first}")),
                None => out.push(format!("{path} {kind}")),
            }
            seen.entry(child).or_insert(path);
        }
    }
    let mut out = Vec::new();
    walk(tree, Tree::ROOT, "", &mut BTreeMap::new(), &mut out);
    out
}

fn list(layers: impl IntoIterator<Item = Tar>) -> Vec<String> {
    listing(&tree(layers).unwrap())
}

fn failure(layers: impl IntoIterator<Item = Tar>) -> String {
    tree(layers).unwrap_err().to_string()
}

#[test]
fn a_whiteout_hides_what_lower_layers_brought() {
    let lower = || Tar::new().dir("d").file("d/a", "1").file("d/b", "1").file("c", "1");
    assert_eq!(
        list([lower(), Tar::new().file("d/.wh.a", "").file(".wh.c", "")]),
        ["d/", "d/b = 1"]
    );
    assert_eq!(list([lower(), Tar::new().file(".wh.d", "").file(".wh.nothing", "")]), ["c = 1"]);
}

#[test]
fn a_whiteout_leaves_its_own_layer_alone_wherever_it_stands() {
    let lower = || Tar::new().dir("d").file("d/a", "1").file("d/b", "1");
    let upper_first = Tar::new().dir("d").file("d/a", "22").file(".wh.d", "").file("d/.wh.a", "");
    let upper_last = Tar::new().file("d/.wh.a", "").file(".wh.d", "").dir("d").file("d/a", "22");
    for upper in [upper_first, upper_last] {
        assert_eq!(list([lower(), upper]), ["d/", "d/a = 2"]);
    }
}

#[test]
fn an_opaque_directory_hides_only_what_lower_layers_brought() {
    let lower = || Tar::new().dir("d").file("d/a", "1").dir("d/e").file("d/e/f", "1");
    let opaque = "d/.wh..wh..opq";
    let first = Tar::new().dir("d").file(opaque, "").file("d/n", "1").dir("d/e").file("d/e/g", "1");
    let last = Tar::new().dir("d").file("d/n", "1").dir("d/e").file("d/e/g", "1").file(opaque, "");
    for upper in [first, last] {
        assert_eq!(list([lower(), upper]), ["d/", "d/e/", "d/e/g = 1", "d/n = 1"]);
    }
    assert_eq!(list([lower(), Tar::new().file("nothing/.wh..wh..opq", "")]).len(), 4);
}

#[test]
fn entries_replace_one_another_whatever_they_are() {
    let lower = || Tar::new().dir("x").file("x/in", "1");
    assert_eq!(list([lower(), Tar::new().file("x", "22")]), ["x = 2"]);
    assert_eq!(list([lower(), Tar::new().symlink("x", "y")]), ["x -> y"]);
    assert_eq!(list([lower(), Tar::new().file("x", "22"), lower()]), ["x/", "x/in = 1"]);
    assert_eq!(list([Tar::new().symlink("x", "y").dir("y"), Tar::new().dir("x")]), ["x/", "y/"]);
    assert_eq!(list([lower(), Tar::new().entry(EntryType::Fifo, "x", "", b"")]), ["x Fifo"]);
}

#[test]
fn a_directory_over_a_directory_keeps_its_content_and_takes_the_new_metadata() {
    let tree = tree([Tar::new().file("d/a", "1"), Tar::new().dir("d/")]).unwrap();
    assert_eq!(listing(&tree), ["d/", "d/a = 1"]);
    let node = tree.lookup(Tree::ROOT, b"d").unwrap();
    assert_eq!(tree.metadata(node).permissions, 0o750);
}

#[test]
fn missing_directories_are_made() {
    let tree = tree([Tar::new().file("./a//b/./c", "1")]).unwrap();
    assert_eq!(listing(&tree), ["a/", "a/b/", "a/b/c = 1"]);
    let made = tree.metadata(tree.lookup(Tree::ROOT, b"a").unwrap());
    assert_eq!((made.permissions, made.uid, made.mtime.seconds), (0o755, 0, 0));
}

#[test]
fn the_root_takes_metadata_and_nothing_else() {
    for name in ["./", ".", "/"] {
        let tree = tree([Tar::new().dir(name)]).unwrap();
        assert_eq!(tree.metadata(Tree::ROOT).permissions, 0o750);
    }
    assert!(failure([Tar::new().symlink("./", "/etc")]).contains("root"));
}

#[test]
fn hard_links_share_a_node_across_directories_and_layers() {
    let lower = || Tar::new().file("a/f", "1").link("b/g", "a/f");
    assert_eq!(list([lower()]), ["a/", "a/f = 1", "b/", "b/g is a/f"]);
    let upper = Tar::new().link("c", "/b/g");
    assert_eq!(list([lower(), upper]), ["a/", "a/f = 1", "b/", "b/g is a/f", "c is a/f"]);
}

#[test]
fn a_link_keeps_the_node_when_the_other_name_is_replaced() {
    let lower = || Tar::new().file("f", "1").link("g", "f");
    assert_eq!(list([lower(), Tar::new().file("f", "22")]), ["f = 2", "g = 1"]);
    assert_eq!(list([lower(), Tar::new().file(".wh.f", "")]), ["g = 1"]);
}

#[test]
fn a_hard_link_to_a_symlink_links_the_symlink() {
    assert_eq!(list([Tar::new().symlink("s", "t").link("l", "s")]), ["l -> t", "s is l"]);
}

#[test]
fn a_hard_link_needs_a_target_that_is_no_directory() {
    assert!(failure([Tar::new().link("l", "nothing")]).contains("nothing, which is not there"));
    assert!(failure([Tar::new().file("f", "").link("f", "f")]).contains("which is not there"));
    assert!(failure([Tar::new().dir("d").link("l", "d")]).contains("to a directory"));
}

#[test]
fn the_way_to_an_entry_follows_links_inside_the_tree() {
    for (target, expected) in [
        ("real", "real/f = 1"),
        ("/real", "real/f = 1"),
        ("../../real", "real/f = 1"),
        ("missing/../real", "real/f = 1"),
        ("new/deep", "new/deep/f = 1"),
    ] {
        let found =
            list([Tar::new().dir("real").symlink("s", target), Tar::new().file("s/f", "1")]);
        assert!(found.contains(&expected.to_owned()), "{target}: {found:?}");
        assert!(found.contains(&format!("s -> {target}")), "{target}: {found:?}");
    }
    let around = Tar::new().symlink("a", "b").symlink("b", "a").file("a/f", "1");
    assert!(failure([around]).contains("too many symbolic links"));
}

#[test]
fn a_whiteout_through_a_link_hides_what_it_leads_to() {
    let lower = Tar::new().file("real/f", "1").symlink("s", "real");
    assert_eq!(list([lower, Tar::new().file("s/.wh.f", "")]), ["real/", "s -> real"]);
}

#[test]
fn a_path_through_a_file_is_refused() {
    let message = failure([Tar::new().file("f", "1"), Tar::new().file("f/x", "1")]);
    assert!(message.contains("not a directory"), "{message}");
}

#[test]
fn ways_out_of_the_image_are_refused() {
    for name in ["../x", "a/../../x", "a/..", "..", "../.wh.x"] {
        let message = failure([Tar::new().file(name, "1")]);
        assert!(message.contains("..") && message.contains(name), "{message}");
    }
    assert!(failure([Tar::new().file("/etc/x", "1")]).contains("absolute path"));
    assert!(failure([Tar::new().file("//x", "1")]).contains("absolute path"));
    assert!(failure([Tar::new().link("l", "../../etc/shadow")]).contains("../../etc/shadow"));
}

#[test]
fn impossible_names_and_whiteouts_of_nothing_are_refused() {
    for name in [".wh.", "d/.wh.", ".wh..", ".wh..."] {
        assert!(tree([Tar::new().dir("d").file(name, "")]).is_err(), "{name}");
    }
    assert!(failure([Tar::new().file("", "1")]).contains("no name"));
    assert!(failure([Tar::new().symlink("s", "")]).contains("symbolic link"));
}

#[test]
fn what_aufs_kept_for_itself_is_left_aside() {
    assert!(list([Tar::new().dir(".wh..wh.plnk").file(".wh..wh.aufs", "")]).is_empty());
}

#[test]
fn the_compression_is_told_by_the_first_bytes() {
    let plain = Tar::new().file("a", "hello").0.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut gzip, &plain).unwrap();
    let zstd = zstd::stream::encode_all(&plain[..], 1).unwrap();
    for packed in [plain.clone(), gzip.finish().unwrap(), zstd] {
        let mut unpacked = Vec::new();
        decompress(&packed[..]).unwrap().read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == plain);
        // A stream that ends early is an error or lacks its end.
        let mut cut = Vec::new();
        let result = decompress(&packed[..packed.len() - 9]).unwrap().read_to_end(&mut cut);
        assert!(result.is_err() || cut.len() < plain.len());
    }
}

/// What a random layer does.
#[derive(Clone, Debug)]
enum Step {
    File(String, u8),
    Dir(String),
    Whiteout(String),
    Opaque(String),
}

fn step() -> impl Strategy<Value = Step> {
    let path = prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|parts| parts.join("/"));
    (path, 0u8..4, 1u8..9).prop_map(|(path, kind, size)| match kind {
        0 => Step::File(path, size),
        1 => Step::Dir(path),
        2 => Step::Whiteout(path),
        _ => Step::Opaque(path),
    })
}

/// The model: whole paths to sizes, none for directories. A layer is its removals, then its
/// entries in order; that is what the specification says, without walking a tree.
fn model(layers: &[Vec<Step>]) -> Option<BTreeMap<String, Option<u8>>> {
    let mut files: BTreeMap<String, Option<u8>> = BTreeMap::new();
    for layer in layers {
        for step in layer {
            match step {
                Step::Whiteout(path) => {
                    files.retain(|name, _| name != path && !name.starts_with(&format!("{path}/")));
                }
                Step::Opaque(path) => {
                    files.retain(|name, _| !name.starts_with(&format!("{path}/")));
                }
                Step::File(..) | Step::Dir(_) => {}
            }
        }
        for step in layer {
            let (path, content) = match step {
                Step::File(path, size) => (path, Some(*size)),
                Step::Dir(path) => (path, None),
                _ => continue,
            };
            for (at, _) in path.match_indices('/') {
                match files.entry(path[..at].to_owned()).or_insert(None) {
                    None => {}
                    // A path through a file is refused.
                    Some(_) => return None,
                }
            }
            if content.is_some() {
                files.retain(|name, _| !name.starts_with(&format!("{path}/")));
            }
            files.insert(path.clone(), content);
        }
    }
    Some(files)
}

proptest! {
    #[test]
    fn layers_give_what_the_model_gives(
        layers in prop::collection::vec(prop::collection::vec(step(), 0..8), 1..4)
    ) {
        let Some(expected) = model(&layers) else { return Ok(()) };
        let tars = layers.iter().map(|layer| layer.iter().fold(Tar::new(), |tar, step| match step {
            Step::File(path, size) => tar.file(path, &"x".repeat(usize::from(*size))),
            Step::Dir(path) => tar.dir(path),
            Step::Whiteout(path) => {
                let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
                tar.file(&format!("./{directory}/.wh.{name}"), "")
            }
            Step::Opaque(path) => tar.file(&format!("{path}/.wh..wh..opq"), ""),
        }));
        // Where the way leads through a file of a lower layer, the layer is refused; the model
        // only knows the case of entries.
        let Ok(tree) = tree(tars) else { return Ok(()) };
        let expected: Vec<String> = expected
            .iter()
            .map(|(path, content)| match content {
                Some(size) => format!("{path} = {size}"),
                None => format!("{path}/"),
            })
            .collect();
        let mut found = listing(&tree);
        found.sort();
        let mut expected = expected;
        expected.sort();
        prop_assert_eq!(found, expected);
    }
}
