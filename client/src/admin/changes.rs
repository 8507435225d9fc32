//! Changes of topics: each is repeated only where it is certain that nothing was done.

use std::collections::BTreeMap;

use headwater_proto::v1;
use headwater_proto::v1::admin_client::AdminClient;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::backoff::Attempts;
use crate::client::Request;
use crate::{Client, ClientError};

/// Asks any broker for changes of the named topics, and again for those that the cluster had no leader
/// for at the moment. Gives the answers by topic.
pub async fn change_topics<I, F>(
    client: &Client,
    request: Request<'_>,
    changes: Vec<(String, I)>,
    call: impl Fn(AdminClient<Channel>, Vec<I>) -> F,
) -> Result<BTreeMap<String, v1::TopicResult>, ClientError>
where
    I: Clone,
    F: Future<Output = Result<Response<v1::TopicResults>, Status>>,
{
    let deadline = Instant::now() + request.timeout;
    let mut attempts = Attempts::default();
    let mut results = BTreeMap::new();
    let mut left = changes;
    loop {
        let wanted: Vec<I> = left.iter().map(|(_, change)| change.clone()).collect();
        let response = client.ask_admin(request, |admin| call(admin, wanted.clone())).await?;
        results.extend(response.topics.into_iter().map(|result| (result.name.clone(), result)));
        let leaderless = |(name, _): &(String, I)| {
            let error = results.get(name).and_then(|result| result.error.as_ref());
            error.is_some_and(|error| ClientError::refused(request.operation, "", error).is_leaderless())
        };
        left.retain(leaderless);
        let pause = attempts.searched(&client.config().retry, client.entropy());
        if left.is_empty() || Instant::now() + pause >= deadline {
            return Ok(results);
        }
        tokio::time::sleep(pause).await;
    }
}
