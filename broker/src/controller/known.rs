//! Where the other brokers were when this one last knew: so that a whole cluster can start with nothing but its disks.
//!
//! The metadata knows the addresses, but a replica that starts has applied none of its log yet, and to learn what of
//! it is committed it has to reach the others. Invariant: only a hint; who answers at an address proves who it is.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use headwater_proto::types::BrokerId;
use headwater_storage::data_dir::DataDir;

/// Kind of the node's fact: version `u16`, then of each broker its id `i32`, a length `u16` and that much address.
const KNOWN_BROKERS: u8 = 65;
const VERSION: u16 = 0;

/// Peer addresses by broker, as they were journalled last.
#[derive(Debug, Default)]
pub struct KnownBrokers(Mutex<BTreeMap<BrokerId, String>>);

impl KnownBrokers {
    /// As the directory has them; none, where they cannot be read.
    pub fn read(data_dir: &DataDir) -> Self {
        let known = data_dir.get(None, KNOWN_BROKERS).and_then(decode);
        Self(Mutex::new(known.unwrap_or_default()))
    }

    pub fn addresses(&self) -> BTreeMap<BrokerId, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Journals them where they changed.
    pub async fn note(&self, data_dir: &DataDir, addresses: BTreeMap<BrokerId, String>) -> io::Result<()> {
        if self.addresses() == addresses {
            return Ok(());
        }
        data_dir.put(None, KNOWN_BROKERS, encode(&addresses)).await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
        Ok(())
    }
}

fn encode(addresses: &BTreeMap<BrokerId, String>) -> Bytes {
    let mut fact = BytesMut::new();
    fact.put_u16(VERSION);
    for (id, address) in addresses {
        // No address is longer than a name of 253 bytes and a port.
        let Ok(length) = u16::try_from(address.len()) else { continue };
        fact.put_i32(id.get());
        fact.put_u16(length);
        fact.put_slice(address.as_bytes());
    }
    fact.freeze()
}

fn decode(mut fact: Bytes) -> Option<BTreeMap<BrokerId, String>> {
    if fact.try_get_u16().ok()? != VERSION {
        return None;
    }
    let mut addresses = BTreeMap::new();
    while fact.has_remaining() {
        let id = BrokerId(fact.try_get_i32().ok()?);
        let length = usize::from(fact.try_get_u16().ok()?);
        if fact.remaining() < length {
            return None;
        }
        let address = String::from_utf8(fact.split_to(length).to_vec()).ok()?;
        addresses.insert(id, address);
    }
    Some(addresses)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_survive_their_encoding(known in prop::collection::btree_map(0..9_i32, ".{0,30}", 0..5)) {
            let known: BTreeMap<_, _> = known.into_iter().map(|(id, address)| (BrokerId(id), address)).collect();
            prop_assert_eq!(decode(encode(&known)), Some(known));
        }

        #[test]
        fn no_bytes_break_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(bytes.into());
        }
    }
}
