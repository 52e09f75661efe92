//! etcd's API by its descriptors: every method by its name, every field of every message as text.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use std::time::Duration;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

/// Nothing of a script takes more than the three seconds in which a lease ends; who waits longer waits in vain.
const PATIENCE: Duration = Duration::from_secs(10);

/// Deletes of 40 records with what was before are more than tonic's default of 4 MiB allows.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the `rpc` crate is generated from.
#[must_use]
pub fn pool() -> DescriptorPool {
    DescriptorPool::decode(rpc::DESCRIPTORS).expect("the generated descriptors are complete")
}

/// The method that `Service/Method` names.
#[must_use]
pub fn method(pool: &DescriptorPool, name: &str) -> Option<MethodDescriptor> {
    let (service, method) = name.split_once('/')?;
    let service = pool.services().find(|known| known.name() == service)?;
    service.methods().find(|known| known.name() == method)
}

fn path(method: &MethodDescriptor) -> PathAndQuery {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    path.parse().expect("names of the protocol make a path")
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Silence {
    /// An error is the answer.
    Refused(Status),
    /// The stream is over.
    Ended,
    /// Nothing came.
    Nothing,
}

/// A call with one answer, or the first of a stream's.
///
/// # Errors
/// [`Silence`].
pub async fn call(
    channel: &Channel,
    method: &MethodDescriptor,
    request: &DynamicMessage,
) -> Result<DynamicMessage, Silence> {
    let mut stream = Stream::open(channel, method, request).await;
    stream.next().await
}

/// An open call. Any call is one: what is sent and answered once is a stream of one on the wire.
#[derive(Debug)]
pub struct Stream {
    /// None where the method takes one request only.
    requests: Option<mpsc::Sender<Bytes>>,
    /// Or why there are none; told once.
    answers: Result<Streaming<Bytes>, Option<Silence>>,
    output: MessageDescriptor,
}

impl Stream {
    /// Begins a call with its first request: etcd says nothing before it has one.
    pub async fn open(channel: &Channel, method: &MethodDescriptor, first: &DynamicMessage) -> Self {
        let (requests, receiver) = mpsc::channel(8);
        requests.try_send(first.encode_to_vec().into()).expect("there is room for one");
        let requests = method.is_client_streaming().then_some(requests);
        let asked = async {
            let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            grpc.streaming(Request::new(ReceiverStream::new(receiver)), path(method), Raw).await
        };
        let answers = match timeout(PATIENCE, asked).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Some(Silence::Refused(status))),
            Err(_) => Err(Some(Silence::Nothing)),
        };
        Self { requests, answers, output: method.output() }
    }

    /// Sends one more request.
    pub async fn send(&self, request: &DynamicMessage) {
        let requests = self.requests.as_ref().expect("the method takes more than one request");
        // A stream that has ended says so when it is read.
        requests.send(request.encode_to_vec().into()).await.ok();
    }

    /// The next answer.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn next(&mut self) -> Result<DynamicMessage, Silence> {
        let answers = match &mut self.answers {
            Ok(answers) => answers,
            Err(why) => return Err(why.take().unwrap_or(Silence::Ended)),
        };
        let bytes = match timeout(PATIENCE, answers.message()).await {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => return Err(Silence::Ended),
            Ok(Err(status)) => return Err(Silence::Refused(status)),
            Err(_) => return Err(Silence::Nothing),
        };
        Ok(DynamicMessage::decode(self.output.clone(), bytes).expect("an answer of its method's type"))
    }
}

/// Messages as the bytes they are: their types are known at run time only.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
