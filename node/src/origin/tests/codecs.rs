use super::*;

const LENGTH: usize = 700_000;

#[tokio::test]
async fn every_codec_streams_to_the_same_bytes_and_counts_what_crossed_the_wire() {
    let nar = nar_bytes(LENGTH);
    for compression in CODECS {
        let server = FlakyOrigin::start().await;
        let file = compress(&compression, &nar).await;
        server.on(NAR, [Act::Serve(File::new(file.clone()))]);
        let received = Counter::default();
        let origins = Origins::new(quick(vec![server.url.clone()]), received.clone()).unwrap();
        let (bytes, error) = fetch(&origins, &narinfo(&nar, compression.clone(), &file)).await;
        assert!(error.is_none() && bytes == nar, "{compression}: {error:?}");
        assert_eq!(received.get(), file.len() as u64, "{compression}");
    }
}

#[tokio::test]
async fn files_of_several_members_are_one_stream() {
    let nar = nar_bytes(LENGTH);
    let server = FlakyOrigin::start().await;
    let origins = origins(&[&server]);
    for compression in [Compression::Xz, Compression::Zstd, Compression::Bzip2, Compression::Gzip] {
        let mut file = Vec::new();
        for part in nar.chunks(LENGTH / 3) {
            file.extend(compress(&compression, part).await);
        }
        server.on(NAR, [Act::Serve(File::new(file.clone()))]);
        let (bytes, error) = fetch(&origins, &narinfo(&nar, compression.clone(), &file)).await;
        assert!(error.is_none() && bytes == nar, "{compression}: {error:?}");
    }
}

#[tokio::test]
async fn content_encoding_is_undone_before_the_file_is_checked() {
    let nar = nar_bytes(LENGTH);
    let server = FlakyOrigin::start().await;
    let origins = origins(&[&server]);
    for (name, layer) in [
        ("gzip", Compression::Gzip),
        ("br", Compression::Br),
        ("zstd", Compression::Zstd),
        ("Identity", Compression::None),
    ] {
        for compression in [Compression::None, Compression::Xz] {
            let file = compress(&compression, &nar).await;
            let sent = File::new(compress(&layer, &file).await).header("Content-Encoding", name);
            server.on(NAR, [Act::Serve(sent)]);
            let (bytes, error) = fetch(&origins, &narinfo(&nar, compression.clone(), &file)).await;
            assert!(error.is_none() && bytes == nar, "{name} over {compression}: {error:?}");
        }
        let narinfo = narinfo(&nar, Compression::Xz, b"file");
        let text = compress(&layer, narinfo.to_string().as_bytes()).await;
        server.on(NARINFO, [Act::Serve(File::new(text).header("Content-Encoding", name))]);
        assert_eq!(origins.narinfo(hash(), None, &[]).await.unwrap().narinfo, narinfo, "{name}");
    }
    assert!(server.heads().iter().all(|head| head.to_lowercase().contains("accept-encoding: identity\r\n")));
}

#[tokio::test]
async fn unknown_codecs_are_refused_by_name() {
    let nar = nar_bytes(1000);
    let server = FlakyOrigin::start().await;
    let origins = origins(&[&server]);
    let (_, fault_seen) = fault(&origins, &narinfo(&nar, Compression::Other("lzip".to_owned()), &nar)).await;
    assert!(matches!(fault_seen, Fault::Unsupported { what: "compression", name } if name == "lzip"));
    assert_eq!(server.requests(), 0);
    server.on(NAR, [Act::Serve(File::new(nar.clone()).header("Content-Encoding", "gzip, br"))]);
    let (_, fault_seen) = fault(&origins, &narinfo(&nar, Compression::None, &nar)).await;
    assert!(matches!(fault_seen, Fault::Unsupported { what: "Content-Encoding", .. }));
}

#[tokio::test]
async fn bomb_of_each_codec_is_stopped_at_nar_size() {
    let bomb = vec![0; 4 * 1024 * 1024];
    let server = FlakyOrigin::start().await;
    let origins = origins(&[&server]);
    for compression in CODECS {
        let file = compress(&compression, &bomb).await;
        let mut narinfo = narinfo(&bomb, compression.clone(), &file);
        narinfo.nar_size = 300_000;
        if compression == Compression::None {
            // Or the file would be refused for its announced length already.
            narinfo.file_size = None;
        }
        for encoded in [false, true] {
            let sent = match encoded {
                false => File::new(file.clone()),
                true => {
                    File::new(compress(&Compression::Gzip, &file).await).header("Content-Encoding", "gzip")
                }
            };
            server.on(NAR, [Act::Serve(sent)]);
            let (length, fault) = fault(&origins, &narinfo).await;
            assert!(
                matches!(fault, Fault::LongerThanNarSize { nar_size_bytes: 300_000 }) && length <= 300_000,
                "{compression}: {length} bytes, {fault}"
            );
        }
    }
}

/// A file that is no better than its declared window: the decoder must refuse before it allocates.
#[tokio::test]
async fn headers_that_ask_for_gigabytes_of_memory_are_refused() {
    let nar = b"hello".to_vec();
    let mut xz = compress(&Compression::Xz, &nar).await;
    // Block header at 12: size, flags, filter id 0x21, one byte of properties: a dictionary of 4 GiB.
    assert_eq!(xz[14..16], [0x21, 0x01]);
    xz[16] = 40;
    let crc = crc32(&xz[12..20]);
    xz[20..24].copy_from_slice(&crc.to_le_bytes());
    // Magic, no content size, window of 2^31, one last raw block of 5 bytes.
    let mut zstd = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, (5 << 3) | 1, 0, 0];
    zstd.extend(&nar);
    // Large-window marker, 30 bits.
    let br = vec![0x11, 0x1e, 0x00, 0x00];

    let server = FlakyOrigin::start().await;
    let origins = origins(&[&server]);
    for (compression, file) in [(Compression::Xz, xz), (Compression::Zstd, zstd), (Compression::Br, br)] {
        server.on(NAR, [Act::Serve(File::new(file.clone()))]);
        let (length, fault) = fault(&origins, &narinfo(&nar, compression.clone(), &file)).await;
        assert!(
            matches!(fault, Fault::Decode { .. }) && length == 0,
            "{compression}: {length} bytes, {fault}"
        );
        let text = fault.to_string();
        assert!(["emory", "window"].iter().any(|word| text.contains(word)), "{compression}: {text}");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[tokio::test]
async fn xz_of_the_highest_preset_fits_the_memory_limit() {
    let nar = nar_bytes(LENGTH);
    let mut file = Vec::new();
    let best = async_compression::Level::Precise(9);
    XzEncoder::with_quality(&nar[..], best).read_to_end(&mut file).await.unwrap();
    let server = FlakyOrigin::start().await;
    server.on(NAR, [Act::Serve(File::new(file.clone()))]);
    let (bytes, error) = fetch(&origins(&[&server]), &narinfo(&nar, Compression::Xz, &file)).await;
    assert!(error.is_none() && bytes == nar, "{error:?}");
}
