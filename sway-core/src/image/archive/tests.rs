//! Layouts made by hand.

use serde_json::json;

use super::*;

/// Blobs by digest, and the index over them.
#[derive(Default)]
struct Store(HashMap<String, Vec<u8>>);

impl Store {
    fn put(&mut self, media_type: &str, document: &serde_json::Value) -> serde_json::Value {
        let bytes = document.to_string().into_bytes();
        let digest = Sha256Hex::of(&bytes).to_string();
        let size = bytes.len();
        self.0.insert(digest.clone(), bytes);
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
    }

    fn image(&mut self, architecture: &str, layers: usize) -> serde_json::Value {
        let layer = format!("sha256:{}", "0".repeat(64));
        let config = self.put(
            "application/vnd.oci.image.config.v1+json",
            &json!({
                "architecture": architecture, "os": "linux",
                "config": {"Env": ["A=1"], "Cmd": ["sh"], "User": "7", "WorkingDir": "/w"},
                "rootfs": {"type": "layers", "diff_ids": vec![layer.clone(); layers]},
            }),
        );
        let descriptor = json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": layer, "size": 5,
        });
        self.put(
            MANIFEST,
            &json!({"schemaVersion": 2, "config": config, "layers": vec![descriptor; layers]}),
        )
    }

    fn plan(
        &self,
        manifests: &[serde_json::Value],
        reference: Option<&str>,
    ) -> Result<ImagePlan, ArchiveError> {
        let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        plan_oci(index.as_bytes(), reference, &"linux/amd64".parse().unwrap(), |digest| {
            let blob = self.0.get(&digest.to_string());
            blob.cloned().ok_or_else(|| ArchiveError::Absent(digest.to_string()))
        })
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn with(
    mut descriptor: serde_json::Value,
    key: &str,
    value: serde_json::Value,
) -> serde_json::Value {
    descriptor[key] = value;
    descriptor
}

fn named(descriptor: serde_json::Value, name: &str) -> serde_json::Value {
    with(descriptor, "annotations", json!({"org.opencontainers.image.ref.name": name}))
}

#[test]
fn the_image_of_a_layout_is_found_with_its_configuration() {
    let mut store = Store::default();
    let image = store.image("amd64", 2);
    let plan = store.plan(&[image], None).unwrap();
    assert_eq!(plan.layers.len(), 2);
    assert_eq!(plan.config.env, ["A=1"]);
    assert_eq!((plan.config.user.as_str(), plan.config.working_dir.as_str()), ("7", "/w"));
}

#[test]
fn the_platform_chooses_in_nested_indexes() {
    let mut store = Store::default();
    let platform = |arch| json!({"os": "linux", "architecture": arch});
    let arm = with(store.image("arm64", 1), "platform", platform("arm64"));
    let amd = with(store.image("amd64", 3), "platform", platform("amd64"));
    let attestation = with(
        store.image("unknown", 9),
        "platform",
        json!({"os": "unknown", "architecture": "unknown"}),
    );
    let index = json!({"schemaVersion": 2, "manifests": [arm.clone(), amd, attestation]});
    let inner = store.put(INDEX, &index);
    assert_eq!(store.plan(&[inner], None).unwrap().layers.len(), 3);
    let error = store.plan(&[arm], None).unwrap_err().to_string();
    assert!(error.contains("linux/arm64"), "{error}");
}

#[test]
fn a_name_chooses_among_several_images() {
    let mut store = Store::default();
    let images = [named(store.image("amd64", 1), "one"), named(store.image("amd64", 2), "two")];
    assert_eq!(store.plan(&images, Some("two")).unwrap().layers.len(), 2);
    let error = store.plan(&images, None).unwrap_err().to_string();
    assert!(error.contains("one") && error.contains("two"), "{error}");
    let error = store.plan(&images, Some("three")).unwrap_err().to_string();
    assert!(error.contains("three"), "{error}");
    let same = [named(store.image("amd64", 1), "one"), named(store.image("amd64", 1), "again")];
    assert!(store.plan(&same, None).is_ok());
}

#[test]
fn a_document_that_is_not_its_digest_is_refused() {
    let mut store = Store::default();
    let image = store.image("amd64", 1);
    for (digest, bytes) in store.0.clone() {
        let mut bad = Store(store.0.clone());
        bad.0.insert(digest, [bytes, b" ".to_vec()].concat());
        let error = bad.plan(std::slice::from_ref(&image), None).unwrap_err();
        assert!(matches!(error, ArchiveError::Mismatch { .. }), "{error}");
    }
}

#[test]
fn an_index_that_holds_itself_ends() {
    let mut store = Store::default();
    let mut index = store.put(INDEX, &json!({"schemaVersion": 2, "manifests": []}));
    for _ in 0..10 {
        index = store.put(INDEX, &json!({"schemaVersion": 2, "manifests": [index]}));
    }
    assert!(store.plan(&[index], None).is_err());
}

#[test]
fn malformed_documents_are_errors() {
    let store = Store::default();
    let platform = "linux/amd64".parse().unwrap();
    for index in ["", "{", "[]", "{\"manifests\": 3}"] {
        assert!(plan_oci(index.as_bytes(), None, &platform, |_| unreachable!()).is_err());
    }
    let escape = json!({"mediaType": MANIFEST, "digest": "sha256:../../etc/passwd", "size": 1});
    assert!(matches!(store.plan(&[escape], None), Err(ArchiveError::Malformed { .. })));
}

#[test]
fn the_image_of_a_docker_archive_is_found() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    });
    let manifest = json!([
        {"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l/layer.tar"]},
        {"Config": "c.json", "RepoTags": null, "Layers": []},
    ]);
    let plan = |reference| {
        let platform = "linux/amd64".parse().unwrap();
        let read = |name: &str| {
            assert_eq!(name, "c.json");
            Ok(config.to_string().into_bytes())
        };
        plan_docker(manifest.to_string().as_bytes(), reference, &platform, read)
    };
    let found = plan(Some("a:1")).unwrap();
    assert_eq!(found.layers[0].place, LayerPlace::Member("l/layer.tar".to_owned()));
    assert!(plan(None).unwrap_err().to_string().contains("2 images"));
    assert!(plan(Some("b")).unwrap_err().to_string().contains("a:1"));
}

#[test]
fn members_are_found_by_position_and_through_links() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_cksum();
    builder.append_data(&mut header.clone(), "./a/layer.tar", &b"hello"[..]).unwrap();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    builder.append_link(&mut header, "b/layer.tar", "../a/layer.tar").unwrap();
    let bytes = builder.into_inner().unwrap();
    let members = Members::read(io::Cursor::new(&bytes)).unwrap();
    for name in ["a/layer.tar", "b/layer.tar"] {
        let (position, len) = members.find(name).unwrap();
        let position = usize::try_from(position).unwrap();
        assert_eq!((&bytes[position..][..5], len), (&b"hello"[..], 5));
    }
    assert!(matches!(members.find("c"), Err(ArchiveError::Absent(_))));
    let cut = Members::read(io::Cursor::new(&bytes[..520]));
    assert!(matches!(cut, Err(ArchiveError::Entry(EntryError::Truncated))));
}

#[test]
fn checked_bytes_are_compared_to_their_very_end() {
    let expected = Sha256Hex::of(b"hello");
    let mut checked = Checked::new(&b"hello"[..]);
    checked.read_exact(&mut [0; 2]).unwrap();
    checked.finish("it", &expected).unwrap();
    let error = Checked::new(&b"hellx"[..]).finish("it", &expected).unwrap_err();
    assert!(error.to_string().contains(&expected.to_string()), "{error}");
}
