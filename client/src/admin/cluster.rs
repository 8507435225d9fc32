//! The cluster as such: its brokers, and where replicas lie.
//!
//! Assignments are changed by the cluster itself, from what it has recorded: a request that was accepted
//! goes on without its sender, and a repeated one changes nothing. So all of these are asked again until
//! the request time-out, lost answers included.

use std::time::Duration;

use headwater_proto::v1;
use headwater_proto::v1::cluster_client::ClusterClient;

use super::{Admin, PerPartition, PerTopic};
use crate::client::Request;
use crate::{ClientError, TopicPartition};

/// A broker passes a change on to the one that leads the metadata, which may hang: that takes longer than
/// an answer of its own.
const PASSED_ON: Duration = Duration::from_secs(4);

impl Admin {
    /// Brokers with versions, leaders, disks and lag.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn cluster_status(&self) -> Result<v1::ClusterStatusResponse, ClientError> {
        let request = self.client.request("show the status of", "the cluster");
        self.client
            .read_cluster(request, |mut cluster| async move {
                cluster.cluster_status(v1::ClusterStatusRequest {}).await
            })
            .await
    }

    /// Leaders and replicas of the topics' partitions (all, when none is named), and how far each lags.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn list_partitions(
        &self,
        topics: Vec<String>,
        unhealthy_only: bool,
    ) -> Result<Vec<v1::PartitionStatus>, ClientError> {
        let request = self.client.request("list", "partitions");
        let response = self
            .client
            .read_cluster(request, |mut cluster| {
                let request = v1::ListPartitionsRequest { topics: topics.clone(), unhealthy_only };
                async move { cluster.list_partitions(request).await }
            })
            .await?;
        Ok(response.partitions)
    }

    /// Puts the replicas of partitions on other brokers, the preferred leader first; an empty list gives
    /// up a move that is under way.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn reassign(
        &self,
        moves: Vec<(TopicPartition, Vec<i32>)>,
        validate_only: bool,
    ) -> Result<PerPartition<()>, ClientError> {
        let wire = |(partition, brokers): &(TopicPartition, Vec<i32>)| v1::Reassignment {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            brokers: brokers.clone(),
        };
        let partitions: Vec<_> = moves.iter().map(wire).collect();
        let request = self.of_cluster("move", "partitions");
        let response = self
            .client
            .ask_cluster(request, |mut cluster| {
                let request = v1::ReassignRequest { partitions: partitions.clone(), validate_only };
                async move { cluster.reassign(request).await }
            })
            .await?;
        Ok(per_partition("move", response.partitions))
    }

    /// Changes the number of replicas of every partition of topics.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn alter_replicas(
        &self,
        totals: Vec<(String, i32)>,
        validate_only: bool,
    ) -> Result<PerTopic<()>, ClientError> {
        const OPERATION: &str = "change the replicas of";
        let wire = |(topic, replicas): &(String, i32)| v1::AlterTopicReplicas {
            topic: topic.clone(),
            replicas: *replicas,
        };
        let topics: Vec<_> = totals.iter().map(wire).collect();
        let response = self
            .client
            .ask_cluster(self.of_cluster(OPERATION, "topics"), |mut cluster| {
                let request = v1::AlterReplicasRequest { topics: topics.clone(), validate_only };
                async move { cluster.alter_replicas(request).await }
            })
            .await?;
        let read = |result: v1::TopicResult| {
            let target = format!("topic {}", result.name);
            let outcome =
                result.error.map_or(Ok(()), |error| Err(ClientError::refused(OPERATION, target, &error)));
            (result.name, outcome)
        };
        Ok(response.topics.into_iter().map(read).collect())
    }

    /// Hands the leadership of partitions over, each to a broker or to its preferred replica.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn transfer_leaders(
        &self,
        transfers: Vec<(TopicPartition, Option<i32>)>,
    ) -> Result<PerPartition<()>, ClientError> {
        let wire = |(partition, to): &(TopicPartition, Option<i32>)| v1::LeaderTransfer {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            to: *to,
        };
        let partitions: Vec<_> = transfers.iter().map(wire).collect();
        let request = self.of_cluster("transfer the leaders of", "partitions");
        let response = self
            .client
            .ask_cluster(request, |mut cluster| {
                let request = v1::TransferLeaderRequest { partitions: partitions.clone(), timeout_ms: 0 };
                async move { cluster.transfer_leader(request).await }
            })
            .await?;
        Ok(per_partition("transfer the leader of", response.partitions))
    }

    /// Gives leaderships back to the preferred replicas; with `validate_only`, says which.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn balance_leaders(&self, validate_only: bool) -> Result<Vec<v1::BalancedLeader>, ClientError> {
        let request = self.of_cluster("balance", "leaders");
        let response = self
            .client
            .ask_cluster(request, |mut cluster| async move {
                cluster.balance_leaders(v1::BalanceLeadersRequest { validate_only }).await
            })
            .await?;
        Ok(response.partitions)
    }

    /// From now on the broker leads nothing and gets no new replicas; with `undo`, it takes part again.
    ///
    /// # Errors
    /// No broker answered, or the cluster refuses.
    pub async fn drain_node(&self, broker_id: i32, undo: bool) -> Result<v1::NodeResult, ClientError> {
        let target = format!("broker {broker_id}");
        let request = self.of_cluster(if undo { "end the drain of" } else { "drain" }, &target);
        self.node_change(request, |request| async move {
            self.client
                .ask_cluster(request, |mut cluster| async move {
                    cluster.drain_node(v1::DrainNodeRequest { broker_id, undo }).await
                })
                .await
        })
        .await
    }

    /// Moves all replicas of one broker to another one.
    ///
    /// # Errors
    /// As [`Admin::drain_node`].
    pub async fn replace_node(
        &self,
        broker_id: i32,
        with_broker_id: i32,
        validate_only: bool,
    ) -> Result<v1::NodeResult, ClientError> {
        let target = format!("broker {broker_id}");
        let request = self.of_cluster("replace", &target);
        let message = v1::ReplaceNodeRequest { broker_id, with_broker_id, validate_only };
        self.node_change(request, |request| async move {
            self.client
                .ask_cluster(request, |mut cluster| async move { cluster.replace_node(message).await })
                .await
        })
        .await
    }

    /// Moves all replicas of a broker to the others, then forgets it.
    ///
    /// # Errors
    /// As [`Admin::drain_node`].
    pub async fn remove_node(
        &self,
        broker_id: i32,
        validate_only: bool,
    ) -> Result<v1::NodeResult, ClientError> {
        let target = format!("broker {broker_id}");
        let request = self.of_cluster("remove", &target);
        let message = v1::RemoveNodeRequest { broker_id, validate_only };
        self.node_change(request, |request| async move {
            self.client
                .ask_cluster(request, |mut cluster| async move { cluster.remove_node(message).await })
                .await
        })
        .await
    }

    /// What would be lost if a partition went on from one surviving replica alone; with `accept_loss`,
    /// it does. `survivor` names its broker; by default the one that holds most. Once a broker may have
    /// done it, it is not asked again.
    ///
    /// # Errors
    /// No broker answered, the cluster refuses, or [`ClientError::OutcomeUnknown`].
    pub async fn recover_partition(
        &self,
        partition: &TopicPartition,
        survivor: Option<i32>,
        accept_loss: bool,
    ) -> Result<v1::RecoverPartitionResponse, ClientError> {
        let target = format!("partition {}/{}", partition.topic, partition.partition);
        let message = v1::RecoverPartitionRequest {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            accept_loss,
            survivor,
        };
        let call = |mut cluster: ClusterClient<_>| {
            let message = message.clone();
            async move { cluster.recover_partition(message).await }
        };
        let (client, call) = (&self.client, &call);
        let request = Request { changes: accept_loss, ..client.request("recover", &target) };
        client
            .until_led(request, |request| async move {
                let response = match accept_loss {
                    true => client.ask_cluster(request, call).await?,
                    false => client.read_cluster(request, call).await?,
                };
                match &response.error {
                    Some(error) => Err(ClientError::refused(request.operation, request.target, error)),
                    None => Ok(response),
                }
            })
            .await
    }

    fn of_cluster<'a>(&self, operation: &'static str, target: &'a str) -> Request<'a> {
        let request = self.client.request(operation, target);
        Request { patience: PASSED_ON.min(request.timeout / 3), ..request }
    }

    async fn node_change<'a, F>(
        &self,
        request: Request<'a>,
        ask: impl Fn(Request<'a>) -> F,
    ) -> Result<v1::NodeResult, ClientError>
    where
        F: Future<Output = Result<v1::NodeResult, ClientError>>,
    {
        let ask = &ask;
        self.client
            .until_led(request, |request| async move {
                let result = ask(request).await?;
                match &result.error {
                    Some(error) => Err(ClientError::refused(request.operation, request.target, error)),
                    None => Ok(result),
                }
            })
            .await
    }
}

fn per_partition(operation: &'static str, results: Vec<v1::PartitionResult>) -> PerPartition<()> {
    let read = |result: v1::PartitionResult| {
        let partition = TopicPartition::new(result.topic.as_str(), result.partition);
        let target = format!("partition {}/{}", partition.topic, partition.partition);
        let outcome =
            result.error.map_or(Ok(()), |error| Err(ClientError::refused(operation, target, &error)));
        (partition, outcome)
    };
    results.into_iter().map(read).collect()
}
