use std::path::Path;

use bytes::Bytes;
use p2p_cache_http_gateway::memory::MemoryArtifact;
use p2p_cache_protocol::{BlobId, Digest};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::nix_store::nar::dump;

async fn list_bytes(nar: Vec<u8>) -> io::Result<Value> {
    let artifact = MemoryArtifact::new(Digest::Blake3(BlobId::of(&nar)), Bytes::from(nar));
    Ok(serde_json::from_slice(&list(Arc::new(artifact)).await?).expect("it is JSON"))
}

fn nar_of(path: &Path) -> Vec<u8> {
    let mut nar = Vec::new();
    dump(path, &mut nar).expect("dumped");
    nar
}

#[tokio::test]
async fn a_tree_is_listed_with_the_places_of_its_contents() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("root");
    std::fs::create_dir_all(root.join("empty")).expect("a directory");
    std::fs::create_dir_all(root.join("sub/deep")).expect("a directory");
    std::fs::write(root.join("a \"b\"\n"), "quoted").expect("a file");
    std::fs::write(root.join("sub/none"), "").expect("a file");
    let large: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(root.join("sub/deep/large"), &large).expect("a file");
    std::fs::write(root.join("z"), "last").expect("a file");
    std::os::unix::fs::symlink("sub/deep", root.join("link")).expect("a link");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(root.join("z"), std::fs::Permissions::from_mode(0o755)).expect("a mode");

    let nar = nar_of(&root);
    let listing = list_bytes(nar.clone()).await.expect("listed");
    let root = &listing["root"]["entries"];
    let at = |file: &Value| file["narOffset"].as_u64().expect("an offset") as usize;
    let deep = &root["sub"]["entries"]["deep"]["entries"]["large"];
    assert_eq!(nar[at(deep)..][..large.len()], large);
    assert_eq!(&nar[at(&root["z"])..][..4], b"last");
    assert_eq!(root["a \"b\"\n"]["size"], 6);
    assert_eq!(root["link"], json!({"type": "symlink", "target": "sub/deep"}));
    assert_eq!(root["empty"], json!({"type": "directory", "entries": {}}));
    assert_eq!(
        (&root["z"]["executable"], &root["sub"]["entries"]["none"]["size"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(listing["version"], 1);
}

#[tokio::test]
async fn a_single_file_or_link_is_a_tree_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "contents").expect("a file");
    let listing = list_bytes(nar_of(&file)).await.expect("listed");
    assert_eq!(listing["root"], json!({"type": "regular", "size": 8, "narOffset": 96}));
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("file", &link).expect("a link");
    let listing = list_bytes(nar_of(&link)).await.expect("listed");
    assert_eq!(listing["root"], json!({"type": "symlink", "target": "file"}));
}

#[tokio::test]
async fn what_is_no_nar_or_goes_on_behind_its_end_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("file"), "x").expect("a file");
    let nar = nar_of(directory.path());
    for end in 0..nar.len() {
        assert!(list_bytes(nar[..end].to_vec()).await.is_err(), "cut at {end}");
    }
    assert!(list_bytes([&nar[..], &[0; 8]].concat()).await.is_err());
    let mut endless = Vec::new();
    for text in ["nix-archive-1", "(", "type", "directory"] {
        push(&mut endless, text);
    }
    for _ in 0..=MAX_DEPTH {
        for text in ["entry", "(", "name", "d", "node", "(", "type", "directory"] {
            push(&mut endless, text);
        }
    }
    assert!(list_bytes(endless).await.expect_err("too deep").to_string().contains("deeper"));
}

fn push(nar: &mut Vec<u8>, text: &str) {
    nar.extend_from_slice(&(text.len() as u64).to_le_bytes());
    nar.extend_from_slice(text.as_bytes());
    nar.resize(nar.len().next_multiple_of(8), 0);
}

proptest! {
    #[test]
    fn no_bytes_panic(nar: Vec<u8>, words in prop::collection::vec("(|[(]|[)]|entry|type|regular|contents|name|node|symlink|directory)", 0..30)) {
        let mut framed = Vec::new();
        push(&mut framed, "nix-archive-1");
        words.iter().for_each(|word| push(&mut framed, word));
        framed.extend_from_slice(&nar);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let _ = runtime.block_on(list_bytes(framed));
        let _ = runtime.block_on(list_bytes(nar));
    }
}
