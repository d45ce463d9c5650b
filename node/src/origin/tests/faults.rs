use std::time::Instant;

use super::*;

#[tokio::test]
async fn truncated_body_is_an_error_whatever_it_is_truncated_by() {
    let nar = nar_bytes(200_000);
    let server = FlakyOrigin::start().await;
    let origins = origins(&[&server]);
    for compression in CODECS {
        let file = compress(&compression, &nar).await;
        let half = file.len() / 2;
        let full = narinfo(&nar, compression.clone(), &file);
        let mut silent = full.clone();
        (silent.file_hash, silent.file_size) = (None, None);

        server.on(NAR, [Act::CutBody(File::new(file.clone()), half)]);
        let (_, cut) = fault(&origins, &full).await;
        assert!(matches!(cut, Fault::Broken { .. }), "{compression}: {cut}");
        // No length in the answer, so only the narinfo tells.
        server.on(NAR, [Act::Serve(File::new(&file[..half]).unannounced())]);
        let (_, cut) = fault(&origins, &full).await;
        assert!(matches!(cut, Fault::FileSize { at_least: false, .. }), "{compression}: {cut}");
        let (_, cut) = fault(&origins, &silent).await;
        assert!(matches!(cut, Fault::Decode { .. } | Fault::Short { .. }), "{compression}: {cut}");
        // Found out before a byte is read.
        server.on(NAR, [Act::Serve(File::new(&file[..half]))]);
        let (length, cut) = fault(&origins, &full).await;
        assert!(matches!(cut, Fault::FileSize { .. }) && length == 0, "{compression}: {cut}");
    }
}

#[tokio::test]
async fn wrong_file_hash_short_nar_and_garbage_are_errors() {
    let nar = nar_bytes(200_000);
    let server = FlakyOrigin::start().await;
    let origins = origins(&[&server]);
    for compression in CODECS {
        let file = compress(&compression, &nar).await;
        server.on(NAR, [Act::Serve(File::new(file.clone()))]);
        let mut wrong = narinfo(&nar, compression.clone(), &file);
        wrong.file_hash = Some(Sha256Digest::of(b"something else"));
        let (_, seen) = fault(&origins, &wrong).await;
        assert!(matches!(seen, Fault::FileHash { .. }), "{compression}: {seen}");

        let mut longer = narinfo(&nar, compression.clone(), &file);
        longer.nar_size += 1;
        let (_, seen) = fault(&origins, &longer).await;
        assert!(matches!(seen, Fault::Short { at: 200_000, .. }), "{compression}: {seen}");

        if compression != Compression::None {
            let mut garbage = file.clone();
            garbage.iter_mut().skip(3).for_each(|byte| *byte ^= 0x55);
            server.on(NAR, [Act::Serve(File::new(garbage))]);
            let (_, seen) = fault(&origins, &narinfo(&nar, compression.clone(), &file)).await;
            assert!(matches!(seen, Fault::Decode { .. }), "{compression}: {seen}");
        }
    }
    assert!(origins.health()[0].healthy, "it answers; only its files are bad");
    assert!(origins.health()[0].last_error.is_some());
}

#[tokio::test]
async fn every_flipped_byte_is_noticed() {
    let nar = nar_bytes(20_000);
    let server = FlakyOrigin::start().await;
    let origins = origins(&[&server]);
    for compression in CODECS.into_iter().filter(|codec| *codec != Compression::None) {
        let file = compress(&compression, &nar).await;
        let narinfo = narinfo(&nar, compression.clone(), &file);
        for at in (0..file.len()).step_by(file.len() / 30) {
            let mut flipped = file.clone();
            flipped[at] ^= 1 << (at % 8);
            server.on(NAR, [Act::Serve(File::new(flipped))]);
            let (length, error) = fault(&origins, &narinfo).await;
            assert!(length <= nar.len(), "{compression} at {at}: {length} bytes, {error}");
        }
    }
}

#[tokio::test]
async fn file_longer_than_its_size_is_stopped() {
    let nar = nar_bytes(200_000);
    let server = FlakyOrigin::start().await;
    let file = compress(&Compression::Gzip, &nar).await;
    server.on(NAR, [Act::Serve(File::new([&file[..], &file[..]].concat()).unannounced())]);
    let (_, seen) = fault(&origins(&[&server]), &narinfo(&nar, Compression::Gzip, &file)).await;
    assert!(
        matches!(seen, Fault::FileSize { at_least: true, .. } | Fault::LongerThanNarSize { .. }),
        "{seen}"
    );
}

#[tokio::test]
async fn silence_is_bounded_wherever_it_begins() {
    let nar = nar_bytes(200_000);
    for compression in [Compression::None, Compression::Xz] {
        let server = FlakyOrigin::start().await;
        let origins = origins(&[&server]);
        let file = compress(&compression, &nar).await;
        let narinfo = narinfo(&nar, compression.clone(), &file);
        let whole = File::new(file.clone());
        for (act, wanted, limit_ms) in [
            (Act::HangBeforeHead, "no first byte within 600.0ms", 600),
            (Act::HangAfterHead(whole.clone()), "no first byte", 600),
            (Act::HangInBody(whole.clone(), 900), "no byte for 400.0ms at byte 900", 400),
            (Act::Drip(whole.clone(), Duration::from_millis(30)), "bytes within", 600),
        ] {
            server.on(NAR, [act]);
            let began = Instant::now();
            let (_, error) = fetch(&origins, &narinfo).await;
            let text = error.unwrap().to_string();
            assert!(text.contains(wanted), "{compression}: {text}");
            let elapsed = began.elapsed();
            assert!(elapsed < Duration::from_millis(limit_ms + 1500), "{wanted}: {elapsed:?}");
            // The strikes of this test must not add up.
            server.on(NAR, [Act::Serve(whole.clone())]);
            assert!(fetch(&origins, &narinfo).await.1.is_none());
        }
    }
}

#[tokio::test]
async fn dripping_narinfo_ends_with_the_answer_timeout() {
    let server = FlakyOrigin::start().await;
    let text = narinfo(b"nar", Compression::Xz, b"file").to_string();
    server.on(NARINFO, [Act::Drip(File::new(text), Duration::from_millis(100))]);
    let config = OriginConfig {
        progress_timeout: Duration::from_secs(5),
        answer_timeout: Duration::from_millis(800),
        ..quick(vec![server.url.clone()])
    };
    let began = Instant::now();
    let error =
        Origins::new(config, Counter::default()).unwrap().narinfo(hash(), None, &[]).await.unwrap_err();
    assert!(matches!(error, OriginError::Unavailable { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn passing_failures_are_tried_again_and_lasting_ones_are_not_tried_for_ever() {
    let server = FlakyOrigin::start().await;
    let origins = origins(&[&server]);
    let text = narinfo(b"nar", Compression::Xz, b"file").to_string();
    let good = Act::Serve(File::new(text.clone()));
    for passing in [
        Act::Status(500, ""),
        Act::Status(503, "Retry-After: 0\r\n"),
        Act::Status(429, ""),
        Act::Status(408, ""),
        Act::Close,
        Act::CutBody(File::new(text.clone()), 10),
    ] {
        server.on(NARINFO, [passing.clone(), passing, good.clone()]);
        origins.narinfo(hash(), None, &[]).await.unwrap();
    }
    let before = server.requests();
    server.on(NARINFO, [Act::Status(502, "")]);
    let text = origins.narinfo(hash(), None, &[]).await.unwrap_err().to_string();
    assert_eq!(server.requests() - before, 3);
    for part in ["GET http://127.0.0.1", NARINFO, "attempt 3 of 3", "status 502"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for lasting in [
        Act::Status(400, ""),
        Act::Status(501, ""),
        Act::Status(503, "Retry-After: 18446744073709551615\r\n"),
    ] {
        let before = server.requests();
        server.on(NARINFO, [lasting]);
        origins.narinfo(hash(), None, &[]).await.unwrap_err();
        assert_eq!(server.requests() - before, 1);
        server.on(NARINFO, [good.clone()]);
        origins.narinfo(hash(), None, &[]).await.unwrap();
    }
}

#[tokio::test]
async fn nar_that_is_missing_or_unavailable_is_an_error_at_opening() {
    let server = FlakyOrigin::start().await;
    let origins = origins(&[&server]);
    let narinfo = narinfo(b"nar", Compression::None, b"nar");
    let error = origins.open_nar(&narinfo, OriginId(0)).await.unwrap_err();
    assert!(error.is_miss(), "{error}");
    server.on(NAR, [Act::Status(500, ""), Act::Serve(File::new(b"nar"))]);
    assert!(fetch(&origins, &narinfo).await.1.is_none(), "the second attempt succeeds");
}

#[tokio::test]
async fn dead_origin_costs_one_request_its_time_and_is_found_again() {
    let server = FlakyOrigin::start().await;
    let down_memory = Duration::from_secs(2);
    let config = OriginConfig { down_memory, ..quick(vec![server.url.clone()]) };
    let origins = Origins::new(config, Counter::default()).unwrap();
    server.on(NARINFO, [Act::HangBeforeHead]);
    let text = origins.narinfo(hash(), None, &[]).await.unwrap_err().to_string();
    assert!(text.contains("origin-first-byte-timeout"), "{text}");
    assert_eq!(server.requests(), 1, "a silence is not waited for twice");

    let began = Instant::now();
    let error = origins.narinfo(hash(), None, &[]).await.unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains("is not asked for another"), "{error}");
    assert!(began.elapsed() < Duration::from_millis(500));
    assert_eq!(server.requests(), 1);
    let health = &origins.health()[0];
    assert!(!health.healthy && health.retry_in > Some(Duration::ZERO), "{health:?}");

    server.on(NARINFO, [Act::Serve(File::new(narinfo(b"nar", Compression::Xz, b"file").to_string()))]);
    tokio::time::sleep(down_memory).await;
    origins.narinfo(hash(), None, &[]).await.unwrap();
    assert!(origins.health()[0].healthy);
}

#[tokio::test]
async fn refused_connection_says_what_to_check_and_is_remembered() {
    let (url, _socket) = refusing();
    let origins = Origins::new(quick(vec![url]), Counter::default()).unwrap();
    let text = origins.narinfo(hash(), None, &[]).await.unwrap_err().to_string();
    for part in ["attempt 3 of 3", "no connection", "refused", "check that the cache runs"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!origins.health()[0].healthy);
}
