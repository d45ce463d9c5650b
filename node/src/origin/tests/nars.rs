use super::*;

#[tokio::test]
async fn nar_may_stand_at_another_host() {
    let (cache, cdn) = (FlakyOrigin::start().await, FlakyOrigin::start().await);
    let nar = nar_bytes(10_000);
    cdn.on("/x?sig=1", [Act::Serve(File::new(nar.clone()))]);
    let mut narinfo = narinfo(&nar, Compression::None, &nar);
    narinfo.url = cdn.url.join("/x?sig=1").unwrap().to_string();
    let (bytes, error) = fetch(&origins(&[&cache]), &narinfo).await;
    assert!(error.is_none() && bytes == nar, "{error:?}");
    assert_eq!(cache.requests(), 0);
}

#[tokio::test]
async fn file_without_size_and_hash_is_taken_at_nar_size() {
    let server = FlakyOrigin::start().await;
    let nar = nar_bytes(10_000);
    let file = compress(&Compression::Zstd, &nar).await;
    let mut narinfo = narinfo(&nar, Compression::Zstd, &file);
    (narinfo.file_hash, narinfo.file_size) = (None, None);
    server.on(NAR, [Act::Serve(File::new(file.clone()).unannounced())]);
    let origins = origins(&[&server]);
    let (bytes, error) = fetch(&origins, &narinfo).await;
    assert!(error.is_none() && bytes == nar, "{error:?}");
    // Neither side may hide bytes behind the end.
    for junk in [&[0; 5][..], b"junk"] {
        server.on(NAR, [Act::Serve(File::new([&file, junk].concat()))]);
        let (_, fault) = fault(&origins, &narinfo).await;
        assert!(matches!(fault, Fault::Decode { .. }), "{fault}");
    }
    let br = compress(&Compression::Br, &nar).await;
    server.on(NAR, [Act::Serve(File::new([&br[..], b"junk"].concat()))]);
    narinfo.compression = Compression::Br;
    let (_, fault) = fault(&origins, &narinfo).await;
    assert!(matches!(&fault, Fault::Decode { reason, .. } if reason.contains("follow")), "{fault}");
}

#[tokio::test]
async fn a_file_comes_as_it_is_from_the_first_that_has_it_and_ends_well_only_with_its_hash() {
    let (empty, server) = (FlakyOrigin::start().await, FlakyOrigin::start().await);
    let origins = origins(&[&empty, &server]);
    let file = compress(&Compression::Xz, &nar_bytes(300_000)).await;
    let open = || origins.open_file("nar/file", Sha256Digest::of(&file));
    assert!(open().await.unwrap().is_none());
    server.on(NAR, [Act::Serve(File::new(file.clone()))]);
    let (bytes, error) = drain(open().await.unwrap().expect("the second has it")).await;
    assert!(error.is_none() && bytes == file, "{error:?}");

    server.on(NAR, [Act::Serve(File::new([&file[..], b"more"].concat()))]);
    let (_, error) = drain(open().await.unwrap().expect("a file")).await;
    let Some(OriginError::Request(request)) = error else { panic!("{error:?}") };
    assert!(matches!(request.fault, Fault::FileHash { .. }), "{request}");
}

#[tokio::test]
async fn broken_body_is_taken_up_where_it_broke() {
    let nar = nar_bytes(400_000);
    let server = FlakyOrigin::start().await;
    for compression in [Compression::None, Compression::Xz] {
        let file = compress(&compression, &nar).await;
        let ranged = File::new(file.clone()).with_ranges("\"v1\"");
        server.on(NAR, [Act::CutBody(ranged.clone(), 1000), Act::Close, Act::Serve(ranged.clone())]);
        let received = Counter::default();
        let origins = Origins::new(quick(vec![server.url.clone()]), received.clone()).unwrap();
        let (bytes, error) = fetch(&origins, &narinfo(&nar, compression.clone(), &file)).await;
        assert!(error.is_none() && bytes == nar, "{compression}: {error:?}");
        assert_eq!(received.get(), file.len() as u64, "nothing is fetched twice");
        let last = server.heads().pop().unwrap().to_lowercase();
        assert!(last.contains("range: bytes=1000-\r\n") && last.contains("if-range: \"v1\""), "{last}");
    }
}

#[tokio::test]
async fn stalled_body_is_taken_up_too() {
    let nar = nar_bytes(100_000);
    let server = FlakyOrigin::start().await;
    let file = File::new(nar.clone()).with_ranges("\"v1\"");
    server.on(NAR, [Act::HangInBody(file.clone(), 70_000), Act::Serve(file)]);
    let (bytes, error) = fetch(&origins(&[&server]), &narinfo(&nar, Compression::None, &nar)).await;
    assert!(error.is_none() && bytes == nar, "{error:?}");
}

#[tokio::test]
async fn body_is_not_continued_with_another_file() {
    let nar = nar_bytes(100_000);
    let server = FlakyOrigin::start().await;
    let file = File::new(nar.clone()).with_ranges("\"v1\"");
    let shorter = File::new(nar[..90_000].to_vec()).with_ranges("\"v2\"");
    // The whole instead of the rest, and the rest of something else.
    for next in [File::new(nar.clone()), shorter] {
        server.on(NAR, [Act::CutBody(file.clone(), 70_000), Act::Serve(next)]);
        let (length, fault) = fault(&origins(&[&server]), &narinfo(&nar, Compression::None, &nar)).await;
        assert!(matches!(fault, Fault::Broken { at: 70_000, .. }) && length <= 70_000, "{length}, {fault}");
    }
}

#[tokio::test]
async fn paused_reader_holds_up_the_origin_and_is_not_blamed_for_it() {
    let nar = nar_bytes(48 * 1024 * 1024);
    for compression in [Compression::None, Compression::Zstd] {
        let server = FlakyOrigin::start().await;
        let file = compress(&compression, &nar).await;
        server.on(NAR, [Act::Serve(File::new(file.clone()))]);
        let received = Counter::default();
        let origins = Origins::new(quick(vec![server.url.clone()]), received.clone()).unwrap();
        let narinfo = narinfo(&nar, compression.clone(), &file);
        let mut stream = origins.open_nar(&narinfo, OriginId(0)).await.unwrap();
        let first = stream.next().await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(received.get() < 4 * 1024 * 1024, "{compression}: {} bytes read ahead", received.get());
        let (rest, error) = drain(stream).await;
        assert!(error.is_none(), "{compression}: {error:?}");
        assert_eq!(Sha256Digest::of(&[&first[..], &rest].concat()), narinfo.nar_hash);
    }
}

#[tokio::test]
async fn places_are_bounded_and_last_as_long_as_the_body() {
    let server = FlakyOrigin::start().await;
    let nar = nar_bytes(300_000);
    for compression in [Compression::None, Compression::Gzip] {
        let file = compress(&compression, &nar).await;
        let narinfo = narinfo(&nar, compression, &file);
        server.on(NAR, [Act::HangInBody(File::new(file.clone()), 10), Act::Serve(File::new(file))]);
        let config = OriginConfig {
            max_open_nars: 1,
            progress_timeout: Duration::from_secs(5),
            ..quick(vec![server.url.clone()])
        };
        let origins = Origins::new(config, Counter::default()).unwrap();
        let open = origins.open_nar(&narinfo, OriginId(0)).await.unwrap();
        let error = origins.open_nar(&narinfo, OriginId(0)).await.unwrap_err();
        assert!(matches!(error, OriginError::Busy { open: 1, .. }), "{error}");
        drop(open);
        let (bytes, error) = fetch(&origins, &narinfo).await;
        assert!(error.is_none() && bytes == nar, "{error:?}");
    }
}

#[tokio::test]
async fn unknown_origin_is_an_error() {
    let server = FlakyOrigin::start().await;
    let narinfo = narinfo(b"nar", Compression::None, b"nar");
    let error = origins(&[&server]).open_nar(&narinfo, OriginId(1)).await.unwrap_err();
    assert!(matches!(error, OriginError::UnknownOrigin(OriginId(1))));
}

/// Where the stream of a NAR that was asked for from `from` starts, what it yields and how it ends.
async fn fetch_from(origins: &Origins, narinfo: &NarInfo, from: u64) -> (u64, Vec<u8>, Option<OriginError>) {
    let mut stream = origins.open_nar_from(narinfo, OriginId(0), from).await.unwrap();
    let (start, mut bytes) = (stream.starts_at(), Vec::new());
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => return (start, bytes, Some(error)),
        }
    }
    (start, bytes, None)
}

#[tokio::test]
async fn the_rest_of_an_uncompressed_nar_can_be_asked_for() {
    const FROM: usize = 250_001;
    let nar = nar_bytes(400_000);
    let server = FlakyOrigin::start().await;
    let received = Counter::default();
    let origins = Origins::new(quick(vec![server.url.clone()]), received.clone()).unwrap();
    let narinfo = narinfo(&nar, Compression::None, &nar);
    let ranged = File::new(nar.clone()).with_ranges("\"v1\"");

    server.on(NAR, [Act::Serve(ranged.clone())]);
    let (start, bytes, error) = fetch_from(&origins, &narinfo, FROM as u64).await;
    assert!(error.is_none() && start == FROM as u64 && bytes == nar[FROM..], "{error:?}");
    assert_eq!(received.get(), (nar.len() - FROM) as u64);

    // Who cannot do that sends all of it: at once, or when asked again.
    let whole = File::new(nar.clone());
    let other_length = File::new(nar[..300_000].to_vec()).with_ranges("\"v2\"");
    for acts in [
        vec![Act::Serve(whole.clone())],
        vec![Act::Serve(other_length), Act::Serve(whole.clone())],
        vec![Act::Status(416, ""), Act::Serve(whole.clone())],
    ] {
        server.on(NAR, acts);
        let (start, bytes, error) = fetch_from(&origins, &narinfo, FROM as u64).await;
        assert!(error.is_none() && start == 0 && bytes == nar, "{error:?}");
    }
}

#[tokio::test]
async fn a_compressed_nar_always_comes_from_its_start() {
    let nar = nar_bytes(100_000);
    let server = FlakyOrigin::start().await;
    let file = compress(&Compression::Xz, &nar).await;
    server.on(NAR, [Act::Serve(File::new(file.clone()).with_ranges("\"v1\""))]);
    let narinfo = narinfo(&nar, Compression::Xz, &file);
    let (start, bytes, error) = fetch_from(&origins(&[&server]), &narinfo, 50_000).await;
    assert!(error.is_none() && start == 0 && bytes == nar, "{error:?}");
    assert!(!server.heads().pop().unwrap().to_lowercase().contains("range:"));
}
