//! The gRPC services: translation between the wire and the node, and nothing else.

mod admin;
mod cluster;
mod convert;
mod data;
mod frames;
mod metadata;
mod produce;
mod records;

use std::sync::Arc;

use headwater_proto::v1::admin_server::AdminServer;
use headwater_proto::v1::cluster_server::ClusterServer;
use headwater_proto::v1::data_server::DataServer;
use tonic::service::Routes;

use crate::node::Node;

/// All services of the node.
pub fn routes(node: &Arc<Node>) -> Routes {
    let message_bytes_max = node.config().requests.message_bytes_max;
    let admin = AdminServer::new(admin::AdminApi::new(Arc::clone(node)));
    let data = DataServer::new(data::DataApi::new(Arc::clone(node)));
    let cluster = ClusterServer::new(cluster::ClusterApi::new(Arc::clone(node)));
    let data = data.max_decoding_message_size(message_bytes_max);
    Routes::new(admin.max_decoding_message_size(message_bytes_max))
        .add_service(cluster.max_decoding_message_size(message_bytes_max))
        .add_service(records::MappedRecords::new(Arc::clone(node), data))
}
