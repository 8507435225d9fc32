//! Brokers as commands name them: by numbers that the cluster must know.

use headwater_client::Admin;

use crate::exit::{Exit, Failure};

/// A broker's id.
pub fn parse_broker(text: &str) -> Result<i32, String> {
    let id = text.parse::<i32>().ok().filter(|id| *id >= 0);
    id.ok_or_else(|| "a broker id is a number, such as 2; `streamctl cluster status` shows them".to_owned())
}

/// Tells which of these brokers the cluster does not have.
pub async fn must_know(admin: &Admin, ids: &[i32]) -> Result<(), Failure> {
    if ids.is_empty() {
        return Ok(());
    }
    let cluster = admin.cluster().await?;
    match ids.iter().find(|id| !cluster.brokers.iter().any(|broker| broker.id == **id)) {
        Some(id) => Err(no_broker(*id)),
        None => Ok(()),
    }
}

pub fn no_broker(id: i32) -> Failure {
    Failure::new(Exit::NotFound, format!("the cluster has no broker {id}"))
        .hint("`streamctl cluster status` shows those that it has")
}

/// Tells which broker a list names more than once.
pub fn must_differ(ids: &[i32]) -> Result<(), Failure> {
    let twice = ids.iter().enumerate().find(|(at, id)| ids.iter().take(*at).any(|before| before == *id));
    match twice {
        Some((_, id)) => Err(Failure::usage(format!("broker {id} is named twice"))
            .hint("a broker has one replica of a partition: name each once")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_broker_is_a_number() {
        assert_eq!(parse_broker("12"), Ok(12));
        for wrong in ["abc", "-1", "", "1.5", "9999999999"] {
            assert!(parse_broker(wrong).unwrap_err().contains("number"), "{wrong}");
        }
    }

    #[test]
    fn a_broker_that_is_named_twice_is_told() {
        assert!(must_differ(&[1, 2, 3]).is_ok());
        let failure = must_differ(&[1, 2, 1]).unwrap_err();
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Usage, "broker 1 is named twice"));
    }
}
