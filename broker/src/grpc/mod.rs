//! The gRPC services.

use std::sync::Arc;

use tonic::service::Routes;

use crate::node::Node;

/// All services of the node.
pub fn routes(_node: &Arc<Node>) -> Routes {
    Routes::default()
}
