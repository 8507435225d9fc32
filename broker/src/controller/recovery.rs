//! A forced recovery that the metadata has decided, carried out on the copy that survived.
//!
//! Invariant: it is carried out once for each decision, however often the broker crashes meanwhile: carried out again
//! later, it would throw out the voters that joined since.

use std::sync::Arc;

use bytes::Bytes;
use headwater_consensus::{Peer, creation, recovery};
use headwater_core::metadata::Replica;
use headwater_proto::types::{GroupId, Term};
use headwater_storage::data_dir::DataDir;

use crate::error::RequestError;

/// Kind of a group's fact: the term above which it was recovered last, `u64`.
const RECOVERED_ABOVE: u8 = 48;

/// Makes the replica the only voter of its group, unless it was for this decision. It must not be running.
pub async fn make_sole_voter(
    data_dir: &Arc<DataDir>,
    group: GroupId,
    own: Replica,
    above: Term,
) -> Result<(), RequestError> {
    let decided = Bytes::copy_from_slice(&above.get().to_be_bytes());
    let is_done = data_dir.get(Some(group), RECOVERED_ABOVE).as_ref() == Some(&decided);
    // A group that goes on with an empty copy is initialized like any other.
    let has_copy = creation(data_dir, group)?.is_some_and(|record| record.replica_id == own.id);
    if is_done {
        return Ok(());
    }
    if has_copy {
        let peer = Peer { broker_id: own.broker, incarnation: own.incarnation };
        recovery::make_sole_voter(data_dir, group, own.id, peer, above).await?;
    }
    let noted = data_dir.put(Some(group), RECOVERED_ABOVE, decided);
    noted.await.map_err(|error| RequestError::Storage(error.to_string()))
}
