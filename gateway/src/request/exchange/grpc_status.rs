//! The status with which a gRPC call has ended, for the log, a metric, and the judgement on its endpoint.

use super::{Exchange, Rare, flags};
use crate::request::grpc;

impl Exchange {
    /// The gateway's own response has the form of gRPC, with this status.
    pub(in crate::request) fn refused_call(&self, status: Option<u8>) {
        self.grpc_status.set(status);
    }

    /// The call ends with this status, in the head of its response.
    pub(in crate::request) fn call_ended(&self, status: u8) {
        self.grpc_status.set(Some(status));
        if status != 0 {
            let service = self.route.as_ref().map_or("(none)", |route| route.cluster_name());
            let metrics = &self.connection.worker.metrics;
            metrics.count(Rare::CallFailed, service, itoa::Buffer::new().format(status));
        }
    }

    /// The call ends with this status, in the trailers of its response. What was learned from the head was not the whole truth.
    pub(in crate::request) fn call_ended_late(&mut self, status: u8) {
        self.call_ended(status);
        if let Some(taken) = &mut self.taken {
            taken.witness.ends_with(grpc::http_status(status), &self.connection.worker);
        }
    }

    /// The client's deadline has passed while the service still responds. That proves nothing about its endpoint, since the client chose
    /// the time: what the request has taken is given back without a word.
    pub(in crate::request) fn call_is_late(&mut self) {
        self.broke(flags::CALL_DEADLINE);
        self.call_ended(grpc::DEADLINE_EXCEEDED);
        self.taken = None;
    }
}
