//! One pipe: a gRPC stream in each direction, read and written as bytes.

use super::{CHUNK_BYTES_MAX, CHUNKS_MAX};
use bytes::Bytes;
use futures::{Stream, StreamExt, ready, stream::BoxStream};
use rpc::mesh::pipe::v1::Chunk;
use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{io::StreamReader, sync::PollSender};
use tonic::Status;

/// One end of a pipe. Dropping it ends both directions.
pub struct Pipe {
    input: StreamReader<BoxStream<'static, io::Result<Bytes>>, Bytes>,
    output: PollSender<Bytes>,
    /// What lives as long as the pipe: its place among the many, the connection that carries it.
    held: Vec<Box<dyn Send>>,
}

/// What is written into a pipe, on its way to the stream that carries it.
#[derive(Debug)]
pub struct Output(PollSender<Bytes>);

/// The chunks that are written into a pipe.
pub fn output() -> (Output, ReceiverStream<Bytes>) {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    (Output(PollSender::new(sender)), ReceiverStream::new(receiver))
}

/// Bytes as a message.
pub fn chunk(bytes: Bytes) -> Chunk {
    Chunk { bytes, to: String::new() }
}

impl Pipe {
    /// A pipe of what comes in and where it goes out.
    pub fn new(input: impl Stream<Item = Result<Chunk, Status>> + Send + 'static, output: Output) -> Self {
        let bytes = input.map(|chunk| match chunk {
            Ok(chunk) => Ok(chunk.bytes),
            Err(status) => Err(io::Error::other(format!("the pipe has broken: {}", status.message()))),
        });
        Self { input: StreamReader::new(bytes.boxed()), output: output.0, held: Vec::new() }
    }

    /// Keeps something for as long as the pipe.
    #[must_use]
    pub fn holding(mut self, what: impl Send + 'static) -> Self {
        self.held.push(Box::new(what));
        self
    }

    /// Whether whoever carries it has gone.
    pub(super) fn is_dead(&self) -> bool {
        self.output.get_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// Waits for the first bytes, and leaves them to be read; false when it ended without any.
    ///
    /// # Errors
    /// When the stream that carries it breaks.
    pub async fn begun(&mut self) -> io::Result<bool> {
        Ok(!self.input.fill_buf().await?.is_empty())
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("held", &self.held.len()).finish_non_exhaustive()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the pipe has ended");
        ready!(self.output.poll_reserve(cx)).map_err(gone)?;
        let some = &buf[..buf.len().min(CHUNK_BYTES_MAX)];
        self.output.send_item(Bytes::copy_from_slice(some)).map_err(gone)?;
        Poll::Ready(Ok(some.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What waits is on its way: nothing is kept back to fill a chunk.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.close();
        Poll::Ready(Ok(()))
    }
}
