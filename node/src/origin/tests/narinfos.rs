use std::time::Instant;

use super::*;

fn sample() -> NarInfo {
    narinfo(b"nar", Compression::Xz, b"file")
}

fn serve(narinfo: &NarInfo) -> Act {
    Act::Serve(File::new(narinfo.to_string()))
}

#[tokio::test]
async fn first_origin_in_order_answers_and_the_second_is_not_asked() {
    let (a, b) = (FlakyOrigin::start().await, FlakyOrigin::start().await);
    a.on(NARINFO, [serve(&sample())]);
    b.on(NARINFO, [serve(&sample())]);
    let origins = origins(&[&a, &b]);
    let found = origins.narinfo(hash(), None, &[]).await.unwrap();
    assert_eq!((found.narinfo, found.origin, b.requests()), (sample(), OriginId(0), 0));
    let found = origins.narinfo(hash(), None, &[OriginId(0)]).await.unwrap();
    assert_eq!((found.origin, a.requests()), (OriginId(1), 1));
}

#[tokio::test]
async fn base_path_and_credentials_are_kept_and_no_error_shows_them() {
    let server = FlakyOrigin::start().await;
    server.on(&format!("/a/b{NARINFO}"), [serve(&sample()), Act::Status(401, "")]);
    let mut url = server.url.join("/a/b").unwrap();
    url.set_username("user").unwrap();
    url.set_password(Some("secret")).unwrap();
    let origins = Origins::new(quick(vec![url]), Counter::default()).unwrap();
    origins.narinfo(hash(), None, &[]).await.unwrap();
    assert!(server.heads()[0].contains("authorization: Basic dXNlcjpzZWNyZXQ="), "{}", server.heads()[0]);
    let error = origins.narinfo(hash(), None, &[]).await.unwrap_err();
    let text = format!("{error} {error:?} {:?}", origins.health());
    assert!(!text.contains("secret") && text.contains("user name and password"), "{text}");
}

#[tokio::test]
async fn misses_of_all_are_not_found() {
    let (a, b, c) = (FlakyOrigin::start().await, FlakyOrigin::start().await, FlakyOrigin::start().await);
    a.on(NARINFO, [Act::Status(403, "")]);
    b.on(NARINFO, [Act::Status(410, "")]);
    let error = origins(&[&a, &b, &c]).narinfo(hash(), None, &[]).await.unwrap_err();
    assert!(matches!(error, OriginError::NotFound { answered: 3, .. }), "{error}");
    assert_eq!([a.requests(), b.requests(), c.requests()], [1, 1, 1], "a miss is not asked for again");
    let nobody = Origins::new(quick(vec![]), Counter::default()).unwrap();
    assert!(matches!(
        nobody.narinfo(hash(), None, &[]).await,
        Err(OriginError::NotFound { answered: 0, .. })
    ));
}

#[tokio::test]
async fn unreachable_origin_does_not_turn_a_miss_into_an_error_but_a_failing_one_does() {
    let (dead, _socket) = refusing();
    let (misses, fails) = (FlakyOrigin::start().await, FlakyOrigin::start().await);
    fails.on(NARINFO, [Act::Status(500, "")]);
    let origins = |urls| Origins::new(quick(urls), Counter::default()).unwrap();
    let miss = origins(vec![dead.clone(), misses.url.clone()]).narinfo(hash(), None, &[]).await.unwrap_err();
    assert!(matches!(miss, OriginError::NotFound { answered: 1, .. }), "{miss}");
    let error =
        origins(vec![fails.url.clone(), misses.url.clone()]).narinfo(hash(), None, &[]).await.unwrap_err();
    assert!(matches!(error, OriginError::Unavailable { .. }) && !error.is_unreachable(), "{error}");
    let error = origins(vec![dead]).narinfo(hash(), None, &[]).await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
}

#[tokio::test]
async fn narinfo_that_is_broken_or_for_another_path_is_skipped() {
    let (a, b) = (FlakyOrigin::start().await, FlakyOrigin::start().await);
    b.on(NARINFO, [serve(&sample())]);
    let mut other = sample();
    other.store_path = "/nix/store/0000000000000000000000000000000a-other".parse().unwrap();
    let origins = origins(&[&a, &b]);
    let good = sample().to_string();
    for text in
        [other.to_string(), good.trim_end().to_owned(), good.replace("NarHash", "Hash"), String::new()]
    {
        a.on(NARINFO, [Act::Serve(File::new(text.clone()))]);
        assert_eq!(origins.narinfo(hash(), None, &[]).await.unwrap().origin, OriginId(1), "{text}");
    }
    a.on(NARINFO, [Act::Serve(File::new([0xff, 0xfe]))]);
    let error = origins.narinfo(hash(), None, &[OriginId(1)]).await.unwrap_err();
    let OriginError::Unavailable { causes, .. } = error else { panic!("{error}") };
    assert!(matches!(causes[..], [OriginError::Invalid { .. }]), "{causes:?}");
}

#[tokio::test]
async fn narinfo_without_a_trusted_signature_is_skipped_even_when_content_addressed() {
    let (a, b) = (FlakyOrigin::start().await, FlakyOrigin::start().await);
    let (trusted, keys) = signed(sample(), 1);
    let (mut foreign, _) = signed(sample(), 2);
    foreign.ca = Some("fixed:r:sha256:0000000000000000000000000000000000000000000000000000".to_owned());
    a.on(NARINFO, [serve(&foreign)]);
    b.on(NARINFO, [serve(&trusted)]);
    let origins = origins(&[&a, &b]);
    assert_eq!(origins.narinfo(hash(), Some(&keys), &[]).await.unwrap().origin, OriginId(1));
    assert_eq!(origins.narinfo(hash(), None, &[]).await.unwrap().origin, OriginId(0));
    let error = origins.narinfo(hash(), Some(&keys), &[OriginId(1)]).await.unwrap_err();
    assert!(error.to_string().contains("trusted-public-keys"), "{error}");
    assert!(origins.health()[0].healthy, "its answer is bad, it is not dead");
}

#[tokio::test]
async fn hung_origin_is_overtaken_and_has_no_head_start_the_next_time() {
    let (a, b) = (FlakyOrigin::start().await, FlakyOrigin::start().await);
    a.on(NARINFO, [Act::HangBeforeHead]);
    b.on(NARINFO, [serve(&sample())]);
    let hedge_delay = Duration::from_secs(1);
    let config = OriginConfig {
        hedge_delay,
        first_byte_timeout: Duration::from_secs(5),
        answer_timeout: Duration::from_secs(5),
        down_memory: Duration::from_secs(30),
        ..quick(vec![a.url.clone(), b.url.clone()])
    };
    let origins = Origins::new(config, Counter::default()).unwrap();
    let began = Instant::now();
    assert_eq!(origins.narinfo(hash(), None, &[]).await.unwrap().origin, OriginId(1));
    let first = began.elapsed();
    assert!(first >= hedge_delay && first < Duration::from_secs(4), "{first:?}");
    let began = Instant::now();
    assert_eq!(origins.narinfo(hash(), None, &[]).await.unwrap().origin, OriginId(1));
    assert!(began.elapsed() < hedge_delay, "{:?}", began.elapsed());
}

#[tokio::test]
async fn slow_origin_that_alone_has_it_is_waited_for() {
    let (a, b) = (FlakyOrigin::start().await, FlakyOrigin::start().await);
    a.on(NARINFO, [Act::ServeLate(Duration::from_millis(400), File::new(sample().to_string()))]);
    let found = origins(&[&a, &b]).narinfo(hash(), None, &[]).await.unwrap();
    assert_eq!((found.origin, b.requests()), (OriginId(0), 1));
}

#[tokio::test]
async fn huge_narinfo_is_not_read_further_than_its_limit() {
    let server = FlakyOrigin::start().await;
    let huge = vec![b'x'; 8 * 1024 * 1024];
    let received = Counter::default();
    let origins = Origins::new(quick(vec![server.url.clone()]), received.clone()).unwrap();
    let bomb = compress(&Compression::Gzip, &huge).await;
    for file in [
        File::new(huge.clone()),
        File::new(huge.clone()).unannounced(),
        File::new(bomb).header("Content-Encoding", "gzip"),
    ] {
        server.on(NARINFO, [Act::Serve(file)]);
        let error = origins.narinfo(hash(), None, &[]).await.unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }
    assert!(received.get() < 2 * 1024 * 1024, "{} bytes", received.get());
    assert_eq!(server.requests(), 3, "not tried again");
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever_nor_out_of_http() {
    let server = FlakyOrigin::start().await;
    let origins = origins(&[&server]);
    server.on("/there", [serve(&sample())]);
    server.on(NARINFO, [Act::Redirect("/there".to_owned())]);
    assert_eq!(origins.narinfo(hash(), None, &[]).await.unwrap().narinfo, sample());
    for target in [NARINFO, "file:///etc/passwd", "ftp://h.example/x"] {
        server.on(NARINFO, [Act::Redirect(target.to_owned())]);
        let before = server.requests();
        let error = origins.narinfo(hash(), None, &[]).await.unwrap_err();
        let OriginError::Unavailable { causes, .. } = &error else { panic!("{error}") };
        assert!(matches!(causes[0].fault(), Some(Fault::Redirect(_))), "{target}: {error}");
        assert!(server.requests() - before <= MAX_REDIRECTS + 1);
    }
}
