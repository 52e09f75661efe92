//! The part of the agent that reads what a container runtime answers: apart, so that tests can hand it any bytes.

pub mod cri;
