//! What every process of the mesh does.

pub mod spiffe;
pub mod tls;
