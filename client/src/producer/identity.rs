//! Producer ids: what a broker knows a producer by.

use std::time::Duration;

use headwater_proto::v1;

use super::sealed::Identity;
use crate::client::Request;
use crate::{Client, ClientError};

/// A producer id of this client's own, from any broker, within the request time-out and `within`.
pub async fn init_producer_id(client: &Client, within: Duration) -> Result<Identity, ClientError> {
    let request = client.request("get", "a producer id");
    let request = Request { timeout: request.timeout.min(within), ..request };
    client.until_led(request, |request| ask(client, request)).await
}

/// Asking twice is harmless: an id that nobody uses costs nothing.
async fn ask(client: &Client, request: Request<'_>) -> Result<Identity, ClientError> {
    let response = client
        .ask_data(
            request,
            |mut data| async move { data.init_producer_id(v1::InitProducerIdRequest {}).await },
        )
        .await?;
    if let Some(error) = &response.error {
        return Err(ClientError::refused(request.operation, request.target, error));
    }
    let unusable = |_| ClientError::Protocol {
        operation: request.operation,
        target: request.target.to_owned(),
        reason: format!("producer epoch {} is not a 16-bit number", response.producer_epoch),
    };
    let epoch = i16::try_from(response.producer_epoch).map_err(unusable)?;
    Ok(Identity { id: response.producer_id, epoch })
}
