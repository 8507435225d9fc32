//! Taking brokers out of service, for a while or for good.

use std::sync::Arc;

use headwater_core::metadata::{BrokerState, Command};
use headwater_core::placement::{Pool, leave, replace};
use headwater_proto::types::{BrokerId, GroupId};

use super::{known_broker, name_of};
use crate::error::RequestError;
use crate::node::Node;

/// A broker that drains, or does not any more.
#[derive(Debug)]
pub struct Drained {
    /// Partitions that it leads at the moment.
    pub leads: usize,
}

/// A broker whose replicas go elsewhere.
#[derive(Debug)]
pub struct Moved {
    pub partitions: usize,
}

impl Node {
    /// From now on the broker leads nothing and gets nothing new; or, undone, is as any other.
    ///
    /// # Errors
    /// There is no such broker, or it is being removed.
    pub async fn drain_broker(self: &Arc<Self>, broker: i32, undo: bool) -> Result<Drained, RequestError> {
        let id = known_broker(self, broker).await?;
        let state = if undo { BrokerState::Active } else { BrokerState::Draining };
        self.set_state(id, state).await?;
        let leads = self.cluster().led().into_values().filter(|leader| leader.broker == id).count();
        Ok(Drained { leads })
    }

    /// Moves everything from one broker to another one, and then removes the first.
    ///
    /// # Errors
    /// There is no such broker, or a partition finds no other place.
    pub async fn replace_broker(
        self: &Arc<Self>,
        broker: i32,
        with: i32,
        validate_only: bool,
    ) -> Result<Moved, RequestError> {
        let (old, new) = (known_broker(self, broker).await?, known_broker(self, with).await?);
        if old == new {
            return Err(RequestError::Invalid("a broker cannot take its own place".to_owned()));
        }
        self.check_new_home(new)?;
        let (moves, stuck) = self.controller().with_state(|state| {
            let mut pool = Pool::of(state, |id| self.cluster().alive(id));
            replace(state, &mut pool, old, new)
        });
        self.check_none_stuck(old, &stuck)?;
        let partitions = self.make_all(moves, validate_only).await?;
        if !validate_only {
            self.set_state(old, BrokerState::Leaving).await?;
        }
        Ok(Moved { partitions })
    }

    /// Moves everything from a broker to the others, and then removes it.
    ///
    /// # Errors
    /// There is no such broker, or the others are too few for what it holds.
    pub async fn remove_broker(
        self: &Arc<Self>,
        broker: i32,
        validate_only: bool,
    ) -> Result<Moved, RequestError> {
        let id = known_broker(self, broker).await?;
        let (moves, stuck) = self.controller().with_state(|state| {
            let mut pool = Pool::of(state, |id| self.cluster().alive(id));
            pool.set_state(id, BrokerState::Leaving);
            leave(state, &mut pool)
        });
        self.check_none_stuck(id, &stuck)?;
        if !validate_only {
            // The moves themselves are the steward's: it makes them as brokers can bear them.
            self.set_state(id, BrokerState::Leaving).await?;
        }
        Ok(Moved { partitions: moves.len() })
    }

    async fn set_state(&self, id: BrokerId, state: BrokerState) -> Result<(), RequestError> {
        self.controller().submit(Command::SetBrokerState { id, state }).await?;
        tracing::info!(broker = %id, state = state.name(), "a broker's state was set");
        Ok(())
    }

    fn check_new_home(&self, id: BrokerId) -> Result<(), RequestError> {
        let active = self
            .controller()
            .with_state(|state| state.broker(id).is_some_and(|broker| broker.state == BrokerState::Active));
        if active && self.cluster().alive(id) {
            return Ok(());
        }
        Err(RequestError::Invalid(format!("broker {id} must be alive and active to take replicas")))
    }

    fn check_none_stuck(&self, id: BrokerId, stuck: &[GroupId]) -> Result<(), RequestError> {
        let Some(first) = stuck.first() else { return Ok(()) };
        let (topic, partition) = name_of(self, *first);
        let more = match stuck.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        Err(RequestError::NotEnoughBrokers(format!(
            "no other broker can take {topic}/{partition}{more} from broker {id}: add a broker, or lower the number \
             of replicas"
        )))
    }
}
