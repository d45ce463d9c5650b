use prometheus_client::metrics::counter::Counter;
use tempfile::TempDir;

use super::*;
use crate::origin::OriginConfig;

fn open(directory: &TempDir) -> SideFiles {
    let config = OriginConfig { urls: Vec::new(), ..OriginConfig::default() };
    let origins = Origins::new(config, Counter::default()).unwrap();
    SideFiles::open(directory.path(), origins, Duration::from_secs(10)).unwrap()
}

fn file(text: &'static str) -> SideFile {
    SideFile { bytes: Bytes::from_static(text.as_bytes()), encoding: Some("br".to_owned()) }
}

#[tokio::test]
async fn uploads_survive_a_restart_and_replace_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(&directory);
    assert_eq!(files.get("log/x").await, Err(SourceError::NotFound));
    assert_eq!(files.put("log/x", file("first")).await, Ok(true));
    assert_eq!(files.put("log/x", file("second")).await, Ok(false));
    assert_eq!(files.put("log/empty", file("")).await, Ok(true));
    drop(files);
    let files = open(&directory);
    assert_eq!(files.get("log/x").await, Ok(file("second")));
    assert_eq!(files.get("log/empty").await, Ok(file("")));
    assert_eq!(files.get("log/y").await, Err(SourceError::NotFound));
}

#[tokio::test]
async fn damaged_and_unfinished_files_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(&directory);
    files.put("log/x", file("right")).await.unwrap();
    let path = directory.path().join("side").join(Key::of("log/x").file_name());
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(files.get("log/x").await, Err(SourceError::NotFound));
    std::fs::write(directory.path().join("side/7.new"), "half").unwrap();
    std::fs::write(&path, "no header").unwrap();
    let files = open(&directory);
    assert_eq!(files.get("log/x").await, Err(SourceError::NotFound));
    assert_eq!(std::fs::read_dir(directory.path().join("side")).unwrap().count(), 0);
}
