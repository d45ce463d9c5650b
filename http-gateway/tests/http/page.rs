//! The status page, as a browser asks for it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{PATIENCE, Server, get, stocked};

/// Pages that are kept up to date at once.
const MAX_WATCHERS: usize = 32;

/// What the page asks for, by its attributes.
fn files(page: &str) -> Vec<String> {
    let after = |attribute: &'static str| page.split(attribute).skip(1);
    let quoted = after("href=\"").chain(after("src=\"")).filter_map(|rest| rest.split('"').next());
    quoted.filter(|file| file.starts_with("/page/")).map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn the_page_has_all_that_it_needs_and_may_use_nothing_else() {
    let server = Server::start(stocked().0).await;
    let page = server.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let files = files(page.text());
    assert_eq!(files, ["/page/page.css", "/page/page.js"]);
    for path in files.iter().map(String::as_str).chain(["/"]) {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        // The name of a namespace is no address.
        let text = answer.text().replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http:") && !text.contains("https:"), "{path} names nothing outside");
        for inline in ["<style", "style=", "onclick", "onload", "<script>", "innerHTML", "eval("] {
            assert!(!text.contains(inline), "{path} has {inline}, which the policy forbids");
        }
    }
}

/// Opens the events and reads to the end of the first one.
async fn open_events(server: &Server) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(server.gateway.local_addr()).await.unwrap();
    stream.write_all(get("/api/v1/status/events").as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("\n\n\r\n") && !text.contains("503") {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("in time").unwrap();
        assert!(read > 0, "it ended: {text}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    (stream, text)
}

#[tokio::test]
async fn the_first_event_is_the_status_at_once() {
    let server = Server::start(stocked().0).await;
    let (_stream, text) = open_events(&server).await;
    assert!(
        text.contains("content-type: text/event-stream") && text.contains("cache-control: no-store"),
        "{text}"
    );
    assert!(text.contains("data: {\"version\":\"1.2.3\","), "{text}");
}

#[tokio::test]
async fn no_more_pages_are_kept_up_to_date_than_the_bound_and_places_come_back() {
    let server = Server::start(stocked().0).await;
    let mut open = Vec::new();
    for _ in 0..MAX_WATCHERS {
        open.push(open_events(&server).await);
    }
    assert!(open.iter().all(|(_, text)| text.starts_with("HTTP/1.1 200")));
    let (_, refused) = open_events(&server).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    drop(open);
    // Noticed at the next event or by the closed connection.
    let mut again = open_events(&server).await.1;
    for _ in 0..100 {
        if again.starts_with("HTTP/1.1 200") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        again = open_events(&server).await.1;
    }
    assert!(again.starts_with("HTTP/1.1 200"), "{again}");
}

#[tokio::test]
async fn a_reload_is_for_programs_of_this_machine_and_its_faults_are_told() {
    let server = Server::start(stocked().0).await;
    let ask = async |headers: &str| {
        let mut stream = TcpStream::connect(server.gateway.local_addr()).await.expect("a connection");
        let request = format!(
            "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
        answer
    };
    let answer = ask("").await;
    assert!(
        answer.starts_with("HTTP/1.1 422") && answer.contains("does not read its configuration"),
        "{answer}"
    );
    assert!(ask("Origin: http://127.0.0.1\r\n").await.starts_with("HTTP/1.1 403"));
    assert_eq!(server.get("/api/v1/reload").await.status, 405);
}
