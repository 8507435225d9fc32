//! What became of one request at each broker that was asked, for the error that ends the search.

use std::collections::BTreeMap;

use crate::ClientError;
use crate::client::Request;
use crate::connection::Fault;

/// The last fault of each broker, by its address.
#[derive(Debug, Default)]
pub struct Faults(BTreeMap<String, Fault>);

impl Faults {
    pub fn add(&mut self, address: &str, fault: Fault) {
        self.0.insert(address.to_owned(), fault);
    }

    /// As [`Faults::add`], of an attempt that had no time left: what is known already says more.
    pub fn add_last(&mut self, address: &str, fault: Fault) {
        if self.0.is_empty() {
            self.add(address, fault);
        }
    }

    /// The end of a request that changes nothing: whether anybody can have seen it, and who said what.
    pub fn into_error(self, request: Request<'_>) -> ClientError {
        let (operation, target) = (request.operation, request.target.to_owned());
        if self.0.values().all(|fault| matches!(fault, Fault::NeverSent(_))) {
            let brokers = self.0.keys().cloned().collect::<Vec<_>>().join(", ");
            let mut reasons: Vec<String> = self.0.values().map(Fault::reason).collect();
            reasons.dedup();
            return ClientError::Unreachable { operation, target, brokers, reason: reasons.join("; ") };
        }
        let said = self.0.iter().map(|(address, fault)| format!("{address}: {}", fault.reason()));
        let reason = said.collect::<Vec<_>>().join("; ");
        ClientError::TimedOut { operation, target, after: request.timeout, reason }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn request() -> Request<'static> {
        Request { operation: "get", target: "a", changes: false, timeout: SECOND, patience: SECOND }
    }

    #[test]
    fn one_that_may_have_seen_it_is_not_hidden_by_those_that_cannot_be_reached() {
        let mut faults = Faults::default();
        faults.add("h:1", Fault::Lost("no answer".into()));
        faults.add("h:2", Fault::NeverSent("refused".into()));
        faults.add_last("h:1", Fault::NeverSent("cut short".into()));
        let said = faults.into_error(request()).to_string();
        assert_eq!(said, "get a: no answer within 1000 ms (h:1: no answer; h:2: refused)");
    }

    #[test]
    fn nobody_can_be_reached() {
        let mut faults = Faults::default();
        faults.add("h:1", Fault::NeverSent("refused".into()));
        faults.add("h:2", Fault::NeverSent("refused".into()));
        let said = faults.into_error(request()).to_string();
        assert!(said.starts_with("get a: no broker answers at h:1, h:2 (refused); "), "{said}");
    }
}
