//! The method's row, before anything of the request is read.

use super::Doors;
use crate::authz::{Served, row};
use futures::future::{Either, Ready, ready};
use std::task::{Context, Poll};
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
};
use tower::Layer;

/// Lets a request through to the services when its method's row allows its sender.
#[derive(Debug, Clone)]
pub(super) struct DoormanLayer(pub(super) Doors);

impl<S> Layer<S> for DoormanLayer {
    type Service = Doorman<S>;
    fn layer(&self, inner: S) -> Doorman<S> {
        Doorman { doors: self.0.clone(), inner }
    }
}

/// See [`DoormanLayer`].
#[derive(Debug, Clone)]
pub(super) struct Doorman<S> {
    doors: Doors,
    inner: S,
}

impl<S, B> Service<http::Request<B>> for Doorman<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        match self.doors.admit(&request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

impl Doors {
    fn admit<B>(&self, request: &http::Request<B>) -> Result<(), Status> {
        let method = request.uri().path();
        // The ranges come later, by whoever reads the message.
        self.check(request.extensions(), method, &[])?;
        match row(method).map(|row| row.served) {
            Some(Served::Yes) => Ok(()),
            Some(Served::Not(why)) => Err(Status::unimplemented(format!("{method} is not served: {why}"))),
            // Etcd's words when it has no users; ours are certificates.
            Some(Served::NoAuth) => {
                Err(Status::failed_precondition("etcdserver: authentication is not enabled"))
            }
            None => Err(Status::unimplemented(format!("{method} is not served"))),
        }
    }
}
