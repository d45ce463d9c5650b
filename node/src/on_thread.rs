//! Streams whose items take a processor to make, such as those of a codec.

use std::io;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};

/// A stream that a thread of the blocking pool drives. xz yields some 60 MB/s: one chunk would keep an async worker from
/// its other work for milliseconds, over and over, and a few such streams at once would take them all. The pool's
/// threads are scheduled fairly by the system instead.
///
/// The thread ends behind an error, and as soon as this is dropped.
pub(crate) struct OnThread<T, E> {
    items: mpsc::Receiver<Result<T, E>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static, E: Send + 'static> OnThread<T, E> {
    /// The thread is at most `ahead` items ahead of whoever takes them.
    pub(crate) fn new(stream: impl Stream<Item = Result<T, E>> + Send + 'static, ahead: usize) -> Self {
        let (sender, items) = mpsc::channel(ahead);
        let runtime = Handle::current();
        let thread = tokio::task::spawn_blocking(move || runtime.block_on(drive(stream, sender)));
        Self { items, thread: Some(thread) }
    }

    /// The next item. `died` words the error of a thread that ended without the stream's end. Safe to cancel.
    pub(crate) async fn next(&mut self, died: impl FnOnce(JoinError) -> E) -> Option<Result<T, E>> {
        if let Some(item) = self.items.recv().await {
            return Some(item);
        }
        let outcome = self.thread.as_mut()?.await;
        self.thread = None;
        outcome.err().map(|error| Err(died(error)))
    }

    /// All items.
    pub(crate) fn into_stream(
        self,
        died: impl Fn(JoinError) -> E + Clone,
    ) -> impl Stream<Item = Result<T, E>> {
        stream::unfold((self, died), |(mut items, died)| async move {
            let item = items.next(died.clone()).await?;
            Some((item, (items, died)))
        })
    }
}

async fn drive<T, E>(stream: impl Stream<Item = Result<T, E>>, items: mpsc::Sender<Result<T, E>>) {
    let driving = async {
        let mut stream = pin!(stream);
        while let Some(item) = stream.next().await {
            let failed = item.is_err();
            if items.send(item).await.is_err() || failed {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = items.closed() => {}
        () = driving => {}
    }
}

/// The next `length` bytes; fewer at the end only.
pub(crate) async fn read_chunk(reader: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Bytes> {
    let mut chunk = BytesMut::with_capacity(length);
    let mut reader = reader.take(length as u64);
    while reader.read_buf(&mut chunk).await? > 0 && chunk.len() < length {}
    Ok(chunk.freeze())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn worded(error: JoinError) -> String {
        if error.is_panic() { "it died".to_owned() } else { error.to_string() }
    }

    #[tokio::test]
    async fn items_come_in_order_up_to_the_first_error() {
        let made = stream::iter([Ok(1), Ok(2), Err("no".to_owned()), Ok(4)]);
        let items: Vec<_> = OnThread::new(made, 1).into_stream(worded).collect().await;
        assert_eq!(items, [Ok(1), Ok(2), Err("no".to_owned())]);
    }

    #[tokio::test]
    async fn a_thread_that_dies_is_an_error_and_no_end() {
        let made = stream::iter([1, 2]).map(|item| if item == 1 { Ok(item) } else { panic!("on purpose") });
        let items: Vec<_> = OnThread::new(made, 4).into_stream(worded).collect().await;
        assert_eq!(items, [Ok(1), Err("it died".to_owned())]);
    }

    #[tokio::test]
    async fn a_thread_ends_when_nobody_takes_its_items_any_more() {
        let held = Arc::new(());
        let holder = Arc::clone(&held);
        let made = stream::repeat(()).map(move |()| Ok::<_, String>(Arc::clone(&holder)));
        let mut items = OnThread::new(made, 2);
        assert!(items.next(worded).await.is_some());
        drop(items);
        let let_go = async {
            while Arc::strong_count(&held) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), let_go).await.expect("the stream is dropped");
    }

    #[tokio::test]
    async fn chunks_are_whole_but_for_the_last() {
        let parts = [1_usize, 5, 4, 3].map(|length| Ok::<_, io::Error>(Bytes::from(vec![7; length])));
        let mut reader = tokio_util::io::StreamReader::new(stream::iter(parts));
        for expected in [5, 5, 3, 0] {
            assert_eq!(read_chunk(&mut reader, 5).await.unwrap().len(), expected);
        }
    }
}
